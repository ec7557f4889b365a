//! What connections to a service in the cluster cost, and how many of them there can be a second: under `tp run`, by
//! `kubectl port-forward`, and directly from a pod; all by turns in one run.
//!
//! - *one after the other*: connect, GET, read the answer, close.
//! - *half-close*: the same with a service that answers only after the client's end of data. `kubectl port-forward` may
//!   lose that answer: then its time is that to the end.
//! - *at once*: 50 and 500 programs' threads that do so all the time.
//! - *kept*: one byte there and back on a connection that stays open.

use std::process::{Command, ExitCode};

use tp_tests::field::{Forward, Service};
use tp_tests::figures::{at_least, goal, said};
use tp_tests::{Error, Field, Figures};

const ROUNDS: usize = 5;
const VISITS: &str = "500";
/// For `kubectl port-forward`, which takes a second each.
const SLOW_VISITS: &str = "3";
const QUESTIONS: &str = "1000";
const MANY: &str = "10000";
/// For `kubectl port-forward`: a rate does not ask for more.
const FEW: &str = "1000";
const AT_ONCE: [&str; 2] = ["50", "500"];

/// Most that a connection may cost, of `kubectl port-forward`'s.
const PRICE_GOAL: f64 = 0.4;
/// Least connections a second, by `kubectl port-forward`'s.
const RATE_GOAL: f64 = 5.0;

const TP: &str = "tp";
const FORWARD: &str = "kubectl port-forward";
const DIRECT: &str = "direct from a pod";
const WAYS: [&str; 3] = [TP, FORWARD, DIRECT];

fn main() -> ExitCode {
    match measure() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("connections: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure() -> Result<bool, Error> {
    let field = Field::create("connections")?;
    let visit = field.program("visit")?;
    let service = field.serve(&visit)?;
    let forward = field.forward(&service)?;
    let bench = Bench { field, visit, service, forward };
    let reached = [bench.one_by_one("get")?, bench.one_by_one("end")?, bench.kept()?, bench.at_once()?];
    Ok(reached.into_iter().all(|reached| reached))
}

struct Bench {
    field: Field,
    visit: std::path::PathBuf,
    service: Service,
    forward: Forward,
}

impl Bench {
    /// `visit VERB` to the service by one of the ways, with the rest of its words.
    fn visit(&self, way: &str, verb: &str, rest: &[&str]) -> Result<Command, Error> {
        let (mut command, address, port) = match way {
            FORWARD => (self.field.bare(&self.visit)?, "127.0.0.1", self.forward.port()),
            DIRECT => (self.field.direct(&self.visit)?, self.field.address(), self.service.port()),
            _ => (self.field.tp(&[], &self.visit)?, self.field.address(), self.service.port()),
        };
        command.args([verb, address, port]).args(rest);
        Ok(command)
    }

    fn one_by_one(&self, verb: &str) -> Result<bool, Error> {
        let (title, count) = match verb {
            "end" => ("connect, send, half-close, read to the end, close", SLOW_VISITS),
            _ => ("connect, GET, read, close", VISITS),
        };
        let mut figures = Figures::new(title, "us");
        let mut failed = 0.0;
        for _ in 0..ROUNDS {
            for way in WAYS {
                let count = if way == FORWARD { count } else { VISITS };
                let said = said(&mut self.visit(way, verb, &[count, "1"])?)?;
                for part in ["p50", "p99"] {
                    // A peer that answers nothing has its time, too.
                    let value = said.get(part).or_else(|| said.get("lost").filter(|_| way == FORWARD));
                    figures.add(&format!("{way}, {part}"), value.copied().unwrap_or(f64::NAN));
                }
                failed += if way == TP { said.get("failed").copied().unwrap_or(f64::NAN) } else { 0.0 };
            }
        }
        figures.tell()?;
        let reached = ["p50", "p99"].map(|part| {
            let [tp, forward] = [TP, FORWARD].map(|way| figures.median(&format!("{way}, {part}")));
            goal(&format!("{title}: {part}, over kubectl port-forward"), tp / forward, "", PRICE_GOAL)
        });
        Ok(goal(&format!("{title}: failures"), failed, "", 0.0) && reached == [true, true])
    }

    fn kept(&self) -> Result<bool, Error> {
        let mut figures = Figures::new("a byte there and back", "us");
        for _ in 0..ROUNDS {
            for way in WAYS {
                let said = said(&mut self.visit(way, "ask", &[QUESTIONS])?)?;
                for part in ["p50", "p99"] {
                    let value = said.get(part).copied().unwrap_or(f64::NAN);
                    figures.add(&format!("{way}, {part}"), value);
                }
            }
        }
        figures.tell()?;
        let ratio = figures.median(&format!("{TP}, p50")) / figures.median(&format!("{FORWARD}, p50"));
        Ok(goal("a byte there and back: p50, over kubectl port-forward", ratio, "", 1.0))
    }

    fn at_once(&self) -> Result<bool, Error> {
        let mut figures = Figures::new("connections, many at once", "1/s");
        let mut failed = 0.0;
        for _ in 0..ROUNDS {
            for at_once in AT_ONCE {
                for way in WAYS {
                    let count = if way == FORWARD { FEW } else { MANY };
                    let said = said(&mut self.visit(way, "get", &[count, at_once])?)?;
                    let rate = said.get("rate").copied().unwrap_or(f64::NAN);
                    figures.add(&format!("{way}, {at_once} at once"), rate);
                    failed += if way == TP { said.get("failed").copied().unwrap_or(f64::NAN) } else { 0.0 };
                }
            }
        }
        figures.tell()?;
        let reached = AT_ONCE.map(|at_once| {
            let [tp, forward] = [TP, FORWARD].map(|way| figures.median(&format!("{way}, {at_once} at once")));
            let what = format!("connections a second, {at_once} at once, over kubectl port-forward");
            at_least(&what, tp / forward, "", RATE_GOAL)
        });
        Ok(goal("connections at once: failures", failed, "", 0.0) && reached == [true, true])
    }
}
