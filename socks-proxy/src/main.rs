//! tp-agent: see [`socks_proxy::agent`].

use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let Err(error) = socks_proxy::agent::run() else { return ExitCode::SUCCESS };
    let mut line = format!("tp-agent: error: {error}");
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        line.push_str(&format!(": {error}"));
        cause = error.source();
    }
    // With nobody on standard error the exit code has to do.
    drop(writeln!(std::io::stderr(), "{line}"));
    ExitCode::FAILURE
}
