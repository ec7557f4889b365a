//! `cargo xtask bench`: how fast tp is beside its peers, on the same cluster, in the same run.

use std::path::PathBuf;

use miette::{IntoDiagnostic as _, WrapErr as _, miette};
use tp_tests::{Cluster, Layout};

use crate::step::{cargo, run as run_command, step};
use crate::{cluster, dist};

/// The benches there are (`tests/benches`).
const ALL: [&str; 10] =
    ["first_byte", "shim", "inside", "volumes", "connections", "bulk", "names", "udp", "idle", "far"];

pub(crate) fn run(names: &[String], json: Option<PathBuf>) -> miette::Result<()> {
    if let Some(unknown) = names.iter().find(|name| !ALL.contains(&name.as_str())) {
        return Err(miette!("there is no bench `{unknown}`; there are: {}", ALL.join(", ")));
    }
    let json =
        json.map(std::path::absolute).transpose().into_diagnostic().wrap_err("the file for figures")?;
    step("build and install tp", || dist::run(None))?;
    step("bring the test cluster up", || cluster::up(&Cluster::new(Layout::from_env())))?;
    for name in ALL.into_iter().filter(|name| names.is_empty() || names.iter().any(|wanted| wanted == name)) {
        // What is timed are programs of their own: the bench itself need not be optimized, unless it is one of them.
        let profile = if matches!(name, "inside" | "volumes") { "release" } else { "dev" };
        let mut command = cargo(["bench", "--profile", profile, "-p", "tp-tests", "--bench", name]);
        if let Some(json) = &json {
            command.env("TP_BENCH_JSON", json);
        }
        step(&format!("bench {name}"), || run_command(&mut command))?;
    }
    Ok(())
}
