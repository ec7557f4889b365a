//! A laptop far away: a network namespace beside the laptop's whose wire to the node can be as long and as bad as one
//! wants, for benches. The laptop's own wire stays as it is, so nobody else on it is slowed down.
//!
//! A program carries the packets (`apps/long_wire.c`), since not every kernel has netem.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use crate::layout::{API_PORT, NODE_NETNS, NODE_V4, netns_file};
use crate::{Error, case, netns, run};

/// The namespace.
pub const FAR_NETNS: &str = "tp-far";
/// The wire's two ends, one in each namespace.
const DEVICE: &str = "tp-far0";
const FAR_V4: &str = "10.89.0.2";
const GATEWAY_V4: &str = "10.89.0.1";

/// The wire; it and the namespace go with the value.
#[derive(Debug)]
pub struct Wire {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Wire {
    /// Makes the namespace and the wire, as short as it can be. There is one on a machine at a time.
    ///
    /// # Errors
    /// If there is no `/dev/net/tun`, or no cluster.
    pub fn create(programs: &case::Folder) -> Result<Self, Error> {
        netns::delete(FAR_NETNS)?;
        netns::create(FAR_NETNS)?;
        let program = programs.program("long_wire")?;
        let mut command = Command::new(&program);
        command.arg(netns_file(NODE_NETNS)).arg(DEVICE).arg(netns_file(FAR_NETNS)).arg(DEVICE);
        let started = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = started.map_err(|source| Error::Start { program: run::shown(&command), source })?;
        let Some(stdout) = child.stdout.take() else {
            return Err(Error::Answer { what: "the wire", answer: String::new() });
        };
        let mut wire = Self { child, said: BufReader::new(stdout) };
        wire.says("ready")?;
        let up = |netns: &str, address: &str| {
            netns::ip(
                netns,
                &[&format!("addr add {address}/24 dev {DEVICE}"), &format!("link set {DEVICE} up")],
            )
        };
        netns::nft(NODE_NETNS, &customs())?;
        up(NODE_NETNS, GATEWAY_V4)?;
        up(FAR_NETNS, FAR_V4)?;
        netns::ip(FAR_NETNS, &[&format!("route add 0.0.0.0/0 via {GATEWAY_V4}")])?;
        Ok(wire)
    }

    /// From now on a round trip takes so much longer, and of 1,000 packets so many are lost.
    ///
    /// # Errors
    /// If the wire has been cut.
    pub fn set(&mut self, round_trip: Duration, lost: u32) -> Result<(), Error> {
        if let Some(stdin) = &mut self.child.stdin {
            // In one piece: the wire takes what one read() gives it for a line.
            let line = format!("{} {lost}\n", round_trip.as_micros());
            stdin.write_all(line.as_bytes()).map_err(Error::file("tell", "the wire"))?;
        }
        self.says("set")
    }

    fn says(&mut self, word: &str) -> Result<(), Error> {
        let mut line = String::new();
        let read = self.said.read_line(&mut line);
        if read.is_ok() && line.trim_end() == word {
            Ok(())
        } else {
            Err(Error::Answer { what: "the wire", answer: line })
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // Its end takes the devices with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Err(error) = netns::delete(FAR_NETNS) {
            eprintln!("{FAR_NETNS} stays: {error}");
        }
        let _ = run::output(netns::command(NODE_NETNS, "nft").args(["delete", "table", "inet", "tp_far"]));
    }
}

/// From there, too, nothing but the API server is in reach.
fn customs() -> String {
    format!(
        "table inet tp_far {{}}
        delete table inet tp_far
        table inet tp_far {{
            chain prerouting {{
                type filter hook prerouting priority -350; policy accept;
                iifname {DEVICE} ip daddr {NODE_V4} tcp dport {API_PORT} accept
                iifname {DEVICE} drop
            }}
        }}\n"
    )
}
