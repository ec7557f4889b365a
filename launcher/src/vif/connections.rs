//! TCP connections of the programs inside.
//!
//! # Theory of operation
//! A program's SYN arrives in the gateway, where nftables drops it; its socket waits in `SYN_SENT`, as for any far end
//! that has not answered yet. The launcher has seen the SYN, and dials.
//!
//! | the far end | what is done | what the program's kernel makes of it |
//! |---|---|---|
//! | accepted | a socket in the gateway is bound to the address that was asked for, and connects to the program's: simultaneous open (RFC 9293, 3.5) | the connection, with true addresses at both ends |
//! | refused | a reset, or an ICMP error ([`packet::refusal`]) | the errno |
//! | did not answer | nothing | SYNs again, and `ETIMEDOUT` in the end |
//!
//! States of a connection, by the program's and the asked address:
//!
//! ```text
//!   (unknown) --SYN--> Dialing --accepted--> Meeting --both are connected--> Open --both ends closed--> (unknown)
//!                        |  |
//!                        |  +--timed out--> Silent --nobody waits any more--> (unknown)
//!                        +--refused, or given up--> (unknown)
//! ```
//!
//! A SYN with the number of the one before is the kernel's repetition. Another number is another socket at the same
//! port: whatever was there before is over.
//!
//! Must not: answer before the pod did; touch the data (that is [`relay`](socks_proxy::relay)).

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use socket2::Socket;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tp_abi::errno::code;
use tracing::{Instrument as _, debug, info, info_span};

use super::Network;
use super::packet::{self, Seen};
use crate::gate::DIAL_LIMIT;
use crate::gate::app_end::AppEnd;
use crate::pod::{DialError, Stream};
use crate::sys::socket::is_exhausted;

/// How long the open itself may take; it is a round trip between two namespaces of one machine.
const OPEN_LIMIT: Duration = Duration::from_secs(5);
/// A connection between the same addresses that has just ended is in the way for a second (`net.ipv4.tcp_tw_reuse`).
const IN_THE_WAY: (u32, Duration) = (30, Duration::from_millis(50));

/// The program's address, and the one that it asked for.
pub(super) type Ends = (SocketAddr, SocketAddr);

/// The connections of one network.
#[derive(Default)]
pub(super) struct Connections {
    table: Mutex<HashMap<Ends, Connection>>,
}

struct Connection {
    /// Of its SYN.
    sequence: u32,
    progress: Progress,
    /// Ends it, whatever it is at.
    end: CancellationToken,
}

enum Progress {
    Dialing,
    Meeting,
    Open(AppEnd),
    Silent,
}

impl Connections {
    fn table(&self) -> MutexGuard<'_, HashMap<Ends, Connection>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new connection; [`None`] if this is the repetition of a SYN that is known.
    fn begin(&self, ends: Ends, sequence: u32) -> Option<CancellationToken> {
        let mut table = self.table();
        if let Some(known) = table.get(&ends) {
            if known.sequence == sequence {
                return None;
            }
            known.end.cancel();
        }
        let end = CancellationToken::new();
        let connection = Connection { sequence, progress: Progress::Dialing, end: end.clone() };
        table.insert(ends, connection);
        Some(end)
    }

    /// Whether it is still this one's turn, which then has come so far.
    fn advance(&self, ends: Ends, sequence: u32, progress: Progress) -> bool {
        match self.table().get_mut(&ends).filter(|known| known.sequence == sequence) {
            Some(known) => {
                known.progress = progress;
                true
            }
            None => false,
        }
    }

    fn forget(&self, ends: Ends, sequence: u32) {
        let mut table = self.table();
        if table.get(&ends).is_some_and(|known| known.sequence == sequence) {
            table.remove(&ends);
        }
    }

    /// Those for which a program waits, or has waited.
    pub(super) fn waiting(&self) -> Vec<(Ends, u32)> {
        let waits = |(ends, known): (&Ends, &Connection)| {
            matches!(known.progress, Progress::Dialing | Progress::Silent).then_some((*ends, known.sequence))
        };
        self.table().iter().filter_map(waits).collect()
    }

    /// No program waits for this one any more.
    pub(super) fn give_up(&self, ends: Ends, sequence: u32) {
        let mut table = self.table();
        let waits = |known: &Connection| {
            known.sequence == sequence && matches!(known.progress, Progress::Dialing | Progress::Silent)
        };
        if table.get(&ends).is_some_and(waits)
            && let Some(known) = table.remove(&ends)
        {
            known.end.cancel();
        }
    }

    /// Whether something that a program wrote before it closed its socket may be on its way.
    pub(super) fn has_last_words(&self) -> bool {
        self.table().values().any(|known| match &known.progress {
            Progress::Dialing | Progress::Silent => false,
            Progress::Meeting => true,
            Progress::Open(end) => end.is_closed_by_app(),
        })
    }
}

