//! `tp env`: prints a container's variables for other programs.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::sync::Arc;

use crate::child::Signals;
use crate::kube::origin;
use crate::report::Failure;
use crate::run;
use crate::tell::tell;
use crate::undo::Undo;
use crate::{cli, environment};

/// Prints them; what comes from Secrets only if that is asked for.
///
/// # Errors
/// If there is no session, or nobody who reads.
pub async fn env(options: cli::Env, signals: &mut Signals) -> Result<u8, Failure> {
    let undo = Arc::new(Undo::default());
    let session = run::session(&options.place, &undo, signals).await?;
    let mut environment = run::environment(&session);
    environment.exclude(&options.changes.env_exclude);
    let hidden = if options.show_secrets {
        Vec::new()
    } else {
        let mut secret = origin::from_secrets(&session.cluster, &session.target, environment.iter()).await;
        secret.retain(|name| ![environment::POD, environment::CONTAINER].iter().any(|own| name == own));
        environment.leave_out(secret)
    };
    environment.extend(&options.changes.env);
    let written = options.format.write(environment.iter());
    drop(session);
    run::take_back(&undo, signals).await;
    run::tell_left_out(&written);
    if !hidden.is_empty() {
        tell(format_args!("left out, since it may come from Secrets (--show-secrets): {}", names(&hidden)));
    }
    print(&written.text)
}

/// Prints what was asked for; gives tp's exit code. Who stopped reading has read enough.
///
/// # Errors
/// If it cannot be written.
pub fn print(text: &str) -> Result<u8, Failure> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::Output(error)),
        _ => Ok(0),
    }
}

fn names(names: &[OsString]) -> String {
    names.iter().map(|name| name.to_string_lossy()).collect::<Vec<_>>().join(", ")
}
