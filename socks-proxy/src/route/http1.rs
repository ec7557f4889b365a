//! A client's connection of HTTP/1: its requests one after the other, each to whom it belongs.
//!
//! A request waits in the buffer until the one before it is answered, so answers keep their order however much a client
//! sends ahead. Each program has at most one connection of the client, kept for its next request.
//!
//! Invariants: the client is told of a program that cannot be reached (502) only where it could not be; what a program did to
//! the connection (an end, a reset, half an answer) is done to the client's, but for a request that may be asked twice
//! (RFC 9110 9.2.2) and whose program turns out to have gone: that is asked of the next in question. The app's end of an
//! idle connection ends the client's, as it would alone; another's does not. The client's end is the programs', in order.

use std::io;
use std::sync::Arc;

use futures_util::future::{join, join_all};
use tokio::io::AsyncWriteExt as _;
use tokio::time::{Instant, sleep, sleep_until};

use super::exchange::{Outcome, Sending, discard, exchange};
use super::filter::Asked;
use super::framing::{self, Body, Found, Method, Request};
use super::routes::Entry;
use super::visit::Visit;
use super::wire::{Wire, reset_whole};
use super::{HEAD_MAX, HEAD_PATIENCE, HUSH, IDLE};
use crate::relay::{Side, relay};

/// What a client of HTTP/2 says first (RFC 9113 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Serves a client to its end, or gives it back when it speaks HTTP/2.
pub(super) async fn serve(client: Wire, visit: Visit) -> Option<Wire> {
    let mut talk = Talk { client, visit, fars: Vec::new(), begun: false, hushed: false };
    loop {
        let after = match talk.next().await {
            Next::Request(request, entry) => talk.answer(&request, entry).await,
            Next::Http2 => return Some(talk.client),
            Next::After(after) => after,
        };
        match after {
            After::Next => {}
            After::End => {
                join(talk.client.end(), end(talk.fars)).await;
                return None;
            }
            After::Reset => {
                talk.client.reset();
                return None;
            }
            After::Whole(far) => {
                join(whole(talk.client, far.wire), end(talk.fars)).await;
                return None;
            }
        }
    }
}

/// Ends connections to programs in order: a stream that is dropped is reset, and servers complain of resets.
async fn end(fars: Vec<Far>) {
    join_all(fars.into_iter().map(|far| far.wire.end())).await;
}

/// Bytes both ways until both sides have ended.
async fn whole(client: Wire, far: Wire) {
    let (mut client, mut far) = (client.into_whole(), far.into_whole());
    match relay(&mut client, &mut far).await.error {
        Some((Side::A, _)) => reset_whole(far),
        Some((Side::B, _)) => reset_whole(client),
        None => {}
    }
}

struct Talk {
    client: Wire,
    visit: Visit,
    /// Connections to programs, the one used last at the end.
    fars: Vec<Far>,
    /// A request was read.
    begun: bool,
    /// The client's silence was noticed.
    hushed: bool,
}

struct Far {
    entry: Arc<Entry>,
    wire: Wire,
}

enum Next {
    Request(Request, Arc<Entry>),
    Http2,
    After(After),
}

/// What the buffer begins with.
enum Begins {
    Request(Request, Arc<Entry>),
    Http2,
    /// That cannot be said yet.
    Partial,
    Broken,
}

enum After {
    /// The next request.
    Next,
    End,
    Reset,
    /// The rest of the connection is this program's.
    Whole(Far),
}

impl Talk {
    /// Waits for the next request.
    async fn next(&mut self) -> Next {
        let mut whole_by = None;
        loop {
            match self.begins() {
                Begins::Request(request, entry) => return Next::Request(request, entry),
                Begins::Http2 => return Next::Http2,
                Begins::Partial
                    if self.client.incoming.buffer.len() < HEAD_MAX && !self.client.incoming.ended => {}
                Begins::Partial | Begins::Broken => return Next::After(self.give_up().await),
            }
            let event = if self.client.incoming.buffer.is_empty() {
                self.idle().await
            } else {
                let by = *whole_by.get_or_insert_with(|| Instant::now() + HEAD_PATIENCE);
                self.head(by).await
            };
            if let Some(after) = event {
                return Next::After(after);
            }
        }
    }

    fn begins(&mut self) -> Begins {
        let incoming = &mut self.client.incoming;
        if self.begun {
            // RFC 9112 2.2: empty lines before a request; some clients end a body with one.
            while incoming.buffer.starts_with(b"\r\n") {
                incoming.drop_front(2);
            }
        } else if incoming.buffer.starts_with(PREFACE) {
            return Begins::Http2;
        } else if PREFACE.starts_with(&incoming.buffer) {
            return Begins::Partial;
        }
        let look = |target: &[u8], headers: &[httparse::Header<'_>]| {
            let headers = headers.iter().map(|header| (header.name, header.value)).collect();
            self.visit.choose(&Asked { target, headers })
        };
        match framing::request(&incoming.buffer, look) {
            Found::Whole((request, entry)) => {
                self.begun = true;
                Begins::Request(request, entry)
            }
            Found::Partial => Begins::Partial,
            Found::Broken => Begins::Broken,
        }
    }

