//! What a private network and a filter cost, beside their peers and beside the shim; all by turns in one run.
//!
//! - *stream*: one TCP stream from a program to a service on the laptop, and back. What stands between:
//!   *nothing* is the kernel's loopback; *vif* is the launcher, where it ends, or which carries it to an address that is
//!   kept local, or, as one of the pod's, to a SOCKS5 server; *slirp4netns*, *pasta* and *smoltcp* have a TCP stack of
//!   their own and carry it to the laptop's loopback; in *smoltcp* it may end, too. All have the largest segments that
//!   they can. The service reads and makes bytes without touching them, so that it is what stands between that is
//!   measured.
//! - *connect*: one connect() by the same SOCKS5 server.
//! - *start*: a run of `true` from spawn to wait.

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Instant;

use tp_tests::figures::{goal, said_of};
use tp_tests::run::Background;
use tp_tests::{Error, Figures, Laptop, Socks, Target, case, layout, run};

mod service;
mod smoltcp;
mod vif;

const ROUNDS: usize = 5;
/// Gives a stream a second or so.
const MIB: &str = "1000";
/// For those that have no fast way.
const FEW_MIB: &str = "200";
const CONNECTS: &str = "1000";
const SOCKS_PORT: u16 = 21081;
const VIF: &str = "vif, up to the launcher";
const UNSHARE: &str = "unshare -Urn true";
const METHODS: [&str; 3] = ["shim", "vif", "trap"];
/// What a peer runs its program by: one that stalls has failed, and a program that is the first of a process namespace
/// (pasta's) ends by SIGKILL alone.
const LIMITED: [&str; 4] = ["timeout", "--signal=KILL", "15", "--"];
/// How often a peer may fail in one round.
const TRIES: usize = 3;

/// Most that the best peer may be of vif.
const STREAM_GOAL: f64 = 0.5;

/// `$1` is the program, the others its arguments; slirp4netns's own address for the laptop's loopback is 10.0.2.2.
const SLIRP: &str = "
coproc inner { unshare -Urn sh -c 'echo $$; read go; exec \"$@\"' sh \"$@\"; }
exec 6<&${inner[0]} 7>&${inner[1]} 5<> <(:)
read -u 6 pid
slirp4netns --configure --mtu=65520 --ready-fd=5 $pid tap0 >&2 &
read -n 1 -u 5; echo >&7; cat <&6; kill $!";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.split_first() {
        Some((first, rest)) if first == "smoltcp" => return smoltcp::main(rest),
        Some((first, rest)) if first == "vif" => return vif::main(rest),
        _ => {}
    }
    match measure() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("inside: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure() -> Result<bool, Error> {
    let target = Target::attach()?;
    let laptop = target.laptop("the price of private networks")?;
    let folder = case::Folder::new(laptop);
    let socks = Socks::microsocks(laptop, SOCKS_PORT)?;
    let inside = laptop.prefix().join("lib/tp/tp-inside");
    let bench = Bench { target: &target, laptop, programs: Programs::make(&folder)?, inside, socks };
    let reached = [bench.streams()?, bench.connect()?, bench.start()?];
    Ok(reached.into_iter().all(|reached| reached))
}

struct Bench<'a> {
    target: &'a Target,
    laptop: &'a Laptop,
    programs: Programs,
    /// The installed `tp-inside`.
    inside: PathBuf,
    socks: Socks,
}

/// What is run, where the laptop's user can read it.
struct Programs {
    bulk: PathBuf,
    prices: PathBuf,
    /// This one, for `smoltcp`.
    own: PathBuf,
}

