//! One client of the agent's port, from its first byte: plain SOCKS5 with the token as password, or a link.
//!
//! Everybody in the pod can reach the port, and `kubectl port-forward` makes it reachable for whoever may use that;
//! the token alone decides. So a connection is a stranger, of whom there are few and for a short time, until it has
//! proved the token.
//!
//! Invariants: nothing is dialed, resolved or told before the token is proved; a stranger holds a few hundred bytes.

use std::io;
use std::sync::Arc;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::expose::Exposures;
use crate::limits::{HANDSHAKE, Limits, Permit};
use crate::link::{self, Link, TokenDigest};
use crate::mux;
use crate::proto::{
    self, METHOD_PASSWORD, METHOD_REFUSED, credentials_status, decode_credentials, decode_greeting,
};
use crate::resolve::{Resolver, families};

mod commands;
mod conversation;
mod inbox;

use inbox::Inbox;

/// The user name of plain SOCKS5 clients; the password is the token in hexadecimal digits.
pub const USER: &[u8] = b"tp";

/// What all clients share.
#[derive(Debug)]
pub struct Agent {
    /// Digest of the token that opens it.
    pub token: TokenDigest,
    /// The pod's names.
    pub resolver: Resolver,
    /// How much at once.
    pub limits: Limits,
    /// Told `true` when the agent is to stop: no new streams from then on.
    pub stopping_rx: watch::Receiver<bool>,
    /// The dials and relays that a stop waits for.
    pub relays: TaskTracker,
    /// How many clients have proved the token and are there, and agents for which this one holds a port.
    pub present_tx: watch::Sender<usize>,
    /// Ports of the pod that launchers' programs serve.
    pub exposures: Exposures,
}

impl Agent {
    /// Somebody needs the agent, for as long as the result is kept.
    pub(crate) fn attend(&self) -> Attendance<'_> {
        self.present_tx.send_modify(|count| *count = count.saturating_add(1));
        Attendance(self)
    }
}

/// Somebody needs the agent.
pub(crate) struct Attendance<'a>(&'a Agent);

impl Drop for Attendance<'_> {
    fn drop(&mut self) {
        self.0.present_tx.send_modify(|count| *count = count.saturating_sub(1));
    }
}

/// A client that is there, for as long as this is kept.
#[expect(dead_code, reason = "given back on drop")]
struct Present<'a>(Attendance<'a>, Permit);

impl<'a> Present<'a> {
    fn enter(agent: &'a Agent) -> Option<Self> {
        let permit = agent.limits.clients.take()?;
        Some(Self(agent.attend(), permit))
    }
}

/// Serves one connection to its end.
pub async fn serve(agent: Arc<Agent>, connection: TcpStream, stranger: Permit) {
    // Whatever ends a connection ends nothing but it; there is nobody to tell but the client.
    drop(greet(agent, connection, stranger).await);
}

async fn greet(agent: Arc<Agent>, connection: TcpStream, stranger: Permit) -> io::Result<()> {
    connection.set_nodelay(true)?;
    let mut first = [0];
    timeout(HANDSHAKE, connection.peek(&mut first)).await??;
    if first == [proto::VERSION] {
        let mut inbox = Inbox::new(connection);
        let proved = timeout(HANDSHAKE, log_in(&agent.token, &mut inbox)).await??;
        let present = Present::enter(&agent).filter(|_| proved);
        if present.is_none() {
            return inbox.end().await;
        }
        drop(stranger);
        conversation::answer_request(&agent, inbox, None).await
    } else if first == [link::frames::CLIENT_MAGIC[0]] {
        let flags = families::configured();
        let link = timeout(HANDSHAKE, link::accept(connection, &agent.token, flags)).await??;
        let Some(_present) = Present::enter(&agent) else { return Ok(()) };
        drop(stranger);
        session(&agent, link).await
    } else {
        Ok(())
    }
}

/// RFC 1929's exchange; tells whether the token was proved, which the client has been told then.
async fn log_in(token: &TokenDigest, inbox: &mut Inbox<TcpStream>) -> io::Result<bool> {
    let offered = inbox
        .message(|bytes| Ok(decode_greeting(bytes)?.map(|(methods, used)| (methods.to_vec(), used))))
        .await?;
    if !offered.contains(&METHOD_PASSWORD) {
        inbox.write_all(&[proto::VERSION, METHOD_REFUSED]).await?;
        return Ok(false);
    }
    inbox.write_all(&[proto::VERSION, METHOD_PASSWORD]).await?;
    let credentials = inbox.message(decode_credentials).await?;
    // The digest is compared first, and always: the time taken tells nothing of which of the two was wrong.
    let known = token.matches(&link::unhex(credentials.password()).unwrap_or_default());
    let accepted = known && credentials.user() == USER;
    inbox.write_all(&credentials_status(accepted)).await?;
    Ok(accepted)
}

/// Serves the streams of a link until its client closes it, or until the agent stops and its relays are done.
async fn session(agent: &Arc<Agent>, link: Link<TcpStream>) -> io::Result<()> {
    let mut session = mux::server(link);
    let opener = session.opener();
    let mut stopping_rx = agent.stopping_rx.clone();
    loop {
        let stream = tokio::select! {
            stream = session.accept() => stream,
            // Dropped sender or `true`: either way there is nothing to wait for.
            _ = stopping_rx.wait_for(|stopping| *stopping) => break,
        };
        let stream = match stream {
            Ok(Some(stream)) => stream,
            Ok(None) => return Ok(()),
            Err(error) => return Err(error),
        };
        // Without a share the stream is dropped, which resets it.
        let Some(share) = agent.limits.conversations.take() else { continue };
        let (agent, opener) = (agent.clone(), opener.clone());
        tokio::spawn(async move {
            drop(conversation::converse(&agent, stream, opener).await);
            drop(share);
        });
    }
    agent.relays.close();
    loop {
        tokio::select! {
            stream = session.accept() => match stream {
                Ok(Some(_late)) => {}
                Ok(None) => return Ok(()),
                Err(error) => return Err(error),
            },
            () = agent.relays.wait() => return session.close().await,
        }
    }
}

#[cfg(test)]
mod tests;
