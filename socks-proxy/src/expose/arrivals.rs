//! TCP clients that have come to an exposed port: whose they are, and their way there.
//!
//! The launcher says of each whether its program takes it ([`TAKEN`] or not), since between the program's end and
//! the rules' there are always clients. Until it has said so nothing is lost: what the client has said meanwhile is kept, and
//! the app can still be given all of it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::limits::Limit;
use crate::messages;
use crate::mux::MuxStream;
use crate::relay::{Side, relay};
use crate::route::{Connection as _, Probed, Refusal, Stream, Upstream, Visitor};

use super::carried::Carried;
use super::guarded::Guarded;
use super::port::{App, Port, Share};
use super::wire::{Arrival, TAKEN};

/// Bytes of a client that are kept until the launcher has said whose it is.
const KEPT: usize = 64 * 1024;
/// How much later than its streams a session may be seen to have ended.
const GRACE: Duration = Duration::from_millis(200);

/// Serves a client to its end.
pub(super) async fn serve(port: Arc<Port>, client: TcpStream, peer: SocketAddr, waiting: Limit) {
    let (Ok(to), Ok(client)) = (client.local_addr(), Guarded::new(client)) else { return };
    // Whoever connects to the socket behind the rules is a neighbour who has no business there.
    if to.port() != port.number() {
        return;
    }
    let canonical = |at: SocketAddr| SocketAddr::new(at.ip().to_canonical(), at.port());
    let (peer, to) = (canonical(peer), canonical(to));
    let visitor = Visitor { peer, to, probed: port.probed_from(peer.ip()) };
    let client = super::mirror::copied(&port, client, visitor, &waiting);
    if visitor.probed != Probed::No || port.routes().filtered() {
        return crate::route::serve(client, visitor, port.routes()).await;
    }
    match port.owner() {
        Some(share) => carry(&share, &port, client, visitor).await,
        None => pass(port.app(), client, &[], visitor).await,
    }
}

/// What became of an offer.
enum Offer {
    /// The launcher's program has it.
    Taken(MuxStream),
    /// It is the app's, and this is what its client has said so far.
    ToTheApp(Vec<u8>),
    /// It is nobody's.
    Reset,
}

async fn carry(share: &Arc<Share>, port: &Port, mut client: Stream, visitor: Visitor) {
    let _open = share.open.token();
    match offer(share, &mut client, visitor).await {
        Offer::Taken(stream) => {
            let mut stream = Carried::new(stream, share);
            let relayed = relay(&mut client, &mut stream).await;
            if let Some((Side::B, _)) = relayed.error {
                client.reset_on_drop();
            }
        }
        Offer::ToTheApp(said) => pass(port.app(), client, &said, visitor).await,
        Offer::Reset => client.reset_on_drop(),
    }
}

/// Opens a stream for a client, which it begins with.
pub(super) async fn announce(share: &Share, visitor: Visitor) -> io::Result<MuxStream> {
    let mut stream = tokio::select! {
        stream = share.opener.open() => stream?,
        () = share.lost.cancelled() => return Err(io::ErrorKind::NotConnected.into()),
    };
    let arrival = Arrival { expose: share.expose.id, peer: visitor.peer, to: visitor.to };
    messages::write(&mut stream, &arrival).await?;
    Ok(stream)
}

/// Whether a share's launcher is gone, as far as can be known soon after one of its streams failed.
async fn is_lost(share: &Share) -> bool {
    tokio::select! {
        biased;
        () = share.lost.cancelled() => true,
        closed = timeout(GRACE, share.opener.closed()) => closed.is_ok(),
    }
}

async fn offer(share: &Share, client: &mut Stream, visitor: Visitor) -> Offer {
    let mut said = Vec::new();
    let Ok(stream) = announce(share, visitor).await else { return Offer::ToTheApp(said) };
    let (mut from_launcher, mut to_launcher) = tokio::io::split(stream);
    let mut ended = false;
    let verdict = loop {
        let (have, room) = (said.len(), KEPT.saturating_sub(said.len()));
        let mut limited = (&mut *client).take(u64::try_from(room).unwrap_or(0));
        let passed_on = tokio::select! {
            verdict = from_launcher.read_u8() => break verdict,
            () = share.lost.cancelled() => return Offer::ToTheApp(said),
            read = limited.read_buf(&mut said), if !ended && room > 0 => match read {
                Ok(0) => {
                    ended = true;
                    to_launcher.shutdown().await
                }
                Ok(_) => to_launcher.write_all(said.get(have..).unwrap_or_default()).await,
                Err(_) => return Offer::Reset,
            },
        };
        if let Err(error) = passed_on {
            break Err(error);
        }
        if let Err(error) = to_launcher.flush().await {
            break Err(error);
        }
    };
    match verdict {
        Ok(TAKEN) => Offer::Taken(from_launcher.unsplit(to_launcher)),
        Ok(_) => Offer::ToTheApp(said),
        Err(_) if is_lost(share).await => Offer::ToTheApp(said),
        Err(_) => Offer::Reset,
    }
}

/// Takes a client to the app, with what it has said already.
async fn pass(app: &App, mut client: Stream, said: &[u8], visitor: Visitor) {
    let relayed = async {
        let mut far = app.dial(visitor).await?;
        far.write_all(said).await?;
        Ok::<_, io::Error>(match relay(&mut client, &mut far).await.error {
            Some((Side::A, _)) => {
                far.reset_on_drop();
                false
            }
            Some((Side::B, _)) => true,
            None => false,
        })
    };
    if relayed.await.unwrap_or(true) {
        client.reset_on_drop();
    }
}

impl Upstream for Share {
    fn connect(&self, visitor: Visitor) -> BoxFuture<'_, Result<Stream, Refusal>> {
        Box::pin(async move {
            let mut stream = announce(self, visitor).await.map_err(|_| Refusal::NotMine)?;
            let verdict = tokio::select! {
                verdict = stream.read_u8() => verdict,
                () = self.lost.cancelled() => return Err(Refusal::NotMine),
            };
            match verdict {
                Ok(TAKEN) => Ok(Box::new(Carried::new(stream, self)) as Stream),
                Ok(_) => Err(Refusal::NotMine),
                Err(_) if is_lost(self).await => Err(Refusal::NotMine),
                Err(error) => Err(Refusal::Failed(error)),
            }
        })
    }
}

impl Upstream for App {
    fn connect(&self, visitor: Visitor) -> BoxFuture<'_, Result<Stream, Refusal>> {
        Box::pin(async move {
            let stream = self.dial(visitor).await.map_err(Refusal::Failed)?;
            Ok(Box::new(stream) as Stream)
        })
    }
}
