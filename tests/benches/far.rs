//! What tp is like when the cluster is far away: round trips that a connect and a name cost, and how fast a stream is, with
//! 5, 50 and 200 ms of round trip added to the laptop's wire, and with 1 % of all packets lost; beside `kubectl
//! port-forward`, by turns in one run.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use tp_tests::field::Service;
use tp_tests::figures::{at_least, goal, said};
use tp_tests::{Error, Field, Figures, run};

const ROUNDS: usize = 5;
const TP: &str = "tp";
const FORWARD: &str = "kubectl port-forward";
const DIRECTIONS: [&str; 2] = ["up", "down"];
/// A round trip is one with this much more for all that is done on the way.
const ONE: f64 = 1.1;

/// A wire.
struct Distance {
    name: &'static str,
    ms: u32,
    /// Of 1,000 packets.
    lost: u32,
    /// What a stream carries.
    mib: &'static str,
}

const NEAR: Distance = Distance { name: "no delay", ms: 0, lost: 0, mib: "32" };
const DISTANCES: [Distance; 5] = [
    NEAR,
    Distance { name: "5 ms", ms: 5, lost: 0, mib: "32" },
    Distance { name: "50 ms", ms: 50, lost: 0, mib: "16" },
    Distance { name: "200 ms", ms: 200, lost: 0, mib: "8" },
    Distance { name: "50 ms, 1 % lost", ms: 50, lost: 10, mib: "2" },
];
/// At these the round trips are what counts, and nothing else.
const COUNTED: std::ops::RangeInclusive<u32> = 50..=200;

/// `$1` is `visit`, `$2` and `$3` its service; `$4` is `lookups`; `$5` is `bulk`, `$6` and `$7` its service and `$8` its MiB.
const PROGRAM: &str = "
\"$1\" get $2 $3 10 1 | sed s/^/get-/
\"$4\" new default.pod.cluster.local. 10 1 | sed s/^/new-/
\"$4\" same backend.default.svc.cluster.local. 10 | sed s/^/same-/
\"$5\" up $6 $7 $8; \"$5\" down $6 $7 $8";
/// The same without names.
const FORWARDED: &str = "
\"$1\" get $2 $3 10 1 | sed s/^/get-/
\"$5\" up $6 $7 $8; \"$5\" down $6 $7 $8";

fn main() -> ExitCode {
    match measure() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("far: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Bench {
    field: Field,
    visit: PathBuf,
    lookups: PathBuf,
    bulk: PathBuf,
    requests: Service,
    bytes: Service,
}

fn measure() -> Result<bool, Error> {
    let (field, mut wire) = Field::far_away("a long wire")?;
    let [visit, lookups, bulk] = [field.program("visit")?, field.program("lookups")?, field.program("bulk")?];
    let (requests, bytes) = (field.serve(&visit)?, field.serve(&bulk)?);
    let bench = Bench { field, visit, lookups, bulk, requests, bytes };
    let mut all = All {
        starts: Figures::new("a run of true, far away", "ms"),
        prices: Figures::new("connects and names, far away", "ms"),
        speeds: Figures::new("one stream, far away", "Mbit/s"),
    };
    for _ in 0..ROUNDS {
        for distance in &DISTANCES {
            wire.set(Duration::from_millis(distance.ms.into()), distance.lost)?;
            all.add(distance, &bench)?;
        }
    }
    all.starts.tell()?;
    all.prices.tell()?;
    all.speeds.tell()?;
    Ok(all.reached())
}

impl Bench {
    /// All that is asked of tp.
    fn tp(&self, mib: &str) -> Result<BTreeMap<String, f64>, Error> {
        let address = self.field.address();
        let mut tp = self.field.tp(&[], "sh")?;
        tp.args(["-c", PROGRAM, "sh"]).arg(&self.visit).args([address, self.requests.port()]);
        said(tp.arg(&self.lookups).arg(&self.bulk).args([address, self.bytes.port(), mib]))
    }

    /// The same of `kubectl port-forward`, as far as it goes.
    fn forwarded(&self, mib: &str) -> Result<BTreeMap<String, f64>, Error> {
        let [requests, bytes] = [self.field.forward(&self.requests)?, self.field.forward(&self.bytes)?];
        let mut shell = self.field.bare("sh")?;
        shell.args(["-c", FORWARDED, "sh"]).arg(&self.visit).args(["127.0.0.1", requests.port(), "-"]);
        said(shell.arg(&self.bulk).args(["127.0.0.1", bytes.port(), mib]))
    }
}

struct All {
    starts: Figures,
    prices: Figures,
    speeds: Figures,
}

impl All {
    fn add(&mut self, distance: &Distance, bench: &Bench) -> Result<(), Error> {
        let row = |what: &str| format!("{what}, {}", distance.name);
        let started = Instant::now();
        run::output(&mut bench.field.tp(&[], "true")?)?;
        self.starts.add(&row(TP), started.elapsed().as_secs_f64() * 1e3);
        for (way, said) in [(TP, bench.tp(distance.mib)?), (FORWARD, bench.forwarded(distance.mib)?)] {
            let of = |name: &str| said.get(name).copied().unwrap_or(f64::NAN);
            self.prices.add(&row(&format!("{way}, connect, GET, read, close")), of("get-p50") / 1e3);
            if way == TP {
                self.prices.add(&row("connect"), of("get-connect") / 1e3);
                self.prices.add(&row("a new name"), of("new-p50") / 1e3);
                self.prices.add(&row("the same name"), of("same-p50") / 1e3);
            }
            for direction in DIRECTIONS {
                self.speeds.add(&row(&format!("{way}, {direction}")), of(direction) * 1e3);
            }
        }
        Ok(())
    }

    fn reached(&self) -> bool {
        let mut reached = true;
        for Distance { name, ms, .. } in
            DISTANCES.iter().filter(|far| far.lost == 0 && COUNTED.contains(&far.ms))
        {
            for (what, most) in [("connect", ONE), ("a new name", ONE), ("the same name", ONE - 1.0)] {
                let price = |name: &str| self.prices.median(&format!("{what}, {name}"));
                let trips = (price(name) - price(NEAR.name)) / f64::from(*ms);
                reached &= goal(&format!("round trips of {what}, {name}"), trips, "", most);
            }
        }
        for Distance { name, .. } in DISTANCES.iter().filter(|far| far.ms > 0) {
            for direction in DIRECTIONS {
                let [tp, forward] =
                    [TP, FORWARD].map(|way| self.speeds.median(&format!("{way}, {direction}, {name}")));
                let what = format!("a stream {direction}, {name}, over kubectl port-forward");
                reached &= at_least(&what, tp / forward, "", 1.0);
            }
        }
        reached
    }
}
