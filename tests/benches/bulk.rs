//! How fast streams are to a service in the cluster and back, and what small requests wait while one runs: under `tp
//! run`, by `kubectl port-forward`, and directly from a pod; all by turns in one run.
//!
//! The service reads and makes bytes without touching them, so what is measured is what stands between.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use tp_tests::field::{Forward, Service};
use tp_tests::figures::{at_least, goal, said, said_of};
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
    let forward = field.forward(&bytes)?;
    let bench = Bench { field, bulk, visit, bytes, requests, forward };
    let reached = [bench.streams()?, bench.waits()?];
    Ok(reached == [true, true])
}

struct Bench {
    field: Field,
    bulk: PathBuf,
    visit: PathBuf,
    bytes: Service,
    requests: Service,
    forward: Forward,
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

    fn waits(&self) -> Result<bool, Error> {
        let mut figures = Figures::new("connect, GET, read, close, beside a stream", "us");
        let address = self.field.address();
        let visits = format!("get {address} {} {VISITS} 1", self.requests.port());
        for _ in 0..ROUNDS {
            for beside in [IDLE].into_iter().chain(DIRECTIONS) {
                let mut command = if beside == IDLE {
                    let mut tp = self.field.tp(&[], &self.visit)?;
                    tp.args(visits.split(' '));
                    tp
                } else {
                    let stream = format!("{beside} {address} {} 1000000", self.bytes.port());
                    let mut tp = self.field.tp(&[], "sh")?;
                    tp.args(["-c", BESIDE, "sh"]).arg(&self.visit).arg(&visits).arg(&self.bulk).arg(stream);
                    tp
                };
                let said = said(&mut command)?;
                for part in ["p50", "p99"] {
                    figures.add(&format!("{beside}, {part}"), said.get(part).copied().unwrap_or(f64::NAN));
                }
            }
        }
        figures.tell()?;
        let idle = figures.median(&format!("{IDLE}, p99"));
        let reached = DIRECTIONS.map(|direction| {
            let ratio = figures.median(&format!("{direction}, p99")) / idle;
            goal(&format!("small requests beside a stream {direction}: p99, over idle"), ratio, "", WAIT_GOAL)
        });
        Ok(reached == [true, true])
    }
}
