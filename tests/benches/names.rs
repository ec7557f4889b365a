//! What names cost: under `tp run`, beside the same program and `dig` in a pod, which ask CoreDNS; by turns in one run.
//!
//! CoreDNS answers for the name of any address (`10-1-2-3.default.pod.cluster.local`), so there are names enough that
//! nobody has asked for.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use tp_tests::figures::{at_least, goal, said};
use tp_tests::{Error, Field, Figures, run};

const ROUNDS: usize = 5;
const SUFFIX: &str = "default.pod.cluster.local.";
const SAME: [&str; 3] = ["same", "backend.default.svc.cluster.local.", "200000"];
/// For libc in a pod, which keeps nothing.
const SAME_DIRECT: [&str; 3] = ["same", "backend.default.svc.cluster.local.", "1000"];
const NEW: [&str; 4] = ["new", SUFFIX, "300", "1"];
const NEW_AT_ONCE: [&str; 4] = ["new", SUFFIX, "3000", "100"];
/// Names that `dig` asks for in one go.
const DUG: u32 = 300;

/// Least a second, in one process.
const SAME_GOAL: f64 = 50_000.0;
/// Most that 100 threads' names may fail.
const FAILED_GOAL: f64 = 0.0;

const TP: &str = "tp";
const DIRECT: &str = "libc in a pod";
const DIG: &str = "dig in a pod";

fn main() -> ExitCode {
    match measure() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("names: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure() -> Result<bool, Error> {
    let field = Field::create("names")?;
    let lookups = field.program("lookups")?;
    let mut rates = Figures::new("names, one after the other", "1/s");
    let mut crowds = Figures::new("new names, by 100 threads", "1/s");
    let mut prices = Figures::new("a new name", "us");
    let mut failed = 0.0;
    for round in 0..ROUNDS {
        for way in [TP, DIRECT] {
            let by = |words: &[&str]| {
                let mut command =
                    if way == TP { field.tp(&[], &lookups)? } else { field.direct(&lookups)? };
                said(command.args(words))
            };
            let rate = |said: &std::collections::BTreeMap<String, f64>, part: &str| {
                said.get(part).copied().unwrap_or(f64::NAN)
            };
            let same = by(if way == TP { &SAME } else { &SAME_DIRECT })?;
            rates.add(&format!("{way}, the same"), rate(&same, "rate"));
            let new = by(&NEW)?;
            rates.add(&format!("{way}, new"), rate(&new, "rate"));
            for part in ["p50", "p99"] {
                prices.add(&format!("{way}, {part}"), rate(&new, part));
            }
            let crowd = by(&NEW_AT_ONCE)?;
            crowds.add(way, rate(&crowd, "rate"));
            failed += if way == TP { rate(&crowd, "failed") } else { 0.0 };
        }
        rates.add(&format!("{DIG}, new"), dig(&field, round)?);
    }
    rates.tell()?;
    prices.tell()?;
    crowds.tell()?;
    let same = at_least("the same name, a second", rates.median("tp, the same"), "/s", SAME_GOAL);
    Ok(goal("new names by 100 threads: failures", failed, "", FAILED_GOAL) && same)
}

/// Names a second by `dig`, of which each asks for addresses of one family.
fn dig(field: &Field, round: usize) -> Result<f64, Error> {
    let names: String = (0..DUG).map(|n| format!("10-77-{round}-{n}.{SUFFIX} A\n")).collect();
    let file: PathBuf = field.file("names", &names).into();
    let mut dig = field.direct("dig")?;
    let started = Instant::now();
    run::output(dig.arg("-f").arg(&file).arg("+short"))?;
    Ok(f64::from(DUG) / started.elapsed().as_secs_f64())
}
