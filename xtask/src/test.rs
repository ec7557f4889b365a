//! `cargo xtask test`: all that must be green.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::thread;
use std::time::Instant;

use miette::{IntoDiagnostic as _, WrapErr as _, miette};
use tp_tests::{Cluster, Layout, Target, manifests, target};

use crate::check::NOT_SHIM;
use crate::step::{cargo, step, summary};
use crate::{check, cluster, dist};

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
    let checked = check::run();
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
    checked.and(ran)
}

/// A cluster that exists already gets the sample application; its images must be there (`localhost/tp-sample:1`).
fn sample() -> miette::Result<()> {
    eprintln!("cases run as the caller there: no laptop namespace, and leaks cannot be counted");
    let target = Target::attach().into_diagnostic()?;
    let kubectl = || target.kubectl();
    manifests::apply(&kubectl, "1", false).and_then(|()| manifests::wait(&kubectl, false)).into_diagnostic()
}

/// All tests of all crates; those that need the cluster are among them.
fn cases(totals: &mut Totals) -> miette::Result<()> {
    let mut command = cargo(["test", "--no-fail-fast"]);
    command.args(NOT_SHIM).env("TP_REQUIRE", "netns,cluster").stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().into_diagnostic().wrap_err("start cargo")?;
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            let line = line.into_diagnostic()?;
            println!("{line}");
            totals.add(&line);
        }
    }
    let status = child.wait().into_diagnostic()?;
    if status.success() { Ok(()) } else { Err(miette!("cargo test: {status}")) }
}

/// The sum of the closing lines of test programs.
#[derive(Default, Debug, PartialEq)]
struct Totals {
    programs: u32,
    counts: [u64; 5],
}

/// What a closing line counts, in its order.
const COUNTED: [&str; 5] = ["passed", "failed", "ignored", "measured", "filtered out"];

impl Totals {
    fn add(&mut self, line: &str) {
        let Some(result) = line.strip_prefix("test result: ") else { return };
        self.programs += 1;
        for part in result.split(['.', ';']).map(str::trim) {
            for (name, count) in COUNTED.iter().zip(&mut self.counts) {
                let number = part.strip_suffix(name).and_then(|number| number.trim().parse::<u64>().ok());
                *count += number.unwrap_or(0);
            }
        }
    }

    fn line(&self, ok: bool, seconds: f32) -> String {
        let counts = COUNTED.iter().zip(self.counts).map(|(name, count)| format!("{count} {name}"));
        let verdict = if ok { "ok" } else { "FAILED" };
        format!(
            "test result: {verdict}. {}; finished in {seconds:.2}s",
            counts.collect::<Vec<_>>().join("; ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_are_summed() {
        let mut totals = Totals::default();
        totals.add(
            "test result: ok. 6 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 6.73s",
        );
        totals.add("test result: FAILED. 1 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s");
        totals.add("test something ... ok");
        assert_eq!(totals, Totals { programs: 2, counts: [7, 3, 1, 0, 2] });
        assert_eq!(
            totals.line(false, 9.0),
            "test result: FAILED. 7 passed; 3 failed; 1 ignored; 0 measured; 2 filtered out; finished in 9.00s"
        );
    }
}
