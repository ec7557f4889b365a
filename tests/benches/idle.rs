//! What connections cost that only are there, in memory of the launcher and of the agent and in time of one more, by how
//! many there are; and what bytes cost in CPU time. Beside them `kubectl port-forward`, of which only kubectl's own part is counted.

use std::path::PathBuf;
use std::process::ExitCode;

use tp_tests::field::Service;
use tp_tests::figures::goal;
use tp_tests::held::{CARRY, Held, busy, resident};
use tp_tests::{Error, Field, Figures, run};

const ROUNDS: usize = 5;
const FEWEST: u32 = 10;
const MOST: u32 = 10_000;
const COUNTS: [u32; 4] = [FEWEST, 100, 1000, MOST];
/// More take `kubectl port-forward` too long.
const MOST_FORWARDED: u32 = 1000;
/// What is carried to see what a GiB costs, in MiB.
const MIB: &str = "256";
/// Most memory that a connection may take on each side, in kB.
const MEMORY_GOAL: f64 = 15.0;
/// Most CPU time of the launcher, of kubectl's.
const CPU_GOAL: f64 = 1.0;
const DIRECTIONS: [&str; 2] = ["up", "down"];

const LAUNCHER: &str = "launcher";
const AGENT: &str = "agent";
const KUBECTL: &str = "kubectl";

fn main() -> ExitCode {
    match measure() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("idle: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure() -> Result<bool, Error> {
    let mut field = Field::create("idle connections")?;
    let (visit, bulk) = (field.program("visit")?, field.program("bulk")?);
    let (requests, bytes) = (field.serve(&visit)?, field.serve(&bulk)?);
    let reached = [memory(&mut field, &visit, &requests)?, cpu(&field, &bulk, &bytes)?];
    Ok(reached == [true, true])
}

fn memory(field: &mut Field, visit: &PathBuf, service: &Service) -> Result<bool, Error> {
    let mut figures = Figures::new("memory with idle connections", "kB");
    let mut times = Figures::new("connect, GET, read, close beside idle connections", "us");
    let row = |who: &str, count: u32| format!("{who}, {count}");
    for _ in 0..ROUNDS {
        // An agent keeps what it had once: so each round has its own, and begins with the fewest.
        field.renew()?;
        for count in COUNTS {
            let number = count.to_string();
            let mut tp = field.tp(&[], visit)?;
            let mut held = Held::start(tp.args(["idle", field.address(), service.port(), &number]))?;
            let said = held.figures("open")?;
            times.add(&row("tp", count), said.get("p50").copied().unwrap_or(f64::NAN));
            figures.add(&row(LAUNCHER, count), resident(held.pid())?);
            figures.add(&row(AGENT, count), resident(field.agent()?)?);
            held.end()?;
            if count > MOST_FORWARDED {
                continue;
            }
            let forward = field.forward(service)?;
            let mut bare = field.bare(visit)?;
            let mut held = Held::start(bare.args(["idle", "127.0.0.1", forward.port(), &number]))?;
            let said = held.figures("open")?;
            times.add(&row("kubectl port-forward", count), said.get("p50").copied().unwrap_or(f64::NAN));
            figures.add(&row(KUBECTL, count), resident(forward.pid())?);
            held.end()?;
        }
    }
    figures.tell()?;
    times.tell()?;
    let reached = [LAUNCHER, AGENT].map(|who| {
        let added = figures.median(&row(who, MOST)) - figures.median(&row(who, FEWEST));
        let each = added / f64::from(MOST - FEWEST);
        goal(&format!("memory of the {who}, a connection"), each, " kB", MEMORY_GOAL)
    });
    Ok(reached == [true, true])
}

fn cpu(field: &Field, bulk: &PathBuf, service: &Service) -> Result<bool, Error> {
    let mut figures = Figures::new("CPU time of a GiB", "s");
    let gib = 1024.0 / MIB.parse().unwrap_or(f64::NAN);
    for _ in 0..ROUNDS {
        for direction in DIRECTIONS {
            let mut tp = field.tp(&[], "sh")?;
            tp.args(["-c", CARRY, "sh"]).arg(bulk).args([direction, field.address(), service.port(), MIB]);
            let mut held = Held::start(&mut tp)?;
            held.line()?;
            let processes = [(LAUNCHER, held.pid()), (AGENT, field.agent()?)];
            let before = processes.map(|(_, pid)| busy(pid));
            held.go_on()?;
            held.line()?;
            for ((who, pid), before) in processes.into_iter().zip(before) {
                figures.add(&format!("{who}, {direction}"), (busy(pid)? - before?) * gib);
            }
            held.end()?;
            let forward = field.forward(service)?;
            let before = busy(forward.pid())?;
            run::output(field.bare(bulk)?.args([direction, "127.0.0.1", forward.port(), MIB]))?;
            figures.add(&format!("{KUBECTL}, {direction}"), (busy(forward.pid())? - before) * gib);
        }
    }
    figures.tell()?;
    let reached = DIRECTIONS.map(|direction| {
        let [launcher, kubectl] =
            [LAUNCHER, KUBECTL].map(|who| figures.median(&format!("{who}, {direction}")));
        goal(&format!("CPU of a GiB {direction}: launcher over kubectl's"), launcher / kubectl, "", CPU_GOAL)
    });
    Ok(reached == [true, true])
}
