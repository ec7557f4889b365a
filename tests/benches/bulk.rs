//! How fast streams are to a service in the cluster and back, and what small requests wait while one runs: under `tp
//! run`, by `kubectl port-forward`, and directly from a pod; all by turns in one run.
//!
//! The service reads and makes bytes without touching them, so what is measured is what stands between.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::Duration;

use tp_tests::field::{Forward, Service};
use tp_tests::figures::{at_least, goal, said, said_of};
use tp_tests::run::Background;
use tp_tests::{Error, Field, Figures};

const ROUNDS: usize = 5;
const DIRECTIONS: [&str; 2] = ["up", "down"];
/// Streams, and what each carries in MiB: half a second or so for tp.
const STREAMS: [(&str, &str); 2] = [("1", "128"), ("8", "16")];
/// For a pod's own network.
const DIRECT_STREAMS: [(&str, &str); 2] = [("1", "1024"), ("8", "128")];
const VISITS: &str = "100";
const IDLE: &str = "idle";

/// Least, by `kubectl port-forward`'s.
const SPEED_GOAL: f64 = 1.5;
/// Most that a small request may take while a stream runs, of what it takes when none does.
const WAIT_GOAL: f64 = 3.0;

const TP: &str = "tp";
const FORWARD: &str = "kubectl port-forward";
const DIRECT: &str = "direct from a pod";
/// How small requests go, and a stream beside them.
const KINDS: [(&str, &str); 3] = [(TP, TP), (TP, FORWARD), (FORWARD, FORWARD)];

/// How much earlier than the requests a stream begins.
const AHEAD: Duration = Duration::from_millis(500);

/// `$1` is `visit`, `$2` its words, `$3` `bulk`, `$4` its words: visits while a stream of no end runs.
const BESIDE: &str = "\"$3\" $4 >/dev/null 2>&1 & sleep 0.5; \"$1\" $2; kill $!";

fn main() -> ExitCode {
    match measure() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bulk: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure() -> Result<bool, Error> {
    let field = Field::create("streams")?;
    let (bulk, visit) = (field.program("bulk")?, field.program("visit")?);
    let (bytes, requests) = (field.serve(&bulk)?, field.serve(&visit)?);
    let (forward, forwarded_requests) = (field.forward(&bytes)?, field.forward(&requests)?);
    let bench = Bench { field, bulk, visit, bytes, requests, forward, forwarded_requests };
    let reached = [bench.streams()?, bench.waits()?];
    Ok(reached == [true, true])
}

struct Bench {
    field: Field,
    bulk: PathBuf,
    visit: PathBuf,
    bytes: Service,
    requests: Service,
    /// To the service of streams.
    forward: Forward,
    /// To that of requests.
    forwarded_requests: Forward,
}

impl Bench {
    /// `bulk DIRECTION` to the service by one of the ways.
    fn bulk(&self, way: &str, direction: &str, streams: usize) -> Result<Command, Error> {
        let (mut command, address, port) = match way {
            FORWARD => (self.field.bare(&self.bulk)?, "127.0.0.1", self.forward.port()),
            DIRECT => (self.field.direct(&self.bulk)?, self.field.address(), self.bytes.port()),
            _ => (self.field.tp(&[], &self.bulk)?, self.field.address(), self.bytes.port()),
        };
        let sizes = if way == DIRECT { DIRECT_STREAMS } else { STREAMS };
        let (count, mib) = sizes.get(streams).copied().unwrap_or(("1", "1"));
        command.args([direction, address, port, mib, count]);
        Ok(command)
    }

    fn streams(&self) -> Result<bool, Error> {
        let mut figures = Figures::new("streams", "Gbit/s");
        let row = |way: &str, direction: &str, count: &str| format!("{way}, {count} {direction}");
        for _ in 0..ROUNDS {
            for (streams, (count, _)) in STREAMS.iter().enumerate() {
                for direction in DIRECTIONS {
                    for way in [TP, FORWARD, DIRECT] {
                        let speed = said_of(&mut self.bulk(way, direction, streams)?, direction)?;
                        figures.add(&row(way, direction, count), speed);
                    }
                }
            }
        }
        figures.tell()?;
        let mut reached = true;
        for (count, _) in STREAMS {
            for direction in DIRECTIONS {
                let [tp, forward] = [TP, FORWARD].map(|way| figures.median(&row(way, direction, count)));
                let what = format!("{count} stream(s) {direction}, over kubectl port-forward");
                reached &= at_least(&what, tp / forward, "", SPEED_GOAL);
            }
        }
        Ok(reached)
    }

    /// Small requests while nothing else runs, beside a stream of the same way, and under tp beside one that goes by kubectl,
    /// with which they have nothing in common but the machine.
    fn waits(&self) -> Result<bool, Error> {
        let mut figures = Figures::new("connect, GET, read, close, beside a stream", "us");
        for _ in 0..ROUNDS {
            for (way, beside) in KINDS {
                for (row, streams) in rows(way, beside) {
                    let said = self.visits(way, streams.map(|direction| (beside, direction)))?;
                    for part in ["p50", "p99"] {
                        let value = said.get(part).copied().unwrap_or(f64::NAN);
                        figures.add(&format!("{row}, {part}"), value);
                    }
                }
            }
        }
        figures.tell()?;
        let p99 = |row: String| figures.median(&format!("{row}, p99"));
        let mut reached = true;
        for direction in DIRECTIONS {
            let own = |way| p99(format!("{way}, {direction}"));
            let over = |whose: &str, value: f64, limit| {
                let what = format!("small requests beside a stream {direction}: p99, over {whose}");
                goal(&what, own(TP) / value, "", limit)
            };
            reached &= over(IDLE, p99(format!("{TP}, {IDLE}")), WAIT_GOAL);
            reached &= over(FORWARD, own(FORWARD), 1.0);
        }
        Ok(reached)
    }

    /// What visits by one of the ways say beside a stream: by which way, and where to.
    fn visits(&self, way: &str, beside: Option<(&str, &str)>) -> Result<BTreeMap<String, f64>, Error> {
        let (address, port) = match way {
            FORWARD => ("127.0.0.1", self.forwarded_requests.port()),
            _ => (self.field.address(), self.requests.port()),
        };
        let visits = format!("get {address} {port} {VISITS} 1");
        if let Some((TP, direction)) = beside {
            let stream = format!("{direction} {address} {} 1000000", self.bytes.port());
            let mut tp = self.field.tp(&[], "sh")?;
            tp.args(["-c", BESIDE, "sh"]).arg(&self.visit).arg(&visits).arg(&self.bulk).arg(stream);
            return said(&mut tp);
        }
        let mut command =
            if way == TP { self.field.tp(&[], &self.visit)? } else { self.field.bare(&self.visit)? };
        let Some((_, direction)) = beside else { return said(command.args(visits.split(' '))) };
        let mut stream = self.field.bare(&self.bulk)?;
        let _stream =
            Background::start(stream.args([direction, "127.0.0.1", self.forward.port(), "1000000"]))?;
        thread::sleep(AHEAD);
        said(command.args(visits.split(' ')))
    }
}

/// The rows of one kind of visits, and which way a stream goes meanwhile.
fn rows(way: &str, beside: &str) -> Vec<(String, Option<&'static str>)> {
    let whose = if way == beside { String::new() } else { format!(" by {beside}") };
    let streams = DIRECTIONS.map(|direction| (format!("{way}, {direction}{whose}"), Some(direction)));
    let idle = (way == beside).then(|| (format!("{way}, {IDLE}"), None));
    idle.into_iter().chain(streams).collect()
}