impl Programs {
    fn make(folder: &case::Folder) -> Result<Self, Error> {
        let built = |name: &str| -> Result<PathBuf, Error> {
            let path = folder.path().join(name);
            run::output(
                Command::new("cc").args(["-O2", "-o"]).arg(&path).arg(case::app(&format!("{name}.c"))),
            )?;
            Ok(path)
        };
        let own = folder.path().join("inside");
        let here = std::env::current_exe().map_err(Error::file("find", "/proc/self/exe"))?;
        std::fs::copy(&here, &own).map_err(Error::file("copy", here))?;
        Ok(Self { bulk: built("bulk")?, prices: built("prices")?, own })
    }
}

/// What runs `bulk` with these words in the one place or the other.
type Through<'a> = Box<dyn Fn(&[&str]) -> Result<Command, Error> + 'a>;

/// One row of the streams.
struct Way<'a> {
    row: &'static str,
    /// Whether it is a peer that vif is compared with.
    is_peer: bool,
    mib: &'static str,
    command: Through<'a>,
    address: &'static str,
}

impl Bench<'_> {
    /// `tp run` by the SOCKS5 server.
    fn tp(&self, method: &str, options: &[&str]) -> Result<Command, Error> {
        let mut tp = self.target.tp()?;
        tp.args(["run", "--method", method, "--proxy", &self.socks.url()]).args(options).arg("--");
        Ok(tp)
    }

    /// A service of `program` at an address, and its port.
    fn service(&self, program: &PathBuf, address: &str) -> Result<(Background, String), Error> {
        let mut service = Background::start(self.laptop.command(program)?.args(["serve", address]))?;
        let port = service.line()?;
        Ok((service, port))
    }

    fn ways<'a>(&'a self, loopback_port: &'a str) -> Vec<Way<'a>> {
        let pasta = ["--config-net", "-f", "-t", "none", "-u", "none", "-U", "none"];
        let by_pasta = move |forward: &'a str| {
            move |words: &[&str]| {
                let mut command = self.laptop.command("pasta")?;
                command.args(pasta).args(["-m", "65520", "-T", forward, "--"]);
                command.args(LIMITED).arg(&self.programs.bulk).args(words);
                Ok(command)
            }
        };
        let by_tp = move |method: &'static str, options: &'static [&'static str]| {
            move |words: &[&str]| {
                let mut command = self.tp(method, options)?;
                command.arg(&self.programs.bulk).args(words);
                Ok(command)
            }
        };
        let nothing = move |words: &[&str]| {
            let mut command = self.laptop.command(&self.programs.bulk)?;
            command.args(words);
            Ok(command)
        };
        let slirp = move |words: &[&str]| {
            let mut command = self.laptop.command("bash")?;
            command.args(["-c", SLIRP, "slirp"]).args(LIMITED).arg(&self.programs.bulk).args(words);
            Ok(command)
        };
        // Words of `bulk` whose address and port are nobody's.
        let vif = move |words: &[&str]| {
            let mut command = self.laptop.command(&self.programs.own)?;
            command.arg("vif").arg(&self.inside).arg(&self.programs.bulk);
            command.args(words.iter().take(1).chain(words.last()));
            Ok(command)
        };
        let tun = move |words: &[&str]| {
            let mut command = self.laptop.command(&self.programs.own)?;
            command.arg("smoltcp").args(LIMITED).arg(&self.programs.bulk).args(words);
            Ok(command)
        };
        let keep = &["--local", layout::LAPTOP_V4];
        let way = |row, is_peer, mib, address, command| Way { row, is_peer, mib, command, address };
        vec![
            way("nothing", false, MIB, layout::LAPTOP_V4, Box::new(nothing)),
            way(VIF, false, MIB, layout::LAPTOP_V4, Box::new(vif)),
            way("vif, kept local", false, MIB, layout::LAPTOP_V4, Box::new(by_tp("vif", keep))),
            way("vif, SOCKS5", false, FEW_MIB, layout::LAPTOP_V4, Box::new(by_tp("vif", &[]))),
            way("trap, SOCKS5", false, FEW_MIB, layout::LAPTOP_V4, Box::new(by_tp("trap", &[]))),
            way("shim, SOCKS5", false, FEW_MIB, layout::LAPTOP_V4, Box::new(by_tp("shim", &[]))),
            way("slirp4netns", true, FEW_MIB, "10.0.2.2", Box::new(slirp)),
            // The gateway's address is the laptop's loopback there. More, and this Debian's pasta may stall.
            way("pasta", true, FEW_MIB, layout::GATEWAY_V4, Box::new(by_pasta("none"))),
            way("pasta, loopback by splice", false, MIB, "127.0.0.1", Box::new(by_pasta(loopback_port))),
            way("TUN and smoltcp, up to there", true, MIB, "-", Box::new(tun)),
            way("TUN and smoltcp", true, MIB, "127.0.0.1", Box::new(tun)),
        ]
    }

    fn streams(&self) -> Result<bool, Error> {
        let mut figures = Figures::new("one stream", "Gbit/s");
        let (_wire, port) = self.service(&self.programs.bulk, layout::LAPTOP_V4)?;
        let (_loopback, loopback_port) = self.service(&self.programs.bulk, "127.0.0.1")?;
        let ways = self.ways(&loopback_port);
        for _ in 0..ROUNDS {
            for way in &ways {
                let port = if way.address == layout::LAPTOP_V4 { &port } else { &loopback_port };
                for direction in ["up", "down"] {
                    let speed = self.speed(way, direction, port)?;
                    figures.add(&format!("{}, {direction}", way.row), speed);
                }
            }
        }
        figures.tell()?;
        let reached = ["up", "down"].map(|direction| {
            let median = |row: &str| figures.median(&format!("{row}, {direction}"));
            let best = ways.iter().filter(|way| way.is_peer).map(|way| median(way.row)).fold(0.0, f64::max);
            goal(&format!("a stream {direction}: best peer over vif"), best / median(VIF), "", STREAM_GOAL)
        });
        Ok(reached == [true, true])
    }

    /// How fast one stream was; not-a-number for a peer that fails again and again. It is their speed that is asked for.
    fn speed(&self, way: &Way<'_>, direction: &str, port: &str) -> Result<f64, Error> {
        let mut tried = 0;
        loop {
            let mut command = (way.command)(&[direction, way.address, port, way.mib])?;
            tried += 1;
            match said_of(&mut command, direction) {
                Err(error) if way.is_peer => eprintln!("{}: {error}", way.row),
                said => return said,
            }
            if tried == TRIES {
                return Ok(f64::NAN);
            }
        }
    }

    fn connect(&self) -> Result<bool, Error> {
        let mut figures = Figures::new("connect() by one SOCKS5 server", "us");
        let (_service, port) = self.service(&self.programs.prices, layout::LAPTOP_V4)?;
        let words = ["connect", layout::LAPTOP_V4, &port, CONNECTS];
        for _ in 0..ROUNDS {
            let mut direct = self.laptop.command(&self.programs.prices)?;
            figures.add("direct", said_of(direct.args(words), "connect")? / 1e3);
            for method in METHODS {
                let mut tp = self.tp(method, &[])?;
                figures.add(method, said_of(tp.arg(&self.programs.prices).args(words), "connect")? / 1e3);
            }
        }
        figures.tell()?;
        Ok(true)
    }

    fn start(&self) -> Result<bool, Error> {
        let mut figures = Figures::new("a run of true", "ms");
        for _ in 0..ROUNDS {
            figures.add(UNSHARE, time(self.laptop.command("unshare")?.args(["-Urn", "true"]))?);
            for method in METHODS {
                figures.add(method, time(self.tp(method, &[])?.arg("true"))?);
            }
        }
        figures.tell()?;
        Ok(true)
    }
}

/// A program from its start to its end, in ms.
fn time(command: &mut Command) -> Result<f64, Error> {
    let started = Instant::now();
    run::output(command)?;
    Ok(started.elapsed().as_secs_f64() * 1000.0)
}
