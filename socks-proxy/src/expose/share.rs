//! Agents of several people in one pod, who want the same port.
//!
//! One of them makes the rules and decides for all. Which one that is, is whose abstract socket (unix(7)) has the port's name
//! in the network namespace that they share: a name is had by one, and goes with its process. The others are to it what a
//! launcher is to an agent: they say EXPOSE's messages over a session of the same kind, and get arrivals as streams, which
//! they pass on to their own launcher. When it ends, the next one takes the name, and the rules.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net as unix;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, interval, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::limits::Limit;
use crate::messages;
use crate::mux::{self, MuxStream, Opener};
use crate::relay::relay;
use crate::serve::Agent;

use super::conversation::{Answers, Launcher, Said, converse_as_holder};
use super::wire::{ALIVE_EVERY, Expose, MESSAGE_MAX, Protocol, TO_THE_APP, ToAgent, ToLauncher};

/// Agents that one holds a port for.
const AGENTS_MAX: usize = 64;
/// How long a name may be neither free nor served: its process is about to end.
const CLAIM_LIMIT: Duration = Duration::from_secs(5);
const CLAIM_EVERY: Duration = Duration::from_millis(20);
/// Messages of a holder that may wait for their launcher.
const MESSAGES_WAITING: usize = 16;

/// Who has a port's name.
#[derive(Debug)]
pub(super) enum Claimed {
    /// This agent, from now on.
    Here(UnixListener),
    /// Another one, who listens at the other end.
    Elsewhere(UnixStream),
}

fn name(protocol: Protocol, port: u16) -> io::Result<unix::SocketAddr> {
    let word = match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    };
    unix::SocketAddr::from_abstract_name(format!("tp-expose-{word}-{port}"))
}

/// Takes the port's name, or reaches who has it.
pub(super) async fn claim(protocol: Protocol, port: u16) -> io::Result<Claimed> {
    let name = name(protocol, port)?;
    let until = Instant::now() + CLAIM_LIMIT;
    loop {
        match unix::UnixListener::bind_addr(&name) {
            Ok(listener) => {
                listener.set_nonblocking(true)?;
                return Ok(Claimed::Here(UnixListener::from_std(listener)?));
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error),
        }
        match unix::UnixStream::connect_addr(&name) {
            Ok(stream) => {
                stream.set_nonblocking(true)?;
                return Ok(Claimed::Elsewhere(UnixStream::from_std(stream)?));
            }
            Err(error) if Instant::now() > until => return Err(error),
            Err(_) => sleep(CLAIM_EVERY).await,
        }
    }
}

/// Holds a port for other agents, until it is closed.
pub(super) async fn hold(agent: Arc<Agent>, listener: UnixListener, closed: CancellationToken) {
    let limit = Limit::new(AGENTS_MAX);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = closed.cancelled() => return,
        };
        let Ok((stream, _)) = accepted else {
            sleep(CLAIM_EVERY).await;
            continue;
        };
        let Some(permit) = limit.take() else { continue };
        let agent = agent.clone();
        tokio::spawn(async move {
            // The other agent is told by the end of its session.
            drop(serve(&agent, stream).await);
            drop(permit);
        });
    }
}

async fn serve(agent: &Arc<Agent>, stream: UnixStream) -> io::Result<()> {
    // It is needed, though no launcher of its own may be left.
    let _present = agent.attend();
    let mut session = mux::server(stream);
    let opener = session.opener();
    while let Some(stream) = session.accept().await? {
        let (agent, opener) = (agent.clone(), opener.clone());
        tokio::spawn(converse_as_holder(agent, stream, opener));
    }
    Ok(())
}

/// How it went on with another agent.
pub(super) enum Went {
    /// It is over, and the launcher was told.
    Over,
    /// The other agent is gone.
    Alone,
}

/// Has another agent expose a port for a launcher of ours.
pub(super) async fn join(
    holder: UnixStream,
    expose: &Expose,
    launcher: &mut Launcher,
    opener: &Opener,
    answers: &mut Answers<'_, impl AsyncWrite + Unpin>,
) -> io::Result<Went> {
    let (asking, mut arrivals, driver) = mux::client(holder);
    let _driver = AbortOnDropHandle::new(tokio::spawn(driver));
    let Ok(mut stream) = asking.open().await else { return Ok(Went::Alone) };
    if messages::write(&mut stream, &ToAgent::Expose(expose.clone())).await.is_err() {
        return Ok(Went::Alone);
    }
    let (from_holder, mut to_holder) = tokio::io::split(stream);
    let (answers_tx, mut answers_rx) = mpsc::channel(MESSAGES_WAITING);
    let _reader = AbortOnDropHandle::new(tokio::spawn(pass_answers(from_holder, answers_tx)));
    let mut alive = interval(ALIVE_EVERY);
    let mut done = false;
    loop {
        tokio::select! {
            answer = answers_rx.recv() => match answer {
                Some(answer) => {
                    if answers.pass(&answer).await? {
                        return Ok(Went::Over);
                    }
                }
                None if done => return Ok(Went::Over),
                None => return Ok(Went::Alone),
            },
            Some(arrival) = arrivals.next() => {
                tokio::spawn(bridge(arrival, opener.clone()));
            }
            () = opener.closed(), if done => return Ok(Went::Over),
            said = launcher.next(), if !done => match said {
                Said::Done => {
                    done = true;
                    drop(messages::write(&mut to_holder, &ToAgent::Done).await);
                }
                Said::Lost => return Ok(Went::Over),
            },
            // If it cannot be told, its answers end.
            _ = alive.tick() => drop(messages::write(&mut to_holder, &ToAgent::Alive).await),
        }
    }
}

async fn pass_answers(mut from_holder: tokio::io::ReadHalf<MuxStream>, answers_tx: mpsc::Sender<ToLauncher>) {
    while let Ok(answer) = messages::read(&mut from_holder, MESSAGE_MAX).await {
        if answers_tx.send(answer).await.is_err() {
            return;
        }
    }
}

/// Passes a stream on as it is: what it begins with, the launcher's verdict, resets and ends.
async fn bridge(mut arrival: MuxStream, opener: Opener) {
    let Ok(mut stream) = opener.open().await else { return give_back(arrival).await };
    let relayed = relay(&mut arrival, &mut stream).await;
    // The launcher went before it said anything.
    if relayed.error.is_some() && relayed.b_to_a == 0 && opener.is_closed() {
        give_back(arrival).await;
    }
}

async fn give_back(mut arrival: MuxStream) {
    // If the other agent is gone, too, there is nobody to give it back to.
    if arrival.write_all(&[TO_THE_APP]).await.is_ok() {
        drop(arrival.shutdown().await);
    }
}
