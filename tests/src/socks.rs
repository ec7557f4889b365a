//! SOCKS5 servers on the laptop's loopback, and what takes a program through one of them, for benches: Debian's microsocks
//! and dante; `tp run --proxy`, torsocks and proxychains-ng.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::run::Background;
use crate::{Error, Laptop, case, packages, run};

const READY_LIMIT: Duration = Duration::from_secs(10);

/// `tp run --proxy`.
pub const TP: &str = "tp";
/// What else takes a program through a SOCKS5 server by LD_PRELOAD.
pub const PEERS: [&str; 2] = ["torsocks", "proxychains-ng"];

/// dante and the libraries of it that a machine may lack: installed, it would be a daemon.
const DANTE: &[&str] = &["dante-server", "libnsl2", "libtirpc3", "libwrap0"];
/// It forks as many children as are busy at once, and some more.
const DANTE_CONF: &str = "internal: 127.0.0.1 port = PORT
external: eth0
clientmethod: none
socksmethod: none
client pass { from: 0/0 to: 0/0 }
socks pass { from: 0/0 to: 0/0 }
";

/// A server that ends with the value.
#[derive(Debug)]
pub struct Socks {
    name: &'static str,
    port: u16,
    laptop: Laptop,
    /// Its own configuration and proxychains-ng's.
    folder: case::Folder,
    _process: Background,
}

impl Socks {
    /// Starts microsocks, and waits until it listens. The port is of the laptop's own network, so nobody else has it.
    ///
    /// # Errors
    /// If it does not start.
    pub fn microsocks(laptop: &Laptop, port: u16) -> Result<Self, Error> {
        let mut process = laptop.command("microsocks")?;
        process.args(["-i", "127.0.0.1", "-p", &port.to_string()]);
        Self::start("microsocks", laptop, port, case::Folder::new(laptop), process)
    }

    /// The same with dante.
    ///
    /// # Errors
    /// If it cannot be had or does not start.
    pub fn dante(laptop: &Laptop, port: u16) -> Result<Self, Error> {
        let folder = case::Folder::new(laptop);
        let conf = folder.write("danted.conf", &DANTE_CONF.replace("PORT", &port.to_string()), 0o644);
        let (program, libraries) = dante()?;
        let mut process = laptop.command(program)?;
        process.env("LD_LIBRARY_PATH", libraries).args(["-f", &conf, "-p", "/dev/null"]);
        Self::start("dante", laptop, port, folder, process)
    }

    fn start(
        name: &'static str,
        laptop: &Laptop,
        port: u16,
        folder: case::Folder,
        mut process: Command,
    ) -> Result<Self, Error> {
        let _ = folder.write("proxychains.conf", &chain(port), 0o644);
        let process = Background::start(process.stderr(Stdio::null()))?;
        let socks = Self { name, port, laptop: laptop.clone(), folder, _process: process };
        let until = Instant::now() + READY_LIMIT;
        loop {
            let connect = format!("</dev/tcp/127.0.0.1/{port}");
            match run::output(laptop.command("bash")?.args(["-c", &connect])) {
                Err(error) if Instant::now() > until => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
                Ok(_) => return Ok(socks),
            }
        }
    }

    /// What server it is.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// As `tp run --proxy` has it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("socks5://127.0.0.1:{}", self.port)
    }

    /// A program through this server by [`TP`] or one of the [`PEERS`], not yet started.
    ///
    /// # Errors
    /// If there is no laptop any more.
    pub fn by(&self, way: &str, program: impl AsRef<Path>) -> Result<Command, Error> {
        let mut command = match way {
            TP => {
                let mut tp = self.laptop.command(self.laptop.prefix().join("bin/tp"))?;
                tp.args(["run", "--proxy", &self.url(), "--"]);
                tp
            }
            "torsocks" => {
                let mut torsocks = self.laptop.command("torsocks")?;
                torsocks.args(["-a", "127.0.0.1", "-P", &self.port.to_string()]);
                torsocks
            }
            _ => {
                let mut proxychains = self.laptop.command("proxychains4")?;
                proxychains.args(["-q", "-f", &self.folder.file("proxychains.conf")]);
                proxychains
            }
        };
        command.arg(program.as_ref());
        Ok(command)
    }
}

/// The version of dante, of which there are only the package's files.
///
/// # Errors
/// If it cannot be had or does not run.
pub fn dante_version() -> Result<String, Error> {
    let (program, libraries) = dante()?;
    let answer = run::output(Command::new(program).env("LD_LIBRARY_PATH", libraries).arg("-v"))?;
    // "Dante v1.4.2.  Copyright (c) …"
    let version = answer.split_whitespace().nth(1).unwrap_or_default();
    Ok(version.trim_matches(['v', '.']).to_owned())
}

/// Its program, and the folder of its libraries.
fn dante() -> Result<(PathBuf, PathBuf), Error> {
    let tree = packages::debian(DANTE)?;
    Ok((tree.join("usr/sbin/danted"), tree.join(format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH))))
}

fn chain(port: u16) -> String {
    format!("strict_chain\nquiet_mode\n[ProxyList]\nsocks5 127.0.0.1 {port}\n")
}
