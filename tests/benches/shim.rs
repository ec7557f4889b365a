//! What the shim costs a program, beside the same program without it, and what a connect() costs beside other programs
//! that do it by LD_PRELOAD and the same SOCKS5 server; all by turns in one run.
//!
//! - *local calls*: hooked calls that stay on the machine.
//! - *start*: a program's whole life, from spawn to wait.
//! - *connect*: directly, and through microsocks and dante by `tp run --proxy`, torsocks and proxychains-ng.
//! - *stall*: how long an asyncio loop stands still that opens a hundred connections in one turn.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use tp_tests::figures::{goal, said, said_of};
use tp_tests::run::Background;
use tp_tests::socks::{PEERS, TP};
use tp_tests::{Error, Figures, Laptop, Socks, Target, case, layout, run};

const ROUNDS: usize = 7;
const LOCAL_CALLS: &str = "300000";
const STARTS: &str = "200";
const CONNECTS: &str = "1000";
const MICROSOCKS_PORT: u16 = 21080;
const DANTE_PORT: u16 = 21085;

/// Most that a call that stays local may cost more, in ns.
const CALL_GOAL: f64 = 100.0;
/// Most that a program's start may cost more, in ms.
const START_GOAL: f64 = 1.0;
/// Longest stall of an event loop, in ms.
const STALL_GOAL: f64 = 50.0;

fn main() -> ExitCode {
    match measure() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("shim: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure() -> Result<bool, Error> {
    let target = Target::attach()?;
    let laptop = target.laptop("the shim's price")?;
    let folder = case::Folder::new(laptop);
    let prices = folder.program("prices")?;
    let servers = [Socks::microsocks(laptop, MICROSOCKS_PORT)?, Socks::dante(laptop, DANTE_PORT)?];
    let bench = Bench { target: &target, laptop, prices, servers };
    let mut service = Background::start(&mut bench.bare(&["serve", layout::LAPTOP_V4])?)?;
    let port = service.line()?;
    let reached = [bench.local_calls()?, bench.start()?, bench.connect(&port)?, bench.stall()?];
    Ok(reached.into_iter().all(|reached| reached))
}

struct Bench<'a> {
    target: &'a Target,
    laptop: &'a Laptop,
    prices: PathBuf,
    servers: [Socks; 2],
}

impl Bench<'_> {
    /// `prices` on the laptop, without tp.
    fn bare(&self, words: &[&str]) -> Result<Command, Error> {
        let mut command = self.laptop.command(&self.prices)?;
        command.args(words);
        Ok(command)
    }

    /// `prices` under `tp run --proxy`.
    fn by_tp(&self, words: &[&str]) -> Result<Command, Error> {
        let mut command = self.servers[0].by(TP, &self.prices)?;
        command.args(words);
        Ok(command)
    }

    fn local_calls(&self) -> Result<bool, Error> {
        let mut figures = Figures::new("calls that stay local", "ns");
        let mut calls = Vec::new();
        for _ in 0..ROUNDS {
            let words = ["local", LOCAL_CALLS];
            let (bare, hooked) = (said(&mut self.bare(&words)?)?, said(&mut self.by_tp(&words)?)?);
            calls = bare.keys().cloned().collect();
            for (call, price) in bare {
                figures.add(&call, price);
            }
            for (call, price) in hooked {
                figures.add(&format!("{call}, hooked"), price);
            }
        }
        figures.tell()?;
        let added = |call: &String| {
            let added = figures.median(&format!("{call}, hooked")) - figures.median(call);
            // Two calls are timed as one where one alone cannot be repeated.
            goal(
                &format!("{call} hooked, over bare"),
                added,
                " ns",
                CALL_GOAL * (1 + call.matches('+').count()) as f64,
            )
        };
        Ok(calls.iter().map(added).filter(|reached| !reached).count() == 0)
    }

    fn start(&self) -> Result<bool, Error> {
        let mut figures = Figures::new("a program from its start to its end", "ms");
        for _ in 0..ROUNDS {
            let words = ["start", STARTS, "/bin/true"];
            figures.add("bare", said_of(&mut self.bare(&words)?, "start")? / 1e6);
            figures.add("hooked", said_of(&mut self.by_tp(&words)?, "start")? / 1e6);
        }
        figures.tell()?;
        Ok(goal(
            "a program's start hooked, over bare",
            figures.median("hooked") - figures.median("bare"),
            " ms",
            START_GOAL,
        ))
    }

    fn connect(&self, port: &str) -> Result<bool, Error> {
        let mut figures = Figures::new("connect() by a SOCKS5 server", "us");
        let words = ["connect", layout::LAPTOP_V4, port, CONNECTS];
        for _ in 0..ROUNDS {
            self.laptop.forget_closed()?;
            figures.add("direct", said_of(&mut self.bare(&words)?, "connect")? / 1e3);
            for socks in &self.servers {
                for way in [TP, PEERS[0], PEERS[1]] {
                    let price = said_of(socks.by(way, &self.prices)?.args(words), "connect")? / 1e3;
                    figures.add(&format!("{way}, {}", socks.name()), price);
                }
            }
        }
        figures.tell()?;
        let mut reached = true;
        for server in self.servers.each_ref().map(Socks::name) {
            for peer in PEERS {
                let [tp, other] = [TP, peer].map(|way| figures.median(&format!("{way}, {server}")));
                reached &= goal(&format!("connect() by {server}, over {peer}"), tp / other, "", 1.0);
            }
        }
        Ok(reached)
    }

    fn stall(&self) -> Result<bool, Error> {
        let mut figures = Figures::new("longest stall of an event loop with 100 connections", "ms");
        for _ in 0..ROUNDS {
            for (row, hanging) in [("all answer", "0"), ("one hangs", "1")] {
                let said = run::output(
                    &mut self
                        .target
                        .tp_run(["--deployment", "web"], case::python("loop_lag", &["100", hanging]))?,
                )?;
                let stall =
                    said.lines().find_map(|line| line.strip_prefix("longest stall: ")?.strip_suffix(" ms"));
                figures.add(row, stall.and_then(|stall| stall.parse().ok()).unwrap_or(f64::NAN));
            }
        }
        figures.tell()?;
        Ok(goal(
            "longest stall of an event loop while one connection hangs",
            figures.median("one hangs"),
            " ms",
            STALL_GOAL,
        ))
    }
}
