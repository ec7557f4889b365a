//! `cargo xtask check`: everything that can be judged without a cluster.

use std::fs;
use std::path::{Path, PathBuf};

use miette::{IntoDiagnostic as _, WrapErr as _, miette};

use crate::layers;
use crate::step::{cargo, run as must, step, workspace};

/// No source file may be longer, in lines.
const LONGEST: usize = 800;
/// Folders that are not ours to judge.
const SKIPPED: [&str; 3] = ["target", "corpus", "artifacts"];
/// The shim has no std and can only be compiled under a profile of its own, so it is checked apart.
pub(crate) const NOT_SHIM: [&str; 3] = ["--workspace", "--exclude", "tp-shim"];

/// What a step is called, and what it does.
type Step = (&'static str, fn() -> miette::Result<()>);

/// Every step is done whatever the others said: all that is wrong is told at once.
pub(crate) fn run() -> miette::Result<()> {
    all(&[READ, &[("unit tests", unit_tests)]].concat())
}

/// The same but for the unit tests that [`TestProgram::build`](crate::matrix::TestProgram::build) builds as well.
pub(crate) fn but_for_programs() -> miette::Result<()> {
    all(&[READ, &[("unit tests of the shim", unit_tests_of_the_shim)]].concat())
}

/// What is found out by reading.
const READ: &[Step] = &[
    ("fmt", || must(&mut cargo(["fmt", "--all", "--check"]))),
    ("sizes and layers", || sizes().and_then(|()| layers::run())),
    ("clippy", clippy),
    ("doc", doc),
];

fn all(steps: &[Step]) -> miette::Result<()> {
    let mut failed = Vec::new();
    for &(name, work) in steps {
        if let Err(error) = step(name, work) {
            eprintln!("{error:?}");
            failed.push(name);
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(miette!("check: failed: {}", failed.join(", "))) }
}

fn clippy() -> miette::Result<()> {
    must(cargo(["clippy", "--keep-going", "--all-targets"]).args(NOT_SHIM).args(["--", "-D", "warnings"]))?;
    must(&mut cargo(["clippy", "-p", "tp-shim", "--profile", "shim", "--", "-D", "warnings"]))
}

fn doc() -> miette::Result<()> {
    let arguments = ["doc", "--keep-going", "--no-deps", "--document-private-items"];
    must(cargo(arguments).args(NOT_SHIM).env("RUSTDOCFLAGS", "-D warnings"))
}

fn unit_tests() -> miette::Result<()> {
    // Of the programs only this one has tests that are not a library's.
    must(cargo(["test", "--quiet", "--no-fail-fast", "--lib", "--bin", "xtask"]).args(NOT_SHIM))?;
    unit_tests_of_the_shim()
}

fn unit_tests_of_the_shim() -> miette::Result<()> {
    must(&mut cargo(["test", "--quiet", "-p", "tp-shim", "--lib"]))
}

/// A file that nobody reads to its end is where errors live.
fn sizes() -> miette::Result<()> {
    let mut long = Vec::new();
    for file in sources(&workspace())? {
        let lines = fs::read_to_string(&file).into_diagnostic()?.lines().count();
        if lines > LONGEST {
            long.push(format!("{}: {lines} lines", file.display()));
        }
    }
    if long.is_empty() { Ok(()) } else { Err(miette!("longer than {LONGEST} lines:\n{}", long.join("\n"))) }
}

/// All Rust sources below a folder.
pub(crate) fn sources(folder: &Path) -> miette::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let entries =
        fs::read_dir(folder).into_diagnostic().wrap_err_with(|| format!("list {}", folder.display()))?;
    for entry in entries {
        let entry = entry.into_diagnostic()?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let kind = entry.file_type().into_diagnostic()?;
        if kind.is_dir() && !name.starts_with('.') && !SKIPPED.contains(&name.as_str()) {
            found.extend(sources(&entry.path())?);
        } else if kind.is_file() && name.ends_with(".rs") {
            found.push(entry.path());
        }
    }
    Ok(found)
}
