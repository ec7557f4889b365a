//! What connections cost that only are there, in memory of the launcher and of the agent, by how many there are; and what
//! bytes cost in CPU time. Beside them `kubectl port-forward`, of which only kubectl's own part is counted.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};

use tp_tests::field::Service;
use tp_tests::figures::goal;
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

const LAUNCHER: &str = "launcher";
const AGENT: &str = "agent";
const KUBECTL: &str = "kubectl";

/// `$1` is `bulk`, the others its words: waits before and after for a line.
const CARRY: &str = "echo ready; read go; \"$@\" && read end";

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
    let field = Field::create("idle connections")?;
    let (visit, bulk) = (field.program("visit")?, field.program("bulk")?);
    let (requests, bytes) = (field.serve(&visit)?, field.serve(&bulk)?);
    let memory = memory(&field, &visit, &requests)?;
    cpu(&field, &bulk, &bytes)?;
    Ok(memory)
}

/// A program that says a line, and goes on when it is told to.
struct Held {
    child: Child,
    said: BufReader<std::process::ChildStdout>,
}

impl Held {
    fn start(command: &mut Command) -> Result<Self, Error> {
        let shown = run::shown(command);
        let start = |source| Error::Start { program: shown.clone(), source };
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(start)?;
        let said = child.stdout.take().ok_or_else(|| start(std::io::ErrorKind::BrokenPipe.into()))?;
        Ok(Self { child, said: BufReader::new(said) })
    }

    /// Waits until it says a line.
    fn line(&mut self) -> Result<String, Error> {
        let mut line = String::new();
        let what = "the program, which was to say a line,";
        match self.said.read_line(&mut line) {
            Ok(length) if length > 0 => Ok(line),
            _ => Err(Error::Answer { what, answer: line }),
        }
    }

    fn go_on(&mut self) -> Result<(), Error> {
        let to = "the program's standard input";
        self.child
            .stdin
            .as_mut()
            .map_or(Ok(()), |stdin| stdin.write_all(b"\n").map_err(Error::file("write", to)))
    }

    /// Waits for its end.
    fn end(mut self) -> Result<(), Error> {
        drop(self.child.stdin.take());
        self.child.wait().map(drop).map_err(Error::file("wait for", "the program"))
    }
}

fn memory(field: &Field, visit: &PathBuf, service: &Service) -> Result<bool, Error> {
    let mut figures = Figures::new("memory with idle connections", "kB");
    let row = |who: &str, count: u32| format!("{who}, {count}");
    for _ in 0..ROUNDS {
        for count in COUNTS {
            let number = count.to_string();
            let mut tp = field.tp(&[], visit)?;
            let mut held = Held::start(tp.args(["idle", field.address(), service.port(), &number]))?;
            held.line()?;
            figures.add(&row(LAUNCHER, count), resident(held.child.id())?);
            figures.add(&row(AGENT, count), resident(field.agent()?)?);
            held.end()?;
            if count > MOST_FORWARDED {
                continue;
            }
            let forward = field.forward(service)?;
            let mut bare = field.bare(visit)?;
            let mut held = Held::start(bare.args(["idle", "127.0.0.1", forward.port(), &number]))?;
            held.line()?;
            figures.add(&row(KUBECTL, count), resident(forward.pid())?);
            held.end()?;
        }
    }
    figures.tell()?;
    let reached = [LAUNCHER, AGENT].map(|who| {
        // The agent outlives the runs, and keeps what it had once: so the least is what it had before.
        let added = figures.median(&row(who, MOST)) - figures.spread(&row(who, FEWEST)).min;
        let each = added / f64::from(MOST - FEWEST);
        goal(&format!("memory of the {who}, a connection"), each, " kB", MEMORY_GOAL)
    });
    Ok(reached == [true, true])
}

fn cpu(field: &Field, bulk: &PathBuf, service: &Service) -> Result<(), Error> {
    let mut figures = Figures::new("CPU time of a GiB", "s");
    let gib = 1024.0 / MIB.parse().unwrap_or(f64::NAN);
    for _ in 0..ROUNDS {
        for direction in ["up", "down"] {
            let mut tp = field.tp(&[], "sh")?;
            tp.args(["-c", CARRY, "sh"]).arg(bulk).args([direction, field.address(), service.port(), MIB]);
            let mut held = Held::start(&mut tp)?;
            held.line()?;
            let processes = [(LAUNCHER, held.child.id()), (AGENT, field.agent()?)];
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
    figures.tell()
}

/// A process's memory that is in RAM, in kB (proc_pid_status(5)).
fn resident(pid: u32) -> Result<f64, Error> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).map_err(Error::file("read", path))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    Ok(line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(f64::NAN))
}

/// A process's CPU time, in seconds (proc_pid_stat(5)): the 14th and the 15th word, in ticks of 10 ms.
fn busy(pid: u32) -> Result<f64, Error> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).map_err(Error::file("read", path))?;
    // The second word may have blanks in it; it ends with the last parenthesis.
    let words = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: f64 = words.skip(11).take(2).filter_map(|word| word.parse::<f64>().ok()).sum();
    Ok(ticks / 100.0)
}
