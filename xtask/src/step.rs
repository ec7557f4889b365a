//! One step of a longer task: a command that must succeed, announced before and timed after.

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use miette::{IntoDiagnostic as _, WrapErr as _, miette};

/// The top folder of the workspace.
pub(crate) fn workspace() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.parent().map_or_else(|| here.clone(), PathBuf::from)
}

/// `cargo` with these arguments, in the workspace.
pub(crate) fn cargo<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(workspace());
    // Set for this very program by `cargo run`; a nested cargo would take them for its own crate's.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name == "CARGO_MANIFEST_DIR") {
            command.env_remove(name);
        }
    }
    command
}

/// Runs a command that must succeed.
pub(crate) fn run(command: &mut Command) -> miette::Result<()> {
    let shown = tp_tests::run::shown(command);
    let status = command.status().into_diagnostic().wrap_err_with(|| format!("start {shown}"))?;
    if status.success() { Ok(()) } else { Err(miette!("{shown}: {status}")) }
}

/// What took how long, for [`summary`].
static TIMES: Mutex<Vec<(String, f32)>> = Mutex::new(Vec::new());

/// Announces, does and times one step.
pub(crate) fn step<T>(name: &str, work: impl FnOnce() -> miette::Result<T>) -> miette::Result<T> {
    eprintln!("== {name}");
    let started = Instant::now();
    let result = work().wrap_err_with(|| name.to_owned());
    let seconds = started.elapsed().as_secs_f32();
    eprintln!("== {name}: {seconds:.1} s{}", if result.is_ok() { "" } else { ", failed" });
    TIMES.lock().unwrap_or_else(PoisonError::into_inner).push((name.to_owned(), seconds));
    result
}

/// All steps so far and how long each took.
pub(crate) fn summary() -> String {
    let times = TIMES.lock().unwrap_or_else(PoisonError::into_inner);
    times.iter().map(|(name, seconds)| format!("{seconds:8.1} s  {name}\n")).collect()
}
