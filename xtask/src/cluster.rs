//! `cargo xtask cluster`: up, down, status, kubeconfig, load-image.

use std::fs;
use std::io::{IsTerminal as _, stderr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Subcommand;
use indicatif::{ProgressBar, ProgressStyle};
use miette::{IntoDiagnostic as _, WrapErr as _, miette};
use tp_tests::cluster::Step;
use tp_tests::gobuild::Progress;
use tp_tests::{Cluster, Layout};

/// How often a line is written where there is no terminal to draw on.
const LINE_EVERY: Duration = Duration::from_secs(30);

/// What to do with the cluster.
#[derive(Subcommand)]
pub(crate) enum Action {
    /// Bring it up, with the sample application and the laptop; nothing happens to one that is healthy.
    Up,
    /// End it and remove what it left; built programs and the installed tp stay.
    Down,
    /// Say what runs; fails when something does not.
    Status,
    /// Print the laptop's kubeconfig (the API server can be reached from the laptop alone).
    Kubeconfig,
    /// Import an image, an archive as `docker save` writes it, for pods to use.
    LoadImage {
        /// The archive.
        archive: PathBuf,
    },
}

pub(crate) fn run(action: Action) -> miette::Result<()> {
    let cluster = Cluster::new(Layout::from_env());
    match action {
        Action::Up => up(&cluster),
        Action::Down => cluster.down().into_diagnostic(),
        Action::Status => status(&cluster),
        Action::Kubeconfig => {
            let path = cluster.layout().laptop().join("home/.kube/config");
            let config = fs::read_to_string(&path)
                .into_diagnostic()
                .wrap_err_with(|| format!("read {}; is the cluster up?", path.display()))?;
            print!("{config}");
            Ok(())
        }
        Action::LoadImage { archive } => {
            print!("{}", cluster.load_image(&archive).into_diagnostic()?);
            Ok(())
        }
    }
}

/// Brings the cluster up with a display of the long first build.
pub(crate) fn up(cluster: &Cluster) -> miette::Result<()> {
    let mut display = Display::default();
    cluster.up(&mut |step| display.show(&step)).into_diagnostic().wrap_err("bring the test cluster up")
}

/// Builds the cluster's programs alone, which needs no root and can go on beside other work.
pub(crate) fn build() -> miette::Result<()> {
    let mut display = Display::default();
    tp_tests::gobuild::build(&Layout::from_env(), &mut |progress| display.show(&Step::Build(progress)))
        .map(drop)
        .into_diagnostic()
        .wrap_err("build the cluster's programs")
}

fn status(cluster: &Cluster) -> miette::Result<()> {
    let states = cluster.status();
    for state in &states {
        println!("{:<24} {}", state.name, if state.alive { "up" } else { "down" });
    }
    let down = states.iter().filter(|state| !state.alive).count();
    if down > 0 {
        return Err(miette!(help = "cargo xtask cluster up", "{down} of {} are down", states.len()));
    }
    let pods = cluster.kubectl().args(["get", "pods", "-A", "-o", "wide"]).status().into_diagnostic()?;
    if pods.success() { Ok(()) } else { Err(miette!("kubectl get pods: {pods}")) }
}

/// A bar on a terminal, a line now and then elsewhere.
#[derive(Default)]
struct Display {
    bar: Option<ProgressBar>,
    program: String,
    packages: u64,
    done: u64,
    last_line: Option<Instant>,
}

impl Display {
    fn show(&mut self, step: &Step<'_>) {
        match step {
            Step::Build(Progress::Start { program, packages }) => self.start(program, *packages),
            Step::Build(Progress::Package { name }) => self.package(name),
            Step::Build(Progress::Done { program, took }) => {
                if let Some(bar) = self.bar.take() {
                    bar.finish_and_clear();
                }
                eprintln!("built {program} in {:.0} s", took.as_secs_f32());
            }
            Step::Reached(what, after) => eprintln!("{:6.1} s  {what}", after.as_secs_f32()),
        }
    }

    fn start(&mut self, program: &str, packages: u64) {
        program.clone_into(&mut self.program);
        self.packages = packages;
        self.done = 0;
        self.last_line = Some(Instant::now());
        if stderr().is_terminal() {
            let style =
                ProgressStyle::with_template("{prefix:.bold} {bar:30} {pos}/{len} {elapsed} {wide_msg:.dim}");
            let bar = ProgressBar::new(packages).with_prefix(format!("go build {program}"));
            self.bar = Some(bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())));
        } else {
            eprintln!("go build {program}: {packages} packages, minutes when none of them is cached");
        }
    }

    fn package(&mut self, name: &str) {
        self.done += 1;
        if let Some(bar) = &self.bar {
            bar.inc(1);
            bar.set_message(name.to_owned());
        } else if self.last_line.is_none_or(|last| last.elapsed() >= LINE_EVERY) {
            self.last_line = Some(Instant::now());
            eprintln!("go build {}: {} of {} packages", self.program, self.done, self.packages);
        }
    }
}
