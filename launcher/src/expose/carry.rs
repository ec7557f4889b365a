//! What arrives at an exposed port, carried to the program.
//!
//! Each arrival is a stream that the agent opened, with the peer's address at its head. Ends are passed on one by one, an
//! error on one side resets the other (see [`relay`](socks_proxy::relay)); a side that does not read holds the other back
//! by the stream's window, and nobody else.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use socks_proxy::expose::wire::{ARRIVAL_MAX, Arrival, Protocol, TAKEN, TO_THE_APP};
use socks_proxy::messages;
use socks_proxy::mux::MuxStream;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::{debug, info};

use super::program::{Port, Program, Unreached};
use crate::gate::app_end::AppEnd;
use crate::pod::datagrams::{Arrived, Datagrams, append};

/// How long the head of a stream may take once it is open.
const HEAD_LIMIT: Duration = Duration::from_secs(5);
/// How long a flow of datagrams goes on without any, as for those of programs.
const IDLE: Duration = Duration::from_secs(60);
/// Longest datagram and more.
const DATAGRAM_ROOM: usize = 64 * 1024;

/// A port of the run, as arrivals know it.
#[derive(Debug)]
pub(super) struct Exposed {
    pub(super) protocol: Protocol,
    pub(super) here: Port,
    /// As the user calls the pod's.
    pub(super) said: String,
}

/// Carries one arrival in pod `pod` to its end.
pub(super) async fn carry(mut stream: MuxStream, exposed: &[Arc<Exposed>], program: &Program, pod: &str) {
    let arrival = match timeout(HEAD_LIMIT, messages::read::<Arrival>(&mut stream, ARRIVAL_MAX)).await {
        Ok(Ok(arrival)) => arrival,
        other => return debug!(pod, ?other, "an arrival without a head"),
    };
    let known = usize::try_from(arrival.expose).ok().and_then(|at| exposed.get(at));
    let Some(exposed) = known else { return debug!(pod, ?arrival, "an arrival for no port of ours") };
    let here = exposed.here.number;
    info!("from {} to {here} (pod {pod}, port {})", arrival.peer, arrival.to.port());
    match exposed.protocol {
        Protocol::Tcp => tcp(stream, arrival, exposed, program).await,
        Protocol::Udp => {
            let carried = udp(stream, arrival, exposed, program).await;
            debug!(peer = %arrival.peer, error = carried.err().map(|error| error.to_string()), "flow ended");
        }
    }
}

async fn tcp(mut stream: MuxStream, arrival: Arrival, exposed: &Exposed, program: &Program) {
    let peer = arrival.peer;
    let connected = match program.connect(peer, &exposed.here).await {
        Ok(connected) => connected,
        Err(Unreached::Ended) => {
            debug!(%peer, "left to the app: the command has ended");
            // If this does not get through, the agent gives it to the app all the same.
            let _ = stream.write_all(&[TO_THE_APP]).await;
            let _ = stream.shutdown().await;
            return;
        }
        // Dropped, the stream is reset, and the peer with it.
        Err(Unreached::Refused) => return info!(%peer, "reset: nobody listens on {}", exposed.here.number),
    };
    let _ = connected.set_nodelay(true);
    let mut connected = AppEnd::new(connected);
    if stream.write_all(&[TAKEN]).await.is_err() {
        return debug!(%peer, "gone");
    }
    let relayed = socks_proxy::relay::relay(&mut connected, &mut stream).await;
    if relayed.error.is_none() {
        connected.has_ended();
    }
    info!(
        %peer,
        from_program = relayed.a_to_b,
        to_program = relayed.b_to_a,
        error = relayed.error.map(|(side, error)| format!("{side:?}: {error}")),
        "closed"
    );
}

async fn udp(stream: MuxStream, arrival: Arrival, exposed: &Exposed, program: &Program) -> io::Result<()> {
    let socket = program.datagrams(arrival.peer, &exposed.here).await?;
    let Datagrams { mut outgoing, mut incoming } = Datagrams::new(Box::new(stream), None);
    let (used_tx, used_rx) = watch::channel(());
    let to_program = async {
        while let Some(arrived) = incoming.next().await.map_err(|error| io::Error::other(error.reason))? {
            used_tx.send_replace(());
            if let Arrived::Datagram(datagram) = arrived {
                // One that nobody takes is lost, as on any network.
                let _ = socket.send(&datagram).await;
            }
        }
        Ok(())
    };
    let from_program = async {
        let mut room = Vec::new();
        let mut records = BytesMut::new();
        loop {
            room.resize(DATAGRAM_ROOM, 0);
            match socket.recv(&mut room).await {
                Ok(length) => append(&mut records, room.get(..length).unwrap_or_default()),
                // ICMP's word about one that was sent: the program does not listen yet, or any more.
                Err(_) => continue,
            }
            used_tx.send_replace(());
            outgoing.write_all(&records.split()).await?;
            outgoing.flush().await?;
        }
    };
    tokio::select! {
        ended = to_program => ended,
        broken = from_program => broken,
        () = idle(used_rx) => Ok(()),
    }
}

/// Returns when nothing has come for [`IDLE`].
async fn idle(mut used_rx: watch::Receiver<()>) {
    loop {
        tokio::select! {
            used = used_rx.changed() => if used.is_err() { return },
            () = sleep(IDLE) => return,
        }
    }
}
