//! `cargo xtask laptop`: a command on the laptop, and the count of packets that tried to leave it.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;

use miette::{IntoDiagnostic as _, miette};
use tp_tests::{Laptop, Layout};

/// What to do on the laptop.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Print how many packets tried to leave the laptop for elsewhere than the API server.
    #[arg(long, conflicts_with = "command")]
    leaks: bool,
    /// Set that number to zero.
    #[arg(long, conflicts_with = "command")]
    reset_leaks: bool,
    /// The command and its arguments.
    #[arg(last = true, required_unless_present_any = ["leaks", "reset_leaks"])]
    command: Vec<OsString>,
}

pub(crate) fn run(arguments: &Arguments) -> miette::Result<()> {
    let laptop = Laptop::attach(Layout::from_env()).into_diagnostic()?;
    if arguments.leaks {
        println!("{}", laptop.leaks().into_diagnostic()?);
    }
    if arguments.reset_leaks {
        laptop.reset_leaks().into_diagnostic()?;
    }
    let Some((program, rest)) = arguments.command.split_first() else { return Ok(()) };
    // In place of this process: terminal, signals and exit code are the command's own.
    let error = laptop.command(program).into_diagnostic()?.args(rest).exec();
    let code = if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 };
    eprintln!("{:?}", miette!("{}: {error}", program.to_string_lossy()));
    std::process::exit(code)
}