impl Network {
    /// Takes a SYN of a program. `packet` is all that was seen of it.
    pub(super) fn open(self: &Arc<Self>, (app, asked): Ends, sequence: u32, packet: &[u8]) {
        let Some(end) = self.connections.begin((app, asked), sequence) else { return };
        self.dialing.notify_one();
        let network = Arc::clone(self);
        let packet = packet.to_vec();
        let span = info_span!("connection", %app, %asked);
        let carry = async move {
            let carried = tokio::select! {
                biased;
                () = end.cancelled() => None,
                () = network.end.cancelled() => None,
                carried = network.carry((app, asked), sequence, &packet) => Some(carried),
            };
            match carried {
                None => info!("given up"),
                // The entry stays for as long as the program waits.
                Some(Outcome::Silent) => return,
                Some(Outcome::Over) => {}
            }
            network.connections.forget((app, asked), sequence);
        };
        self.tasks.spawn(carry.instrument(span));
    }

    async fn carry(self: &Arc<Self>, ends: Ends, sequence: u32, packet: &[u8]) -> Outcome {
        let (mut app, mut pod) = match self.meet_at_the_pods_word(ends, sequence).await {
            Ok(opened) => opened,
            Err(errno) => return self.refuse(ends, sequence, packet, errno),
        };
        if !self.connections.advance(ends, sequence, Progress::Open(app.clone())) {
            pod.reset_on_close();
            return Outcome::Over;
        }
        info!("open");
        let relayed = app.relay(&mut pod, |_| false).await;
        // A transfer that was cut off must not look complete to either end.
        if relayed.error.is_some() {
            pod.reset_on_close();
        } else {
            app.has_ended();
        }
        info!(
            app_to_pod = relayed.a_to_b,
            pod_to_app = relayed.b_to_a,
            error = relayed.error.map(|(side, error)| format!("{side:?}: {error}")),
            "closed"
        );
        Outcome::Over
    }

    fn refuse(&self, (app, asked): Ends, sequence: u32, packet: &[u8], errno: i32) -> Outcome {
        info!(errno, "refused");
        match packet::refusal(Seen::Opens { app, asked, sequence }, packet, errno) {
            Some(refusal) => self.raw(app.ip(), refusal),
            None if self.connections.advance((app, asked), sequence, Progress::Silent) => {
                return Outcome::Silent;
            }
            None => {}
        }
        Outcome::Over
    }

    async fn meet_at_the_pods_word(
        self: &Arc<Self>,
        ends: Ends,
        sequence: u32,
    ) -> Result<(AppEnd, Stream), i32> {
        let pod = match timeout(DIAL_LIMIT, self.dial(ends.1)).await {
            Ok(Ok(pod)) => pod,
            Ok(Err(DialError { errno, reason })) => {
                debug!(%reason, "dial failed");
                return Err(errno);
            }
            Err(_elapsed) => return Err(code::ETIMEDOUT),
        };
        self.connections.advance(ends, sequence, Progress::Meeting);
        match self.meet(ends).await {
            Ok(app) => Ok((AppEnd::new(app), pod)),
            Err(error) => {
                debug!(%error, "could not meet the program's socket");
                pod.reset_on_close();
                Err(if is_exhausted(&error) { code::EHOSTUNREACH } else { code::ECONNREFUSED })
            }
        }
    }

    /// The launcher's half of the simultaneous open.
    async fn meet(&self, (app, asked): Ends) -> io::Result<TcpStream> {
        let (tries, pause) = IN_THE_WAY;
        for _ in 0..tries {
            let ours = Socket::from(self.tcp(asked.is_ipv6()).await?);
            ours.bind(&asked.into())?;
            ours.set_tcp_nodelay(true)?;
            // The program may be connected before this task goes on, and the launcher killed between.
            ours.set_linger(Some(Duration::ZERO))?;
            let connect = TcpSocket::from_std_stream(ours.into()).connect(app);
            let met = timeout(OPEN_LIMIT, connect).await;
            match met.map_err(|_elapsed| io::Error::from(io::ErrorKind::TimedOut))? {
                Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => sleep(pause).await,
                met => return met,
            }
        }
        Err(io::ErrorKind::AddrNotAvailable.into())
    }
}

enum Outcome {
    Over,
    /// The program's kernel goes on asking, and gets no answer.
    Silent,
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDS: Ends = (
        SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)), 40_000),
        SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2)), 80),
    );

    #[test]
    fn a_repeated_syn_is_the_same_connection_and_a_new_one_ends_it() {
        let connections = Connections::default();
        let first = connections.begin(ENDS, 1).unwrap();
        assert!(connections.begin(ENDS, 1).is_none());
        assert!(!first.is_cancelled());
        let second = connections.begin(ENDS, 2).unwrap();
        assert!(first.is_cancelled() && !second.is_cancelled());
        // What comes late from the first changes nothing.
        assert!(!connections.advance(ENDS, 1, Progress::Meeting));
        connections.forget(ENDS, 1);
        assert!(connections.advance(ENDS, 2, Progress::Silent));
        assert_eq!(connections.waiting(), [(ENDS, 2)]);
        connections.give_up(ENDS, 1);
        assert!(!second.is_cancelled());
        connections.give_up(ENDS, 2);
        assert!(second.is_cancelled());
        assert!(connections.waiting().is_empty());
    }

    #[test]
    fn what_is_being_opened_is_not_given_up() {
        let connections = Connections::default();
        let end = connections.begin(ENDS, 1).unwrap();
        assert!(connections.advance(ENDS, 1, Progress::Meeting));
        connections.give_up(ENDS, 1);
        assert!(!end.is_cancelled());
        assert!(connections.has_last_words());
    }
}
