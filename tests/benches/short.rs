//! The short bench: a few ratios that are steady on a busy machine, each compared with the one that is stored. It fails when
//! one has fallen by more than a third, three times in a row.
//!
//! `TP_BENCH_STORE` set stores the median of three measurements of each.
//!
//! A ratio is how many times as good as its peer tp is: of two times the peer's over tp's, of two speeds tp's over the
//! peer's.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;
use std::{env, fs};

use tp_tests::field::{Forward, Service};
use tp_tests::figures::{said, said_of, short};
use tp_tests::held::{CARRY, Held, busy, resident};
use tp_tests::run::Background;
use tp_tests::socks::TP;
use tp_tests::{Error, Field, Socks, layout, run};

const STORED: &str = "benches/stored.json";
/// Set to store what is measured.
const STORE: &str = "TP_BENCH_STORE";
const ROUNDS: usize = 5;
/// How often a ratio may be measured: other programs run on the machine, too.
const TRIES: usize = 3;
/// What must be left of a ratio.
const LEFT: f64 = 2.0 / 3.0;
const SOCKS_PORT: u16 = 21083;
const MIB: &str = "64";
const NAME: &str = "backend.default.svc.cluster.local.";

/// What is measured, and how.
type Ratio = (&'static str, fn(&Bench) -> Result<f64, Error>);
const RATIOS: [Ratio; 11] = [
    ("a run of true, beside kubectl get --raw /readyz", Bench::start),
    ("calls that stay local, beside the same without the shim", Bench::local_calls),
    ("a connect() by SOCKS5, beside torsocks", Bench::socks),
    ("connect, GET, read, close, beside kubectl port-forward", Bench::visits),
    ("connections at once, beside kubectl port-forward", Bench::at_once),
    ("the same name, beside libc in a pod", Bench::names),
    ("datagrams that come, beside a pod's own", Bench::datagrams),
    ("a stream up, beside kubectl port-forward", |bench| bench.speed("up")),
    ("a stream down, beside kubectl port-forward", |bench| bench.speed("down")),
    ("CPU time of a stream up and one down, beside kubectl port-forward", Bench::cpu),
    ("memory with 1,000 connections, beside kubectl port-forward", Bench::memory),
];

fn main() -> ExitCode {
    match measure() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("short: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Bench {
    field: Field,
    visit: PathBuf,
    bulk: PathBuf,
    prices: PathBuf,
    lookups: PathBuf,
    packets: PathBuf,
    requests: Service,
    bytes: Service,
    datagrams: Service,
    by_kubectl: [Forward; 2],
    socks: Socks,
}

fn measure() -> Result<bool, Error> {
    let file = layout::sources(STORED);
    let mut stored: BTreeMap<String, f64> =
        fs::read(&file).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
    let store = env::var_os(STORE).is_some();
    let field = Field::create("the short bench")?;
    let [visit, bulk, prices] = [field.program("visit")?, field.program("bulk")?, field.program("prices")?];
    let [lookups, packets] = [field.program("lookups")?, field.program("packets")?];
    let [requests, bytes, datagrams] = [field.serve(&visit)?, field.serve(&bulk)?, field.serve(&packets)?];
    let by_kubectl = [field.forward(&requests)?, field.forward(&bytes)?];
    let socks = Socks::microsocks(field.laptop(), SOCKS_PORT)?;
    let bench =
        Bench { field, visit, bulk, prices, lookups, packets, requests, bytes, datagrams, by_kubectl, socks };

    let mut reached = true;
    for (name, ratio) in RATIOS {
        let least = stored.get(name).map(|stored| stored * LEFT);
        let mut tried = Vec::new();
        for _ in 0..TRIES {
            tried.push(ratio(&bench)?);
            if !store && tried.last().copied() >= least {
                break;
            }
        }
        tried.sort_by(f64::total_cmp);
        let measured = if store { tried.get(TRIES / 2) } else { tried.last() };
        let measured = measured.copied().unwrap_or(f64::NAN);
        let least =
            least.map_or_else(|| "not stored".to_owned(), |least| format!("at least {}", short(least)));
        println!("{name}: {} times as good ({least})", short(measured));
        reached &= stored.get(name).is_some_and(|stored| measured >= stored * LEFT);
        if store {
            stored.insert(name.to_owned(), (measured * 100.0).round() / 100.0);
        }
    }
    if !store {
        return Ok(reached);
    }
    stored.retain(|name, _| RATIOS.iter().any(|(known, _)| known == name));
    let text = serde_json::to_string_pretty(&stored).unwrap_or_default() + "\n";
    fs::write(&file, text).map_err(Error::file("write", file))?;
    Ok(true)
}

/// The median of the first over that of the second, by turns.
fn medians(mut round: impl FnMut() -> Result<[f64; 2], Error>) -> Result<f64, Error> {
    let mut values = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (values, value) in values.iter_mut().zip(round()?) {
            values.push(value);
        }
    }
    let [over, under] = values.map(|mut values| {
        values.sort_by(f64::total_cmp);
        values.get(ROUNDS / 2).copied().unwrap_or(f64::NAN)
    });
    Ok(over / under)
}

fn time(command: &mut Command) -> Result<f64, Error> {
    let started = Instant::now();
    run::output(command)?;
    Ok(started.elapsed().as_secs_f64())
}

impl Bench {
    /// A program under `tp run` and on the laptop by `kubectl port-forward`, each with VERB, address and port.
    fn both(&self, program: &Path, verb: &str) -> Result<[Command; 2], Error> {
        let [requests, bytes] = &self.by_kubectl;
        let (service, forward) =
            if program == self.visit { (&self.requests, requests) } else { (&self.bytes, bytes) };
        let (mut tp, mut bare) = (self.field.tp(&[], program)?, self.field.bare(program)?);
        tp.args([verb, self.field.address(), service.port()]);
        bare.args([verb, "127.0.0.1", forward.port()]);
        Ok([tp, bare])
    }

    /// A figure of `visit get`, of tp and of the other.
    fn visit(&self, figure: &str, counts: [&str; 2]) -> Result<[f64; 2], Error> {
        let [mut tp, mut bare] = self.both(&self.visit, "get")?;
        Ok([said_of(tp.args(counts), figure)?, said_of(bare.args(counts), figure)?])
    }

    fn start(&self) -> Result<f64, Error> {
        medians(|| {
            let readyz = time(self.field.bare("kubectl")?.args(["get", "--raw", "/readyz"]))?;
            Ok([readyz, time(&mut self.field.tp(&[], "true")?)?])
        })
    }

    fn local_calls(&self) -> Result<f64, Error> {
        let words = ["local", "30000"];
        medians(|| {
            let bare = said(self.field.bare(&self.prices)?.args(words))?;
            let hooked = said(self.socks.by(TP, &self.prices)?.args(words))?;
            Ok([bare.values().sum(), hooked.values().sum()])
        })
    }

    fn socks(&self) -> Result<f64, Error> {
        let mut service =
            Background::start(self.field.bare(&self.prices)?.args(["serve", layout::LAPTOP_V4]))?;
        let port = service.line()?;
        let words = ["connect", layout::LAPTOP_V4, &port, "300"];
        medians(|| {
            let by = |way| said_of(self.socks.by(way, &self.prices)?.args(words), "connect");
            Ok([by("torsocks")?, by(TP)?])
        })
    }

    fn visits(&self) -> Result<f64, Error> {
        medians(|| self.visit("p50", ["200", "1"]).map(|[tp, kubectl]| [kubectl, tp]))
    }

    fn at_once(&self) -> Result<f64, Error> {
        medians(|| self.visit("rate", ["500", "50"]))
    }

    fn names(&self) -> Result<f64, Error> {
        let rate = |mut by: Command, count| said_of(by.args(["same", NAME, count]), "rate");
        medians(|| {
            let (tp, direct) = (self.field.tp(&[], &self.lookups)?, self.field.direct(&self.lookups)?);
            Ok([rate(tp, "100000")?, rate(direct, "500")?])
        })
    }

    fn datagrams(&self) -> Result<f64, Error> {
        let words = ["send", self.field.address(), self.datagrams.port(), "500", "1200"];
        medians(|| {
            let (mut tp, mut direct) =
                (self.field.tp(&[], &self.packets)?, self.field.direct(&self.packets)?);
            Ok([said_of(tp.args(words), "came")?, said_of(direct.args(words), "came")?])
        })
    }

    fn speed(&self, direction: &str) -> Result<f64, Error> {
        medians(|| {
            let [mut tp, mut bare] = self.both(&self.bulk, direction)?;
            Ok([said_of(tp.arg(MIB), direction)?, said_of(bare.arg(MIB), direction)?])
        })
    }

    fn cpu(&self) -> Result<f64, Error> {
        let [_, forward] = &self.by_kubectl;
        medians(|| {
            let mut used = [0.0, 0.0];
            for direction in ["up", "down"] {
                let before = busy(forward.pid())?;
                let [_, mut bare] = self.both(&self.bulk, direction)?;
                run::output(bare.arg(MIB))?;
                let kubectl = busy(forward.pid())? - before;
                let mut tp = self.field.tp(&[], "sh")?;
                tp.args(["-c", CARRY, "sh"]).arg(&self.bulk);
                tp.args([direction, self.field.address(), self.bytes.port(), MIB]);
                let mut held = Held::start(&mut tp)?;
                held.line()?;
                let processes = [held.pid(), self.field.agent()?];
                let ours = || Ok::<_, Error>(busy(processes[0])? + busy(processes[1])?);
                let before = ours()?;
                held.go_on()?;
                held.line()?;
                used[0] += kubectl;
                used[1] += ours()? - before;
                held.end()?;
            }
            Ok(used)
        })
    }

    fn memory(&self) -> Result<f64, Error> {
        medians(|| {
            // A kubectl of its own: it keeps what it had once.
            let forward = self.field.forward(&self.requests)?;
            let mut bare = self.field.bare(&self.visit)?;
            let mut held = Held::start(bare.args(["idle", "127.0.0.1", forward.port(), "1000"]))?;
            held.figures("open")?;
            let kubectl = resident(forward.pid())?;
            held.end()?;
            let [mut tp, _] = self.both(&self.visit, "idle")?;
            let mut held = Held::start(tp.arg("1000"))?;
            held.figures("open")?;
            let ours = resident(held.pid())?;
            held.end()?;
            Ok([kubectl, ours])
        })
    }
}
