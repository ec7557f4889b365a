//! `cargo xtask test`: all that must be green.

use miette::IntoDiagnostic as _;
use tp_tests::{Cluster, Layout, target};

use crate::step::{cargo, run as must, step};
use crate::{check, cluster, dist};

pub(crate) fn run(down: bool) -> miette::Result<()> {
    let own = Cluster::new(Layout::from_env());
    let context = target::context();
    step("check", check::run)?;
    step("build and install tp", || dist::run(None))?;
    if let Some(context) = &context {
        eprintln!("the cases run against the context {context}; leaks cannot be counted there");
    } else {
        step("bring the test cluster up", || cluster::up(&own))?;
    }
    let result = step("cases", || must(&mut cargo(["test", "--no-fail-fast", "-p", "tp-tests", "--tests"])));
    let in_ci = std::env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "false");
    if context.is_none() && (down || in_ci) {
        step("take the test cluster down", || own.down().into_diagnostic())?;
    }
    result
}
