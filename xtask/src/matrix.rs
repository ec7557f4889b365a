//! `cargo xtask matrix`: every case under every method, in one table.
//!
//! The test programs are built once and run here and not by `cargo test`, which knows no methods: those named
//! `cluster_*` once a method. Most cases wait for the cluster most of the time, so two programs run at once.
//!
//! The cases of a program run side by side, too, on a machine that has the cluster beside them. One that fails there runs
//! once more by itself when all the others have ended, and the table says so: what fails alone is broken, what fails in
//! company only is to be looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::iter;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, ScopedJoinHandle};

use miette::{IntoDiagnostic as _, WrapErr as _, miette};
use tp_tests::methods::{BOUND, METHODS, VARIABLE, why_not};
use tp_tests::{Cluster, Layout, Target, target};

use crate::step::{cargo, step};
use crate::totals::Totals;
use crate::{cluster, dist};

/// What test programs are called whose cases run under each method.
const CASES: &str = "cluster_";
/// So many test programs run at once, each with as many cases at once as there are processors.
const AT_ONCE: usize = 2;
/// The test program that sends packets on purpose and sets their count to zero: it runs by itself.
const COUNTER: &str = "cluster_smoke";

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Run only the cases whose test program or name has this in it.
    #[arg(value_name = "WORD")]
    words: Vec<String>,
    /// Only under this method; may be given several times.
    #[arg(long, value_name = "METHOD", value_parser = METHODS)]
    method: Vec<String>,
}

/// Builds, installs (unless `TP_TEST_PREFIX` says where tp is), brings the cluster up, and runs the cases.
pub(crate) fn run(arguments: &Arguments) -> miette::Result<()> {
    if std::env::var_os(target::PREFIX).is_none() {
        step("build and install tp", || dist::run(None))?;
    }
    if target::context().is_none() {
        step("bring the test cluster up", || cluster::up(&Cluster::new(Layout::from_env())))?;
    }
    let wanted =
        |method: &&str| arguments.method.is_empty() || arguments.method.iter().any(|own| own == method);
    let methods: Vec<&str> = METHODS.into_iter().filter(wanted).collect();
    let programs = TestProgram::build(&["-p", "tp-tests"])?;
    let mut totals = Totals::default();
    let table = cases(&programs, &methods, &arguments.words, &mut totals)?;
    print!("{table}");
    table.verdict()
}

/// A test program that cargo built.
pub(crate) struct TestProgram {
    name: String,
    file: PathBuf,
    /// Cargo runs it in its package's folder.
    folder: PathBuf,
}

impl TestProgram {
    /// Builds those of these packages, as cargo's options name them.
    pub(crate) fn build(packages: &[&str]) -> miette::Result<Vec<Self>> {
        let mut command = cargo(["test", "--no-run", "--message-format=json-render-diagnostics"]);
        let output = command.args(packages).stderr(Stdio::inherit()).output();
        let output = output.into_diagnostic().wrap_err("start cargo")?;
        if !output.status.success() {
            return Err(miette!("cargo test --no-run: {}", output.status));
        }
        let built = |line: &str| {
            let message: serde_json::Value = serde_json::from_str(line).ok()?;
            // Integration tests have the package's own programs built beside them.
            message.pointer("/profile/test")?.as_bool().filter(|is_test| *is_test)?;
            let text = |path: &str| message.pointer(path)?.as_str().map(str::to_owned);
            let folder = PathBuf::from(text("/manifest_path")?).parent()?.to_owned();
            Some(Self { name: text("/target/name")?, file: text("/executable")?.into(), folder })
        };
        let mut all: Vec<Self> = String::from_utf8_lossy(&output.stdout).lines().filter_map(built).collect();
        all.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(all)
    }

