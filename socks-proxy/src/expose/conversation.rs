//! One EXPOSE stream, from its first message to its end.

use std::io;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::limits::HANDSHAKE;
use crate::messages;
use crate::mux::{MuxStream, Opener};
use crate::serve::Agent;

use super::exposures::unserved;
use super::ledger::{Entered, Ledger};
use super::port::{Port, Share};
use super::share::{CLAIM_EVERY, CLAIM_LIMIT, Went, join};
use super::wire::{ALIVE_LIMIT, Expose, MESSAGE_MAX, Protocol, ToAgent, ToLauncher, Way};
use super::{Joined, Who};

/// What a launcher has said since it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// It takes nothing new.
    Done,
    /// It says nothing any more.
    Lost,
}

/// The launcher's end of the conversation: a message is read in several steps, so a task of its own reads.
#[derive(Debug)]
pub(super) struct Launcher {
    said_rx: watch::Receiver<Option<Said>>,
    #[expect(dead_code, reason = "ends with this")]
    reader: AbortOnDropHandle<()>,
}

impl Launcher {
    fn new(mut reader: impl AsyncRead + Send + Unpin + 'static) -> Self {
        let (said_tx, said_rx) = watch::channel(None);
        let reader = AbortOnDropHandle::new(tokio::spawn(async move {
            loop {
                match timeout(ALIVE_LIMIT, messages::read(&mut reader, MESSAGE_MAX)).await {
                    Ok(Ok(ToAgent::Alive)) => {}
                    Ok(Ok(ToAgent::Done)) => drop(said_tx.send_replace(Some(Said::Done))),
                    Ok(Ok(ToAgent::Expose(_)) | Err(_)) | Err(_) => break,
                }
            }
            said_tx.send_replace(Some(Said::Lost));
        }));
        Self { said_rx, reader }
    }

    /// Waits until it is done, or lost. Cancel safe.
    pub(super) async fn next(&mut self) -> Said {
        // Without a reader there is nothing more to be heard.
        self.said_rx.wait_for(Option::is_some).await.ok().and_then(|said| *said).unwrap_or(Said::Lost)
    }
}

/// What the launcher is told: that it is ready once, whoever holds its port.
pub(super) struct Answers<'a, W> {
    writer: W,
    expose: &'a Expose,
    /// Where it is entered once it is ready; another agent's launcher is in that one's.
    ledger: Option<&'a Ledger>,
    entered: Option<Entered<'a>>,
    ready: bool,
}

impl<W: AsyncWrite + Unpin> Answers<'_, W> {
    /// Passes an answer on; `true` if it was the last.
    pub(super) async fn pass(&mut self, answer: &ToLauncher) -> io::Result<bool> {
        let mut last = false;
        match answer {
            ToLauncher::Ready if self.ready => return Ok(false),
            ToLauncher::Ready => {
                self.ready = true;
                self.entered = self.ledger.map(|ledger| ledger.enter(self.expose));
            }
            ToLauncher::Ended => self.entered = None,
            ToLauncher::Held { .. } | ToLauncher::NobodyListens | ToLauncher::Refused { .. } => last = true,
            ToLauncher::Note(_) => {}
        }
        messages::write(&mut self.writer, answer).await?;
        Ok(last)
    }
}

/// Serves an agent for which this one holds ports.
pub(super) fn converse_as_holder(
    agent: Arc<Agent>,
    stream: MuxStream,
    opener: Opener,
) -> BoxFuture<'static, io::Result<()>> {
    Box::pin(async move { converse(&agent, stream, opener, Who::Agent).await })
}

/// Serves an EXPOSE stream, whose launcher is at the opener's other end.
pub(super) async fn converse(
    agent: &Arc<Agent>,
    stream: impl AsyncRead + AsyncWrite + Send + 'static,
    opener: Opener,
    who: Who,
) -> io::Result<()> {
    let (mut reader, writer) = tokio::io::split(stream);
    let ToAgent::Expose(expose) = timeout(HANDSHAKE, messages::read(&mut reader, MESSAGE_MAX)).await?? else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the first message is not what to expose"));
    };
    let mut launcher = Launcher::new(reader);
    let ledger = matches!(who, Who::Launcher).then_some(&agent.exposures.ledger);
    let mut answers = Answers { writer, expose: &expose, ledger, entered: None, ready: false };
    if let Some(step) = impossible(&expose) {
        answers.pass(&ToLauncher::Refused { errno: libc::EOPNOTSUPP, step: step.to_owned() }).await?;
        return answers.writer.shutdown().await;
    }
    let mut give_up_at = Instant::now() + CLAIM_LIMIT;
    loop {
        let (share, notes_rx) = Share::new(expose.clone(), opener.clone());
        match agent.exposures.join(agent, &share, who).await {
            Joined::Here(port) => {
                // It is needed, though no launcher of its own may be left.
                let _present = matches!(who, Who::Agent).then(|| agent.attend());
                return here(agent, &port, &share, &mut launcher, notes_rx, &mut answers).await;
            }
            Joined::Elsewhere(holder) => {
                match join(holder, &expose, &mut launcher, &opener, &mut answers).await? {
                    Went::Over => return answers.writer.shutdown().await,
                    Went::Alone { heard: true } => give_up_at = Instant::now() + CLAIM_LIMIT,
                    Went::Alone { heard: false } if Instant::now() < give_up_at => sleep(CLAIM_EVERY).await,
                    Went::Alone { heard: false } => {
                        answers.pass(&unserved()).await?;
                        return answers.writer.shutdown().await;
                    }
                }
            }
            Joined::Nowhere(answer) => {
                if let Some(answer) = answer {
                    answers.pass(&answer).await?;
                }
                return answers.writer.shutdown().await;
            }
        }
    }
}

/// What nobody can do, as a step.
fn impossible(expose: &Expose) -> Option<&'static str> {
    match (&expose.filter, expose.protocol, expose.way) {
        (Some(_), Protocol::Udp, _) => Some("look for HTTP requests in datagrams"),
        (Some(_), _, Way::Mirror) => Some("mirror some of the requests: a mirror is of whole connections"),
        _ => None,
    }
}

/// Keeps a share in a port of this agent until its launcher is done or lost.
async fn here(
    agent: &Arc<Agent>,
    port: &Port,
    share: &Arc<Share>,
    launcher: &mut Launcher,
    mut notes_rx: mpsc::Receiver<String>,
    answers: &mut Answers<'_, impl AsyncWrite + Unpin>,
) -> io::Result<()> {
    let mut stopping_rx = agent.stopping_rx.clone();
    let mut told = answers.pass(&ToLauncher::Ready).await.is_ok();
    let said = loop {
        if !told {
            break Said::Lost;
        }
        let note = tokio::select! {
            said = launcher.next() => break said,
            // The same run has come back by another link.
            () = share.lost.cancelled() => break Said::Lost,
            // Dropped sender or `true`: what is open may go on, as every relay.
            _ = stopping_rx.wait_for(|stopping| *stopping) => break Said::Done,
            Some(note) = notes_rx.recv() => note,
        };
        told = answers.pass(&ToLauncher::Note(note)).await.is_ok();
    };
    agent.exposures.leave(port, share, said == Said::Lost).await;
    if said == Said::Done {
        share.open.close();
        // A launcher that has heard this may end the stream; what is open has streams of its own.
        drop(answers.pass(&ToLauncher::Ended).await);
        tokio::select! {
            () = share.open.wait() => {}
            () = share.opener.closed() => {}
        }
    }
    share.lost.cancel();
    answers.writer.shutdown().await
}
