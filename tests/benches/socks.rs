//! How fast programs are by one SOCKS5 server (microsocks): under `tp run --proxy`, torsocks and proxychains-ng, and
//! without any of them; all by turns in one run. What a connect() alone costs is in the bench `shim`.
//!
//! - *connections*: connect, GET, read, close, one after the other and 50 at once.
//! - *streams*: one, up and down.
//! - *start*: a run of `true`, from its start to its end.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use tp_tests::figures::{at_least, goal, said};
use tp_tests::run::Background;
use tp_tests::{Error, Figures, Laptop, Socks, Target, case, layout, run};

const ROUNDS: usize = 5;
const SOCKS_PORT: u16 = 21082;
const VISITS: [(&str, [&str; 2]); 2] =
    [("one after the other", ["1000", "1"]), ("50 at once", ["3000", "50"])];
const MIB: &str = "256";
const DIRECTIONS: [&str; 2] = ["up", "down"];

const DIRECT: &str = "direct";
const TP: &str = "tp";
const PEERS: [&str; 2] = ["torsocks", "proxychains-ng"];
const WAYS: [&str; 4] = [DIRECT, TP, PEERS[0], PEERS[1]];

fn main() -> ExitCode {
    match measure() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("socks: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure() -> Result<bool, Error> {
    let target = Target::attach()?;
    let laptop = target.laptop("a SOCKS5 server")?;
    let folder = case::Folder::new(laptop);
    let socks = Socks::start(laptop, SOCKS_PORT)?;
    let chain = format!("strict_chain\nquiet_mode\n[ProxyList]\nsocks5 127.0.0.1 {}\n", socks.port());
    let conf = folder.write("proxychains.conf", &chain, 0o644);
    let bench = Bench { target: &target, laptop, folder, socks, conf };
    let reached = [bench.connections()?, bench.streams()?, bench.start()?];
    Ok(reached.into_iter().all(|reached| reached))
}

struct Bench<'a> {
    target: &'a Target,
    laptop: &'a Laptop,
    folder: case::Folder,
    socks: Socks,
    /// proxychains-ng's configuration.
    conf: String,
}

impl Bench<'_> {
    fn by(&self, way: &str, program: &Path) -> Result<Command, Error> {
        let mut command = match way {
            TP => {
                let mut tp = self.target.tp()?;
                tp.args(["run", "--proxy", &self.socks.url(), "--"]);
                tp
            }
            "torsocks" => {
                let mut torsocks = self.laptop.command("torsocks")?;
                torsocks.args(["-a", "127.0.0.1", "-P", &self.socks.port()]);
                torsocks
            }
            "proxychains-ng" => {
                let mut proxychains = self.laptop.command("proxychains4")?;
                proxychains.args(["-q", "-f", &self.conf]);
                proxychains
            }
            _ => return self.laptop.command(program),
        };
        command.arg(program);
        Ok(command)
    }

    /// A program of `apps`, and its service at the laptop's address on the wire, which is not loopback for anybody.
    fn service(&self, name: &str) -> Result<(PathBuf, String, Background), Error> {
        let path = self.folder.program(name)?;
        let mut service = Background::start(self.laptop.command(&path)?.args(["serve", layout::LAPTOP_V4]))?;
        let port = service.line()?;
        Ok((path, port, service))
    }

    fn connections(&self) -> Result<bool, Error> {
        let mut figures = Figures::new("connections by one SOCKS5 server", "1/s");
        let (visit, port, _service) = self.service("visit")?;
        for _ in 0..ROUNDS {
            for (what, counts) in VISITS {
                for way in WAYS {
                    let mut command = self.by(way, &visit)?;
                    command.args(["get", layout::LAPTOP_V4, &port]).args(counts);
                    let rate = said(&mut command)?.get("rate").copied().unwrap_or(f64::NAN);
                    figures.add(&format!("{way}, {what}"), rate);
                }
            }
        }
        figures.tell()?;
        Ok(ahead(&figures, "connections a second", &VISITS.map(|(what, _)| what)))
    }

    fn streams(&self) -> Result<bool, Error> {
        let mut figures = Figures::new("one stream by one SOCKS5 server", "Gbit/s");
        let (bulk, port, _service) = self.service("bulk")?;
        for _ in 0..ROUNDS {
            for direction in DIRECTIONS {
                for way in WAYS {
                    let mut command = self.by(way, &bulk)?;
                    command.args([direction, layout::LAPTOP_V4, &port, MIB]);
                    let speed = said(&mut command)?.get(direction).copied().unwrap_or(f64::NAN);
                    figures.add(&format!("{way}, {direction}"), speed);
                }
            }
        }
        figures.tell()?;
        Ok(ahead(&figures, "a stream", &DIRECTIONS))
    }

    fn start(&self) -> Result<bool, Error> {
        let mut figures = Figures::new("a run of true by one SOCKS5 server", "ms");
        for _ in 0..ROUNDS {
            for way in WAYS {
                let mut command = self.by(way, Path::new("/bin/true"))?;
                let started = Instant::now();
                run::output(command.stderr(Stdio::null()))?;
                figures.add(way, started.elapsed().as_secs_f64() * 1e3);
            }
        }
        figures.tell()?;
        let over = |peer| {
            let ratio = figures.median(TP) / figures.median(peer);
            goal(&format!("a run of true by SOCKS5, over {peer}"), ratio, "", 1.0)
        };
        Ok(PEERS.map(over) == [true, true])
    }
}

/// Whether tp is faster than each peer in each of these.
fn ahead(figures: &Figures, what: &str, rows: &[&str]) -> bool {
    let mut reached = true;
    for row in rows {
        for peer in PEERS {
            let [tp, other] = [TP, peer].map(|way| figures.median(&format!("{way}, {row}")));
            reached &= at_least(&format!("{what} by SOCKS5, {row}, over {peer}"), tp / other, "", 1.0);
        }
    }
    reached
}
