//! How fast programs are by one SOCKS5 server (microsocks, dante): under `tp run --proxy`, torsocks and proxychains-ng, and
//! without any of them; all by turns in one run. What a connect() alone costs is in the bench `shim`.
//!
//! - *connections*: connect, GET, read, close, one after the other and 50 at once.
//! - *streams*: one, up and down.
//! - *start*: a run of `true`, from its start to its end.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use tp_tests::figures::{at_least, goal, said_of};
use tp_tests::run::Background;
use tp_tests::socks::{PEERS, TP};
use tp_tests::{Error, Figures, Laptop, Socks, Target, case, layout, run};

const ROUNDS: usize = 5;
const MICROSOCKS_PORT: u16 = 21082;
const DANTE_PORT: u16 = 21084;
const VISITS: [(&str, [&str; 2]); 2] =
    [("one after the other", ["1000", "1"]), ("50 at once", ["2000", "50"])];
const MIB: &str = "256";
const DIRECTIONS: [&str; 2] = ["up", "down"];
const DIRECT: &str = "direct";

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
    let servers = [Socks::microsocks(laptop, MICROSOCKS_PORT)?, Socks::dante(laptop, DANTE_PORT)?];
    let bench = Bench { laptop, folder, servers };
    let reached = [bench.connections()?, bench.streams()?, bench.start()?];
    Ok(reached.into_iter().all(|reached| reached))
}

struct Bench<'a> {
    laptop: &'a Laptop,
    folder: case::Folder,
    servers: [Socks; 2],
}

impl Bench<'_> {
    /// A program without and with each of the ways by each of the servers, and what its row is called.
    fn ways(&self, program: &Path) -> Result<Vec<(String, Command)>, Error> {
        let mut ways = vec![(DIRECT.to_owned(), self.laptop.command(program)?)];
        for socks in &self.servers {
            for way in [TP, PEERS[0], PEERS[1]] {
                ways.push((format!("{way}, {}", socks.name()), socks.by(way, program)?));
            }
        }
        Ok(ways)
    }

    /// A program of `apps`, and its service at the laptop's address on the wire, which is not loopback for anybody.
    fn service(&self, name: &str) -> Result<(PathBuf, String, Background), Error> {
        let path = self.folder.program(name)?;
        let mut service = Background::start(self.laptop.command(&path)?.args(["serve", layout::LAPTOP_V4]))?;
        let port = service.line()?;
        Ok((path, port, service))
    }

    fn connections(&self) -> Result<bool, Error> {
        let mut figures = Figures::new("connections by a SOCKS5 server", "1/s");
        let (visit, port, _service) = self.service("visit")?;
        for _ in 0..ROUNDS {
            for (what, counts) in VISITS {
                for (row, mut command) in self.ways(&visit)? {
                    self.laptop.forget_closed()?;
                    command.args(["get", layout::LAPTOP_V4, &port]).args(counts);
                    figures.add(&format!("{row}, {what}"), said_of(&mut command, "rate")?);
                }
            }
        }
        figures.tell()?;
        Ok(self.ahead(&figures, "connections a second", &VISITS.map(|(what, _)| what)))
    }

    fn streams(&self) -> Result<bool, Error> {
        let mut figures = Figures::new("one stream by a SOCKS5 server", "Gbit/s");
        let (bulk, port, _service) = self.service("bulk")?;
        for _ in 0..ROUNDS {
            for direction in DIRECTIONS {
                for (row, mut command) in self.ways(&bulk)? {
                    command.args([direction, layout::LAPTOP_V4, &port, MIB]);
                    figures.add(&format!("{row}, {direction}"), said_of(&mut command, direction)?);
                }
            }
        }
        figures.tell()?;
        Ok(self.ahead(&figures, "a stream", &DIRECTIONS))
    }

    fn start(&self) -> Result<bool, Error> {
        let mut figures = Figures::new("a run of true by a SOCKS5 server", "ms");
        for _ in 0..ROUNDS {
            for (row, mut command) in self.ways(Path::new("/bin/true"))? {
                let started = Instant::now();
                run::output(command.stderr(Stdio::null()))?;
                figures.add(&row, started.elapsed().as_secs_f64() * 1e3);
            }
        }
        figures.tell()?;
        Ok(self.judged(|server, peer| {
            let [tp, other] = [TP, peer].map(|way| figures.median(&format!("{way}, {server}")));
            goal(&format!("a run of true by {server}, over {peer}"), tp / other, "", 1.0)
        }))
    }

    /// Whether tp is faster than each peer in each of these.
    fn ahead(&self, figures: &Figures, what: &str, rows: &[&str]) -> bool {
        let reached = rows.iter().map(|row| {
            self.judged(|server, peer| {
                let [tp, other] = [TP, peer].map(|way| figures.median(&format!("{way}, {server}, {row}")));
                at_least(&format!("{what} by {server}, {row}, over {peer}"), tp / other, "", 1.0)
            })
        });
        // Each is to be said.
        reached.fold(true, |all, reached| all & reached)
    }

    /// Whether this is true of each server and each peer; all are asked.
    fn judged(&self, mut judge: impl FnMut(&str, &str) -> bool) -> bool {
        let pairs = self.servers.iter().flat_map(|socks| PEERS.map(|peer| (socks.name(), peer)));
        pairs.fold(true, |all, (server, peer)| judge(server, peer) & all)
    }
}