    /// What it is called.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// If it runs under each method.
    pub(crate) fn has_cases(&self) -> bool {
        self.name.starts_with(CASES)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.file);
        command.current_dir(&self.folder).env("TP_REQUIRE", "netns,cluster").stdin(Stdio::null());
        command
    }

    /// The names of its cases.
    fn list(&self) -> miette::Result<Vec<String>> {
        let said = tp_tests::run::output(self.command().arg("--list")).into_diagnostic()?;
        Ok(said.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
    }

    /// Runs these cases, or all, and prints what they said; how each ended, and whether the program said that all is well.
    pub(crate) fn run(
        &self,
        method: Option<&str>,
        cases: Option<&[String]>,
        threads: Option<u8>,
        totals: &mut Totals,
    ) -> miette::Result<(BTreeMap<String, bool>, bool)> {
        let mut command = self.command();
        if let Some(method) = method {
            command.env(VARIABLE, method);
        }
        if let Some(cases) = cases {
            command.arg("--exact").args(cases);
        }
        if let Some(threads) = threads {
            command.arg(format!("--test-threads={threads}"));
        }
        let under = method.map(|name| format!(" under {name}")).unwrap_or_default();
        let output = command.stderr(Stdio::inherit()).output();
        let output = output.into_diagnostic().wrap_err("start a test program")?;
        let said = String::from_utf8_lossy(&output.stdout);
        // At once: another program may say something at the same time.
        print!("\n     running {}{under}\n{said}", self.name);
        let mut ended = BTreeMap::new();
        for line in said.lines() {
            totals.add(line);
            if let Some((case, verdict)) =
                line.strip_prefix("test ").and_then(|line| line.split_once(" ... "))
            {
                ended.insert(case.to_owned(), verdict == "ok");
            }
        }
        Ok((ended, output.status.success()))
    }
}

/// Cases of one program under one method.
struct Job<'a> {
    program: &'a TestProgram,
    method: &'static str,
    cases: Vec<String>,
}

/// Runs the cases of these programs that have one of the words in their names, under these methods.
pub(crate) fn cases(
    programs: &[TestProgram],
    methods: &[&'static str],
    words: &[String],
    totals: &mut Totals,
) -> miette::Result<Table> {
    let target = Target::attach().into_diagnostic()?;
    let mut table = Table { methods: methods.to_vec(), ..Table::default() };
    let mut again = Vec::new();
    let jobs = jobs(programs, methods, words, &mut table)?;
    let (by_itself, beside): (Vec<_>, Vec<_>) = jobs.into_iter().partition(|job| job.program.name == COUNTER);
    let counted = by_itself.into_iter().map(|job| Outcome::of(job, &target));
    let mut outcomes = counted.collect::<miette::Result<Vec<_>>>()?;
    outcomes.extend(side_by_side(beside, &target)?);
    for outcome in outcomes {
        let Outcome { job, ended, totals: mut said, leaks } = outcome;
        table.leaks.insert((job.program.name.clone(), job.method), leaks);
        // A case that a crash of its program took along has no verdict, and is none that went well.
        let (well, failed): (Vec<_>, Vec<_>) =
            job.cases.into_iter().partition(|case| ended.get(case) == Some(&true));
        for case in well {
            table.set(&job.program.name, &case, job.method, Cell::Ok);
        }
        if !failed.is_empty() {
            said.forget_failed();
            again.push(Job { cases: failed, ..job });
        }
        totals.append(&said);
    }
    for job in again {
        let (ended, _) = job.program.run(Some(job.method), Some(&job.cases), Some(1), totals)?;
        for case in job.cases {
            let cell = if ended.get(&case) == Some(&true) { Cell::Alone } else { Cell::Failed };
            table.set(&job.program.name, &case, job.method, cell);
        }
    }
    Ok(table)
}

/// Runs the jobs, [`AT_ONCE`] at a time.
fn side_by_side<'a>(jobs: Vec<Job<'a>>, target: &Target) -> miette::Result<Vec<Outcome<'a>>> {
    let jobs = Mutex::new(jobs.into_iter());
    let next = || jobs.lock().unwrap_or_else(PoisonError::into_inner).next();
    let lane = || iter::from_fn(next).map(|job| Outcome::of(job, target)).collect::<miette::Result<Vec<_>>>();
    thread::scope(|scope| {
        let lanes: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(lane)).collect();
        let ended = lanes.into_iter().map(ScopedJoinHandle::join);
        let ended = ended.map(|lane| lane.unwrap_or_else(|_| Err(miette!("a thread panicked"))));
        Ok(ended.collect::<miette::Result<Vec<_>>>()?.into_iter().flatten().collect())
    })
}

