//! `cargo xtask bench`: how fast tp is beside its peers, on the same cluster, in the same run.

use std::fs;
use std::path::{Path, PathBuf};

use miette::{IntoDiagnostic as _, WrapErr as _, miette};
use tp_tests::figures::JSON;
use tp_tests::target::PREFIX;
use tp_tests::{Cluster, Layout};

use crate::report::{self, Report};
use crate::step::{cargo, run as must, step, workspace};
use crate::{cluster, dist};

/// The benches there are (`tests/benches`), in the order of the report.
pub(crate) const ALL: [&str; 12] = [
    "first_byte",
    "connections",
    "bulk",
    "names",
    "udp",
    "socks",
    "inside",
    "shim",
    "idle",
    "far",
    "volumes",
    "sshfs",
];

/// What to measure, and where to keep it.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The benches to run. Without any, all of them, and docs/benchmarks.md is written anew.
    names: Vec<String>,
    /// Keep the figures in this file, beside those of other benches.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Only the ratios that CI holds, in less than two minutes.
    #[arg(long, conflicts_with_all = ["names", "json", "render"])]
    short: bool,
    /// With --short: what is measured now is what CI holds from now on.
    #[arg(long, requires = "short")]
    store: bool,
    /// Measure nothing: write docs/benchmarks.md and its plots from docs/benchmarks.json.
    #[arg(long, conflicts_with_all = ["names", "json"])]
    render: bool,
}

pub(crate) fn run(arguments: &Arguments) -> miette::Result<()> {
    let Arguments { names, json, short: is_short, store, render } = arguments;
    if let Some(unknown) = names.iter().find(|name| !ALL.contains(&name.as_str())) {
        return Err(miette!("there is no bench `{unknown}`; there are: {}", ALL.join(", ")));
    }
    if *render {
        return report::write();
    }
    step("build and install tp", || dist::run(std::env::var_os(PREFIX).map(PathBuf::from)))?;
    let own = Cluster::new(Layout::from_env());
    step("bring the test cluster up", || cluster::up(&own))?;
    if *is_short {
        return short(*store);
    }
    let is_full = names.is_empty() && json.is_none();
    let file = if is_full { Some(report::figures()) } else { json.clone() };
    let mut missed = Vec::new();
    for name in ALL.into_iter().filter(|name| names.is_empty() || names.iter().any(|wanted| wanted == name)) {
        // What one bench finds does not keep the others from running.
        if let Err(error) = step(&format!("bench {name}"), || one(name, file.as_deref(), &own)) {
            eprintln!("{error:?}");
            missed.push(name);
        }
    }
    if is_full {
        report::write()?;
    }
    if missed.is_empty() { Ok(()) } else { Err(miette!("goals were missed: {}", missed.join(", "))) }
}

/// The short bench, with what is installed, against the cluster that is up.
pub(crate) fn short(store: bool) -> miette::Result<()> {
    let mut command = cargo(["bench", "--profile", "dev", "-p", "tp-tests", "--bench", "short"]);
    if store {
        command.env("TP_BENCH_STORE", "1");
    }
    step("bench short", || must(&mut command))
}

fn one(name: &str, file: Option<&Path>, own: &Cluster) -> miette::Result<()> {
    // What is timed are programs of their own: the bench itself need not be optimized, unless it is one of them.
    let profile = if matches!(name, "inside" | "volumes") { "release" } else { "dev" };
    let figures = std::env::temp_dir().join(format!("tp-bench-{}-{name}.json", std::process::id()));
    let mut command = cargo(["bench", "--profile", profile, "-p", "tp-tests", "--bench", name]);
    let went = must(command.env(JSON, &figures));
    if let (Some(file), Ok(text)) = (file, fs::read(&figures)) {
        let bench = serde_json::from_slice(&text).into_diagnostic().wrap_err("the figures of the bench")?;
        Report::add(file, name, bench, own)?;
    }
    let _ = fs::remove_file(&figures);
    went
}

/// Where the report lies.
pub(crate) fn docs() -> PathBuf {
    workspace().join("docs")
}
