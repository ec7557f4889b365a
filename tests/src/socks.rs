//! A SOCKS5 server on the laptop's loopback, for benches: Debian's microsocks.

use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::run::Background;
use crate::{Error, Laptop, run};

const READY_LIMIT: Duration = Duration::from_secs(10);

/// A server that ends with the value.
#[derive(Debug)]
pub struct Socks {
    port: u16,
    _process: Background,
}

impl Socks {
    /// Starts one, and waits until it listens. The port is of the laptop's own network, so nobody else has it.
    pub fn start(laptop: &Laptop, port: u16) -> Result<Self, Error> {
        let mut process = laptop.command("microsocks")?;
        process.args(["-i", "127.0.0.1", "-p", &port.to_string()]).stderr(Stdio::null());
        let socks = Self { port, _process: Background::start(&mut process)? };
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

    /// As `tp run --proxy` has it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("socks5://127.0.0.1:{}", self.port)
    }

    /// Its port, in text.
    #[must_use]
    pub fn port(&self) -> String {
        self.port.to_string()
    }
}