/// What there is to run, method by method: a program seldom runs beside itself then. What is bound goes into the table.
fn jobs<'a>(
    programs: &'a [TestProgram],
    methods: &[&'static str],
    words: &[String],
    table: &mut Table,
) -> miette::Result<Vec<Job<'a>>> {
    let named = |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word.as_str()));
    let mut listed = Vec::new();
    for program in programs.iter().filter(|program| program.has_cases()) {
        let cases = program.list()?;
        table.check_bound(&program.name, &cases);
        let cases: Vec<_> = cases.into_iter().filter(|case| named(&program.name) || named(case)).collect();
        listed.push((program, cases));
    }
    let mut jobs = Vec::new();
    for &method in methods {
        for (program, all) in &listed {
            let mut cases = Vec::new();
            for case in all {
                match why_not(&program.name, case, method) {
                    Some(why) => table.set(&program.name, case, method, Cell::Bound(why)),
                    None => cases.push(case.clone()),
                }
            }
            if !cases.is_empty() {
                jobs.push(Job { program, method, cases });
            }
        }
    }
    Ok(jobs)
}

/// What a job came to.
struct Outcome<'a> {
    job: Job<'a>,
    ended: BTreeMap<String, bool>,
    totals: Totals,
    leaks: Option<u64>,
}

impl<'a> Outcome<'a> {
    fn of(job: Job<'a>, target: &Target) -> miette::Result<Self> {
        let before = target.leaks().into_diagnostic()?;
        let mut totals = Totals::default();
        let (ended, _) = job.program.run(Some(job.method), Some(&job.cases), None, &mut totals)?;
        let after = target.leaks().into_diagnostic()?;
        let leaks = before.zip(after).map(|(before, after)| after.saturating_sub(before));
        Ok(Self { job, ended, totals, leaks })
    }
}

/// How one case ended under one method.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Cell {
    Ok,
    /// It failed beside others, and went well by itself.
    Alone,
    Failed,
    /// It is about other methods, for this reason.
    Bound(&'static str),
}

/// Cases by methods.
#[derive(Default)]
pub(crate) struct Table {
    methods: Vec<&'static str>,
    cells: BTreeMap<(String, String), BTreeMap<&'static str, Cell>>,
    /// Packets that left the laptop while a program's cases ran, whoever sent them; `None` where nobody counts.
    leaks: BTreeMap<(String, &'static str), Option<u64>>,
    /// What [`BOUND`] names and no program has.
    unknown: Vec<String>,
}

impl Table {
    fn set(&mut self, program: &str, case: &str, method: &'static str, cell: Cell) {
        self.cells.entry((program.to_owned(), case.to_owned())).or_default().insert(method, cell);
    }

    /// A case that got another name would run where it cannot, or its reason would stand there for nothing.
    fn check_bound(&mut self, program: &str, cases: &[String]) {
        let missing = BOUND.iter().filter(|bound| bound.program == program && !bound.case.is_empty());
        let missing = missing.filter(|bound| !cases.iter().any(|case| case == bound.case));
        self.unknown.extend(missing.map(|bound| format!("{program}: {}", bound.case)));
    }

