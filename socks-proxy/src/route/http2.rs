//! A client's connection of HTTP/2: each stream to whom it belongs.
//!
//! Each program has one connection of the client, too, made when the first stream needs it. Pings, settings and windows are
//! each connection's own; heads, bodies, trailers, interim answers and resets with their reasons are passed on.
//!
//! Invariants: a stream's bytes are taken from one side when the other has room for them, so windows bound what is kept;
//! a program that goes ends its own streams and no others.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{client, server};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::routes::Entry;
use super::visit::Visit;
use super::wire::Wire;
use super::{HEAD_MAX, IDLE, Stream};

mod stream;

/// Streams that a client may have open at once.
const STREAMS_MAX: u32 = 1000;
/// Bytes of one stream, and of all together, that a client may be ahead of the program.
const CLIENT_WINDOW: u32 = 256 * 1024;
const CLIENT_WINDOWS: u32 = 4 * 1024 * 1024;
/// The same for a program, which may be far away.
const PROGRAM_WINDOW: u32 = 1024 * 1024;
const PROGRAM_WINDOWS: u32 = 8 * 1024 * 1024;
/// What frames with next to nothing in them may cost, in bytes: streams of small messages have many while nobody reads.
const SMALL_FRAMES: usize = 8 * 1024 * 1024;

/// How long a program's connection may take to end when the client has gone.
const FAREWELL: Duration = Duration::from_secs(5);

/// Serves a client to its end.
pub(super) async fn serve(client: Wire, visit: Visit) {
    let mut builder = server::Builder::new();
    builder
        .initial_window_size(CLIENT_WINDOW)
        .initial_connection_window_size(CLIENT_WINDOWS)
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(head_max())
        .data_frame_budget(SMALL_FRAMES);
    let Ok(mut connection) = builder.handshake::<_, Bytes>(client.into_whole()).await else { return };
    let mut changes = visit.clone();
    let fars = Arc::new(Fars { visit, places: Mutex::default(), gone: CancellationToken::new() });
    let _gone = fars.gone.clone().drop_guard();
    let mut streams = JoinSet::new();
    loop {
        tokio::select! {
            accepted = connection.accept() => match accepted {
                Some(Ok((request, respond))) => {
                    streams.spawn(stream::serve(request, respond, fars.clone()));
                }
                Some(Err(_)) | None => return,
            },
            Some(_) = streams.join_next() => {}
            () = changes.changed() => fars.forget(),
            () = sleep(IDLE), if streams.is_empty() => connection.graceful_shutdown(),
        }
    }
}

fn head_max() -> u32 {
    u32::try_from(HEAD_MAX).unwrap_or(u32::MAX)
}

/// The connection to one program, if there is one. Locked while it is made, so that streams that come together share it.
type Place = Arc<tokio::sync::Mutex<Option<SendRequest<Bytes>>>>;

/// The client's connections to programs.
struct Fars {
    visit: Visit,
    places: Mutex<Vec<(Arc<Entry>, Place)>>,
    /// The client has gone.
    gone: CancellationToken,
}

impl Fars {
    /// A connection to a program that takes another stream.
    async fn sender(&self, entry: Arc<Entry>) -> io::Result<SendRequest<Bytes>> {
        let place = self.place(&entry);
        let mut sender = place.lock().await;
        if let Some(kept) = sender.take()
            // Else it is over, or the program wants no new streams on it.
            && let Ok(kept) = kept.ready().await
        {
            *sender = Some(kept.clone());
            return Ok(kept);
        }
        let (dialed, stream) = self.visit.dial(entry.clone()).await?;
        let made = self.handshake(stream).await.map_err(io::Error::other)?;
        // One that gave the client back may take the next stream.
        if Arc::ptr_eq(&dialed, &entry) {
            *sender = Some(made.clone());
        }
        Ok(made)
    }

    async fn handshake(&self, stream: Stream) -> Result<SendRequest<Bytes>, h2::Error> {
        let mut builder = client::Builder::new();
        builder
            .enable_push(false)
            .initial_window_size(PROGRAM_WINDOW)
            .initial_connection_window_size(PROGRAM_WINDOWS)
            .max_header_list_size(head_max())
            .data_frame_budget(SMALL_FRAMES);
        let (sender, connection) = builder.handshake(stream).await?;
        let gone = self.gone.clone();
        tokio::spawn(async move {
            tokio::select! {
                // When nobody can send on it any more, or the other side has ended it.
                ended = connection => drop(ended),
                () = async { gone.cancelled().await; sleep(FAREWELL).await } => {}
            }
        });
        Ok(sender)
    }

    fn place(&self, entry: &Arc<Entry>) -> Place {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, place)) = places.iter().find(|(known, _)| Arc::ptr_eq(known, entry)) {
            return place.clone();
        }
        let place = Place::default();
        places.push((entry.clone(), place.clone()));
        place
    }

    /// Keeps no connection to a program that is gone: it would hold its session open.
    fn forget(&self) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.retain(|(entry, _)| self.visit.knows(entry));
    }
}
