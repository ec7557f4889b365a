//! One SOCKS5 conversation after the token is proved: method, request, reply, and what the command brings.
//!
//! The reply comes after the deed, never before: on the laptop it decides between a connection and an errno.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::{sleep, timeout};
use tp_abi::errno::reply;

use crate::limits::HANDSHAKE;
use crate::mux::Opener;
use crate::proto::{
    self, Command, METHOD_NONE, METHOD_REFUSED, ProtoError, Reply, Request, Target, decode_greeting,
};
use crate::relay::{Side, relay};

use super::inbox::{Connection, Inbox};
use super::{Agent, commands};

/// A dial or a lookup that takes longer is not waited for with the first word.
const LONG: Duration = Duration::from_millis(10);

/// A stream of a session: method "no authentication", then the request.
pub(super) async fn converse(
    agent: &Arc<Agent>,
    stream: impl Connection + 'static,
    opener: Opener,
) -> io::Result<()> {
    let mut inbox = Inbox::new(stream);
    let greeting = |bytes: &[u8]| {
        Ok(decode_greeting(bytes)?.map(|(methods, used)| (methods.contains(&METHOD_NONE), used)))
    };
    let offered = timeout(HANDSHAKE, inbox.message(greeting)).await??;
    if !offered {
        inbox.write_all(&[proto::VERSION, METHOD_REFUSED]).await?;
        return inbox.end().await;
    }
    inbox.hold(&[proto::VERSION, METHOD_NONE]);
    answer_request(agent, inbox, Some(opener)).await
}

/// Reads the request and does what it asks; `opener` opens streams to whoever asks, if it is a session.
pub(super) async fn answer_request(
    agent: &Arc<Agent>,
    mut inbox: Inbox<impl Connection + 'static>,
    opener: Option<Opener>,
) -> io::Result<()> {
    let request = match timeout(HANDSHAKE, inbox.message(Request::decode)).await? {
        Ok(request) => request,
        Err(error) => {
            let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
            let code = match cause {
                Some(ProtoError::AddressType(_)) => reply::ADDRESS_NOT_SUPPORTED,
                Some(_) => reply::GENERAL_FAILURE,
                None => return Err(error),
            };
            return refuse(inbox, code).await;
        }
    };
    match request.command {
        // Counted as a relay from before the dial, so that a stop waits for both.
        Command::Connect => agent.relays.track_future(connect(agent, inbox, request.target)).await,
        Command::Resolve => commands::resolve(agent, inbox, request.target).await,
        Command::ResolvePtr => commands::resolve_ptr(agent, inbox, request.target).await,
        Command::Lookup => commands::lookup(agent, inbox, request.target).await,
        Command::Dns => commands::dns(agent, inbox, request.target.port()).await,
        Command::Datagrams => commands::datagrams(agent, inbox, request.target).await,
        Command::Environ => commands::environ(inbox).await,
        Command::Resolver => commands::resolver(agent, inbox).await,
        Command::Volumes => commands::volumes(agent, inbox).await,
        Command::Expose => expose(agent, inbox, opener).await,
        Command::Unknown(_) => refuse(inbox, reply::COMMAND_NOT_SUPPORTED).await,
    }
}

/// Sends a reply and nothing after it.
pub(super) async fn refuse(inbox: Inbox<impl Connection>, code: u8) -> io::Result<()> {
    finish(inbox, &Reply::failed(code)).await
}

/// Sends a reply and ends the conversation.
pub(super) async fn finish(mut inbox: Inbox<impl Connection>, reply: &Reply) -> io::Result<()> {
    send(&mut inbox, reply).await?;
    inbox.end().await
}

/// Sends a reply.
pub(super) async fn send(inbox: &mut Inbox<impl Connection>, reply: &Reply) -> io::Result<()> {
    let mut bytes = inbox.held();
    reply.encode(&mut bytes).map_err(io::Error::other)?;
    inbox.write_all(&bytes).await?;
    inbox.flush().await
}

/// Does `work` unless the client goes away meanwhile. What was kept back is said if it takes long: that also acknowledges
/// the stream, and a side opens no more than 256 that are not (yamux).
pub(super) async fn unless_gone<T>(
    inbox: &mut Inbox<impl Connection>,
    work: impl Future<Output = T>,
) -> io::Result<T> {
    let mut work = pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return Ok(done),
            () = inbox.gone() => return Err(io::ErrorKind::ConnectionAborted.into()),
            () = sleep(LONG), if inbox.holds() => inbox.say_held().await?,
        }
    }
}

async fn expose(
    agent: &Arc<Agent>,
    mut inbox: Inbox<impl Connection + 'static>,
    opener: Option<Opener>,
) -> io::Result<()> {
    let Some(opener) = opener else { return refuse(inbox, reply::COMMAND_NOT_SUPPORTED).await };
    send(&mut inbox, &Reply::succeeded()).await?;
    crate::expose::serve(agent, inbox, opener).await
}

async fn connect(agent: &Agent, mut inbox: Inbox<impl Connection>, target: Target) -> io::Result<()> {
    let Some(dialing) = agent.limits.dials.take() else {
        return refuse(inbox, reply::GENERAL_FAILURE).await;
    };
    let dialed = unless_gone(&mut inbox, crate::dial::connect(&agent.resolver, &target)).await?;
    drop(dialing);
    let mut far = match dialed {
        Ok(far) => far,
        Err(code) => return refuse(inbox, code).await,
    };
    send(&mut inbox, &Reply::with(far.local_addr()?)).await?;
    let relayed = relay(&mut inbox, &mut far).await;
    if let Some((side, error)) = relayed.error {
        match side {
            Side::A => drop(far.set_zero_linger()),
            Side::B => inbox.reset_on_drop(),
        }
        return Err(error);
    }
    Ok(())
}