    /// An error if a case failed, a packet left, or the list of what is bound is not true.
    pub(crate) fn verdict(&self) -> miette::Result<()> {
        if !self.unknown.is_empty() {
            return Err(miette!(
                "tests/src/methods.rs names cases that there are not: {}",
                self.unknown.join(", ")
            ));
        }
        let failed =
            self.cells.values().flat_map(BTreeMap::values).filter(|cell| **cell == Cell::Failed).count();
        let leaks: u64 = self.leaks.values().flatten().sum();
        if failed == 0 && leaks == 0 {
            return Ok(());
        }
        Err(miette!("{failed} of the table's cases failed, {leaks} packets left the laptop"))
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = self.cells.keys().map(|(program, case)| program.len().max(case.len() + 2));
        let width = names.max().unwrap_or_default().max(30);
        let row = |first: &str, cells: Vec<String>| {
            let cells: String = cells.iter().map(|cell| format!("  {cell:<6}")).collect();
            format!("{first:<width$}{cells}").trim_end().to_owned()
        };
        let mut reasons: Vec<&str> = Vec::new();
        writeln!(
            f,
            "\n{}",
            row("every case under every method", self.methods.iter().map(|&m| m.to_owned()).collect())
        )?;
        let programs: BTreeSet<&str> = self.cells.keys().map(|(program, _)| program.as_str()).collect();
        for program in programs {
            let leaks = |method: &&'static str| match self.leaks.get(&(program.to_owned(), *method)) {
                Some(Some(count)) => format!("{count} left"),
                Some(None) | None => "-".to_owned(),
            };
            writeln!(f, "{}", row(program, self.methods.iter().map(leaks).collect()))?;
            for ((_, case), cells) in self.cells.iter().filter(|((of, _), _)| of == program) {
                let mut cell = |method: &&'static str| match cells.get(method) {
                    Some(Cell::Ok) => "ok".to_owned(),
                    Some(Cell::Alone) => "alone".to_owned(),
                    Some(Cell::Failed) | None => "FAILED".to_owned(),
                    Some(Cell::Bound(why)) => {
                        let at = reasons.iter().position(|reason| reason == why).unwrap_or_else(|| {
                            reasons.push(why);
                            reasons.len() - 1
                        });
                        format!("({})", at + 1)
                    }
                };
                writeln!(f, "{}", row(&format!("  {case}"), self.methods.iter().map(&mut cell).collect()))?;
            }
        }
        writeln!(f, "left: packets that left the laptop meanwhile for elsewhere than the API server")?;
        if self.cells.values().flat_map(BTreeMap::values).any(|cell| *cell == Cell::Alone) {
            writeln!(f, "alone: failed beside other cases, and was ok by itself")?;
        }
        for (at, reason) in reasons.iter().enumerate() {
            writeln!(f, "({}) not about this method: {reason}", at + 1)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_line_a_case_and_a_column_a_method() {
        let mut table = Table { methods: vec!["auto", "vif"], ..Table::default() };
        table.set("cluster_names", "first", "auto", Cell::Ok);
        table.set("cluster_names", "first", "vif", Cell::Failed);
        table.set("cluster_names", "second", "auto", Cell::Ok);
        table.set("cluster_names", "second", "vif", Cell::Bound("of the shim"));
        table.set("cluster_names", "third", "auto", Cell::Alone);
        table.set("cluster_names", "third", "vif", Cell::Ok);
        table.leaks.insert(("cluster_names".to_owned(), "auto"), Some(0));
        table.leaks.insert(("cluster_names".to_owned(), "vif"), Some(2));
        let text = table.to_string();
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert!(lines.contains(&vec!["cluster_names", "0", "left", "2", "left"]), "{text}");
        assert!(lines.contains(&vec!["first", "ok", "FAILED"]), "{text}");
        assert!(lines.contains(&vec!["second", "ok", "(1)"]), "{text}");
        assert!(
            lines.contains(&vec!["third", "alone", "ok"]) && text.contains("alone: failed beside"),
            "{text}"
        );
        assert!(text.contains("(1) not about this method: of the shim"), "{text}");
        assert!(
            table.verdict().unwrap_err().to_string().contains("1 of the table's cases failed, 2 packets")
        );
    }
}
