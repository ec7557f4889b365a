//! `cargo xtask test`: all that must be green.

use std::thread;
use std::time::Instant;

use miette::{IntoDiagnostic as _, miette};
use tp_tests::methods::METHODS;
use tp_tests::{Cluster, Layout, Target, manifests, target};

use crate::check::NOT_SHIM;
use crate::matrix::TestProgram;
use crate::step::{step, summary};
use crate::totals::Totals;
use crate::{bench, check, cluster, dist, matrix};

pub(crate) fn run(down: bool) -> miette::Result<()> {
    let own = Cluster::new(Layout::from_env());
    let context = target::context();
    let in_ci = std::env::var("CI").is_ok_and(|value| !value.is_empty() && value != "false");
    let started = Instant::now();
    let mut totals = Totals::default();
    let result = all(&own, context.as_deref(), &mut totals);
    if context.is_none() && (down || in_ci) {
        step("take the test cluster down", || own.down().into_diagnostic())?;
    }
    eprint!("\n{}", summary());
    // Last of all, and in cargo's own form: the sum of what all test programs said.
    if totals.programs > 0 {
        println!("{}", totals.line(result.is_ok(), started.elapsed().as_secs_f32()));
    }
    result
}

fn all(own: &Cluster, context: Option<&str>, totals: &mut Totals) -> miette::Result<()> {
    // The Go build is one long link at its end, so it goes on beside cargo, which then has the other core.
    let programs = context.is_none().then(|| thread::spawn(cluster::build));
    // What check finds does not keep the cases from running: one run tells all.
    let checked = check::but_for_programs();
    let installed = step("build and install tp", || dist::run(None));
    if let Some(programs) = programs {
        step("wait for the cluster's programs", || {
            programs.join().unwrap_or_else(|_| Err(miette!("the Go build panicked")))
        })?;
    }
    installed?;
    match context {
        None => step("bring the test cluster up", || cluster::up(own))?,
        Some(context) => step(&format!("apply the sample application to {context}"), sample)?,
    }
    let ran = step("cases", || cases(totals));
    // Not against a cluster that exists already: there is no laptop beside it, and others use it.
    let quick = if context.is_none() { bench::short(false) } else { Ok(()) };
    checked.and(ran).and(quick)
}

/// A cluster that exists already gets the sample application; its images must be there (`localhost/tp-sample:1`).
fn sample() -> miette::Result<()> {
    eprintln!("cases run as the caller there: no laptop namespace, and leaks cannot be counted");
    let target = Target::attach().into_diagnostic()?;
    let kubectl = || target.kubectl();
    manifests::apply(&kubectl, "1", false).and_then(|()| manifests::wait(&kubectl, false)).into_diagnostic()
}

/// All tests of all crates; those that need the cluster run under each method.
fn cases(totals: &mut Totals) -> miette::Result<()> {
    let programs = TestProgram::build(&NOT_SHIM)?;
    let mut failed = Vec::new();
    for program in programs.iter().filter(|program| !program.has_cases()) {
        let (_, went_well) = program.run(None, None, None, totals)?;
        if !went_well {
            failed.push(program.name());
        }
    }
    let table = matrix::cases(&programs, &METHODS, &[], totals)?;
    print!("{table}");
    if !failed.is_empty() {
        return table.verdict().and(Err(miette!("failed: {}", failed.join(", "))));
    }
    table.verdict()
}
