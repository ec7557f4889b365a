//! Agents of several people in one pod, who want the same port.
//!
//! One of them makes the rules and decides for all. Which one that is, is whose abstract socket (unix(7)) has the port's name
//! in the network namespace that they share: a name is had by one, and goes with its process. The others are to it what a
//! launcher is to an agent: they say EXPOSE's messages over a session of the same kind, and get arrivals as streams, which
//! they pass on to their own launcher. When it ends, the next one takes the name, and the rules.
//!
//! Anybody in the pod can have such a name, or connect to it, and a port's clients must not come into the hands of a program
//! that could not have taken them by itself. So both ends look at whose process the other one is: agents that make rules are
//! of one user, the containers' root, which is not what apps should run as.
//!
//! Invariants: nobody is waited for while ports are locked; who does not answer is given up.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::time::{interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::limits::{HANDSHAKE, Limit};
use crate::messages;
use crate::mux::{self, MuxStream, Opener};
use crate::relay::relay;
use crate::serve::Agent;

use super::conversation::{Answers, Launcher, Said, converse_as_holder};
use super::intake::{Refused, step};
use super::wire::{ALIVE_EVERY, Expose, MESSAGE_MAX, Protocol, TO_THE_APP, ToAgent, ToLauncher};

/// What both ends of a session between agents say first, as people of one team can have different versions of tp: raised
/// whenever the encoding of a message of [`wire`](super::wire) changes.
const REVISION: u32 = 0x7470_0001;
/// Agents that one holds a port for.
const AGENTS_MAX: usize = 64;
/// How long a name may be neither free nor served: its process is about to end.
pub(super) const CLAIM_LIMIT: Duration = Duration::from_secs(5);
pub(super) const CLAIM_EVERY: Duration = Duration::from_millis(20);
/// Connections that nobody has accepted yet.
const BACKLOG: i32 = 128;
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

fn name(protocol: Protocol, port: u16) -> io::Result<SockAddr> {
    let word = match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    };
    // A first byte of 0 is what makes it abstract.
    SockAddr::unix(format!("\0tp-expose-{word}-{port}"))
}

/// Takes the port's name, or reaches who has it; `None` if neither can be had at this moment.
pub(super) fn claim(protocol: Protocol, port: u16) -> Result<Option<Claimed>, Refused> {
    let failed = step("learn who has the port");
    match try_claim(&name(protocol, port).map_err(&failed)?).map_err(&failed)? {
        Some(Claimed::Elsewhere(holder)) => match of_another(&holder).map_err(&failed)? {
            Some(uid) => Err(step(&format!(
                "share the port with whoever has its name in this pod: a program of user {uid}, not an agent"
            ))(io::Error::from_raw_os_error(libc::EPERM))),
            None => Ok(Some(Claimed::Elsewhere(holder))),
        },
        claimed => Ok(claimed),
    }
}

fn try_claim(name: &SockAddr) -> io::Result<Option<Claimed>> {
    let socket = || Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None);
    let mine = socket()?;
    match mine.bind(name) {
        Ok(()) => {
            mine.listen(BACKLOG)?;
            return Ok(Some(Claimed::Here(UnixListener::from_std(mine.into())?)));
        }
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
        Err(error) => return Err(error),
    }
    let theirs = socket()?;
    match theirs.connect(name) {
        Ok(()) => Ok(Some(Claimed::Elsewhere(UnixStream::from_std(theirs.into())?))),
        // It does not listen yet or any more, or its queue is full.
        Err(error)
            if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::WouldBlock) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// The user at the other end, if it is another one than ours.
fn of_another(stream: &UnixStream) -> io::Result<Option<u32>> {
    let uid = stream.peer_cred()?.uid();
    Ok((uid != rustix::process::geteuid().as_raw()).then_some(uid))
}

/// Says our revision, and gives the other end's.
async fn greet(stream: &mut UnixStream) -> io::Result<u32> {
    timeout(CLAIM_LIMIT, async {
        stream.write_u32(REVISION).await?;
        stream.read_u32().await
    })
    .await?
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
        // Somebody else of the pod has no business here.
        if !of_another(&stream).is_ok_and(|uid| uid.is_none()) {
            continue;
        }
        let Some(permit) = limit.take() else { continue };
        let agent = agent.clone();
        tokio::spawn(async move {
            // The other agent is told by the end of its session.
            drop(serve(&agent, stream).await);
            drop(permit);
        });
    }
}

async fn serve(agent: &Arc<Agent>, mut stream: UnixStream) -> io::Result<()> {
    if greet(&mut stream).await? != REVISION {
        return Ok(());
    }
    let mut session = mux::server(stream);
    let opener = session.opener();
    let mut next = timeout(HANDSHAKE, session.accept()).await??;
    while let Some(stream) = next {
        // Without a share in what the agent can do, the stream is reset.
        if let Some(conversation) = agent.limits.conversations.take() {
            let conversing = converse_as_holder(agent.clone(), stream, opener.clone());
            tokio::spawn(async move {
                drop(conversing.await);
                drop(conversation);
            });
        }
        next = session.accept().await?;
    }
    Ok(())
}

/// How it went on with another agent.
pub(super) enum Went {
    /// It is over, and the launcher was told.
    Over,
    /// The other agent is gone.
    Alone {
        /// After it had answered.
        heard: bool,
    },
}

/// Has another agent expose a port for a launcher of ours.
pub(super) async fn join(
    mut holder: UnixStream,
    expose: &Expose,
    launcher: &mut Launcher,
    opener: &Opener,
    answers: &mut Answers<'_, impl AsyncWrite + Unpin>,
) -> io::Result<Went> {
    match greet(&mut holder).await {
        Ok(REVISION) => {}
        Ok(_) => {
            let step = "share the port with the agent that has it, which is of another version of tp";
            let refused = ToLauncher::Refused { errno: libc::EPROTONOSUPPORT, step: step.to_owned() };
            answers.pass(&refused).await?;
            return Ok(Went::Over);
        }
        Err(_) => return Ok(Went::Alone { heard: false }),
    }
    let mut heard = false;
    let (asking, mut arrivals, driver) = mux::client(holder);
    let _driver = AbortOnDropHandle::new(tokio::spawn(driver));
    let Ok(mut stream) = asking.open().await else { return Ok(Went::Alone { heard }) };
    if messages::write(&mut stream, &ToAgent::Expose(expose.clone())).await.is_err() {
        return Ok(Went::Alone { heard });
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
                    heard = true;
                    if answers.pass(&answer).await? {
                        return Ok(Went::Over);
                    }
                }
                None if done => return Ok(Went::Over),
                None => return Ok(Went::Alone { heard }),
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