    /// Waits while the client says nothing.
    async fn idle(&mut self) -> Option<After> {
        let hush = !self.begun && !self.hushed;
        let Self { client, visit, fars, .. } = self;
        let last = fars.last_mut().filter(|far| !far.entry.is_filtered());
        let alone = last.is_none();
        let end = async {
            match last {
                Some(far) => far.wire.incoming.fill().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            read = client.incoming.fill() => read.is_err().then_some(After::Reset),
            ended = end => Some(match (ended, fars.pop()) {
                (Ok(_), Some(far)) => After::Whole(far),
                _ => After::Reset,
            }),
            () = visit.changed() => {
                // Streams of a program that is gone hold its session open.
                fars.retain(|far| visit.knows(&far.entry));
                None
            }
            () = sleep(HUSH), if hush => {
                self.hushed = true;
                fars.extend(Self::dial(visit, visit.rest()).await.ok());
                None
            }
            () = sleep(IDLE), if alone => Some(After::End),
        }
    }

    /// Waits for more of a head.
    async fn head(&mut self, by: Instant) -> Option<After> {
        tokio::select! {
            read = self.client.incoming.fill() => read.is_err().then_some(After::Reset),
            () = sleep_until(by) => Some(self.give_up().await),
        }
    }

    /// What the client says is no request, or none that everybody reads alike: the rest is for whom no filter is asked.
    async fn give_up(&mut self) -> After {
        if self.client.incoming.buffer.is_empty() {
            return After::End;
        }
        match self.far(self.visit.unread(&self.client.incoming.buffer)).await {
            Ok((far, _)) => After::Whole(far),
            Err(_) => After::Reset,
        }
    }

    /// Has a request answered.
    async fn answer(&mut self, request: &Request, entry: Arc<Entry>) -> After {
        let buffer = &self.client.incoming.buffer;
        let head = buffer.get(..request.length).unwrap_or_default();
        // What can be asked a second time, if the program ends at this moment, or the connection that is kept for it.
        let again = (request.method == Method::Safe && request.body == Body::Sized(0)).then(|| head.to_vec());
        loop {
            let mut sending = Sending::request(request);
            let (mut far, kept) = match self.far(entry.clone()).await {
                Ok(far) => far,
                Err(error) => return self.refuse(request, &mut sending, &error).await,
            };
            match exchange(&mut self.client, &mut far.wire, &mut sending, request.method).await {
                Outcome::Again => {
                    self.fars.push(far);
                    return if request.persistent { After::Next } else { After::End };
                }
                Outcome::Last => {
                    self.fars.push(far);
                    return After::End;
                }
                Outcome::Whole => return After::Whole(far),
                Outcome::ClientLost => {
                    far.wire.reset();
                    return After::Reset;
                }
                Outcome::FarLost { answered: false, error } => {
                    if let Some(head) = &again
                        && (kept || self.visit.goes(&far.entry).await)
                    {
                        let sent = head.len().saturating_sub(sending.ready());
                        self.client.incoming.put_back(head.get(..sent).unwrap_or_default());
                        continue;
                    }
                    if !kept && far.entry.is_filtered() {
                        let error = error.unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into());
                        return self.refuse(request, &mut sending, &error).await;
                    }
                    return if error.is_some() { After::Reset } else { After::End };
                }
                Outcome::FarLost { error, .. } => {
                    return if error.is_some() { After::Reset } else { After::End };
                }
            }
        }
    }

    /// A connection to a program, and whether it is one that was kept.
    async fn far(&mut self, entry: Arc<Entry>) -> io::Result<(Far, bool)> {
        if let Some(at) = self.fars.iter().position(|far| Arc::ptr_eq(&far.entry, &entry)) {
            let mut far = self.fars.remove(at);
            if far.wire.is_quiet() {
                return Ok((far, true));
            }
        }
        Ok((Self::dial(&self.visit, entry).await?, false))
    }

    async fn dial(visit: &Visit, entry: Arc<Entry>) -> io::Result<Far> {
        let (entry, stream) = visit.dial(entry).await?;
        Ok(Far { entry, wire: Wire::new(stream) })
    }

    /// Tells the client that its request has reached nobody, and passes over what is left of it.
    async fn refuse(&mut self, request: &Request, sending: &mut Sending, error: &io::Error) -> After {
        let last = !request.persistent || request.expects && !sending.is_sent();
        let answer = refusal(request.method, last, error);
        let to_client = &mut self.client.outgoing;
        if to_client.write_all(answer.as_bytes()).await.is_err() || to_client.flush().await.is_err() {
            return After::Reset;
        }
        if !last && discard(&mut self.client, sending).await { After::Next } else { After::End }
    }
}

fn refusal(method: Method, last: bool, error: &io::Error) -> String {
    let status = match error.kind() {
        io::ErrorKind::TimedOut => "504 Gateway Timeout",
        _ => "502 Bad Gateway",
    };
    let text = super::refusal(error);
    let close = if last { "Connection: close\r\n" } else { "" };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n{close}\r\n",
        text.len()
    );
    if method == Method::Head { head } else { head + &text }
}
