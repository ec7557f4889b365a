//! `cargo xtask`: the project's own commands. Thin: what they do lives in the harness (`tp-tests`).

mod bench;
mod check;
mod cluster;
mod demo;
mod dist;
mod laptop;
mod layers;
mod matrix;
mod report;
mod step;
mod test;
mod totals;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// The project's own commands.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build everything, bring the cluster up, and run curl against a service by its name.
    Demo,
    /// Everything that must be green: check, dist, the cluster, all cases.
    Test {
        /// Take the cluster down afterwards (the default when CI is set).
        #[arg(long)]
        down: bool,
    },
    /// Every case under every method, in one table.
    Matrix(matrix::Arguments),
    /// Measure on the test cluster, beside what one would use without tp; prints ratios of one run.
    Bench(bench::Arguments),
    /// Format, lints, documentation, unit tests, size and layers of the sources. Needs no cluster.
    Check,
    /// Install tp as people would: bin/tp, lib/tp/libtp_shim.so, lib/tp/tp-inside, lib/tp/tp-agent.
    Dist {
        /// The folder to install into; a folder that the laptop's user can read by default.
        #[arg(long)]
        prefix: Option<PathBuf>,
    },
    /// The real test cluster of this machine.
    Cluster {
        #[command(subcommand)]
        action: cluster::Action,
    },
    /// Run a command on the laptop: unprivileged, with nothing but the API server in reach.
    Laptop(laptop::Arguments),
}

fn main() -> miette::Result<()> {
    match Arguments::parse().task {
        Task::Demo => demo::run(),
        Task::Test { down } => test::run(down),
        Task::Matrix(arguments) => matrix::run(&arguments),
        Task::Bench(arguments) => bench::run(&arguments),
        Task::Check => check::run(),
        Task::Dist { prefix } => dist::run(prefix).map(drop),
        Task::Cluster { action } => cluster::run(action),
        Task::Laptop(arguments) => laptop::run(&arguments),
    }
}
