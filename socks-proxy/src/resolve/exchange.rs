//! One question to the nameservers, and the answer that belongs to it.
//!
//! Anybody can send datagrams that look like answers, so each question has a socket, a source port and an id of its
//! own; the socket is connected, so the kernel drops what other addresses send and reports a closed port at once.
//!
//! Invariants: an answer is given only if its id and question are those asked; every wait has an end; nothing is
//! shared between questions, so a slow one delays no other.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::message::{self, Head};
use crate::datagrams::arrival;
use crate::settings::Settings;

/// Longest answer over UDP in bytes; one that fills it may have been cut and is asked for over TCP.
const DATAGRAM_MAX: usize = 16 * 1024;

/// No nameserver gave an answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExchangeError {
    /// The question is none: too short, or not exactly one query in it.
    #[error("a DNS message of {0} bytes that asks nothing")]
    NotAQuestion(usize),
    /// Nobody answered in time.
    #[error("none of the nameservers {nameservers:?} answered, each asked {attempts} times")]
    Silence {
        /// Who was asked.
        nameservers: Vec<SocketAddr>,
        /// How often.
        attempts: u32,
    },
    /// The machine would not give a random id.
    #[error("no random number for the question's id")]
    Random,
}

/// Asks the nameservers of `settings`, beginning `skip` places into their list, until one settles the question. If
/// none does, the last answer that came is given (a server failure, say).
///
/// # Errors
/// [`ExchangeError`], if there was no answer at all.
pub async fn exchange(
    settings: &Settings,
    skip: usize,
    question: &[u8],
    tcp: bool,
) -> Result<Vec<u8>, ExchangeError> {
    let Some(asked) = Head::read(question) else {
        return Err(ExchangeError::NotAQuestion(question.len()));
    };
    let own_id = message::id(question).unwrap_or_default();
    let mut id = [0; 2];
    let mut unsettled = None;
    for _ in 0..settings.attempts {
        for place in 0..settings.nameservers.len() {
            let turn = place.wrapping_add(skip) % settings.nameservers.len().max(1);
            let Some(server) = settings.nameservers.get(turn) else { continue };
            getrandom::fill(&mut id).map_err(|_| ExchangeError::Random)?;
            let sent = message::with_id(question, id);
            let tcp = tcp || settings.tcp;
            if let Some(answer) = ask(*server, &sent, &asked, tcp, settings.patience(place)).await {
                let settles = Head::read(&answer).is_none_or(|head| head.settles());
                let answer = message::with_id(&answer, own_id);
                if settles {
                    return Ok(answer);
                }
                unsettled = Some(answer);
            }
        }
    }
    unsettled.ok_or_else(|| ExchangeError::Silence {
        nameservers: settings.nameservers.clone(),
        attempts: settings.attempts,
    })
}

/// Asks one nameserver once: `None` if it did not answer in time.
async fn ask(
    server: SocketAddr,
    question: &[u8],
    asked: &Head,
    tcp: bool,
    patience: Duration,
) -> Option<Vec<u8>> {
    if !tcp {
        let answer = timeout(patience, over_udp(server, question, asked)).await.ok()?.ok()?;
        let cut = answer.len() >= DATAGRAM_MAX || Head::read(&answer).is_some_and(|head| head.truncated);
        if !cut {
            return Some(answer);
        }
        // A nameserver without TCP leaves us with the part that it sent.
        let whole = timeout(patience, over_tcp(server, question, asked)).await;
        return Some(whole.ok().and_then(Result::ok).unwrap_or(answer));
    }
    timeout(patience, over_tcp(server, question, asked)).await.ok()?.ok()
}

async fn over_udp(server: SocketAddr, question: &[u8], asked: &Head) -> io::Result<Vec<u8>> {
    let any = match server {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(question).await?;
    let mut answer = Vec::with_capacity(DATAGRAM_MAX);
    loop {
        arrival(&socket).await?;
        answer.clear();
        match socket.try_recv_buf(&mut answer) {
            Ok(_) if belongs(&answer, question, asked) => return Ok(answer),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

async fn over_tcp(server: SocketAddr, question: &[u8], asked: &Head) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    stream.set_nodelay(true)?;
    stream.write_all(&framed(question)).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await?;
    if belongs(&answer, question, asked) { Ok(answer) } else { Err(io::ErrorKind::InvalidData.into()) }
}

fn belongs(answer: &[u8], question: &[u8], asked: &Head) -> bool {
    let fits = Head::read(answer).map_or_else(|| message::is_rejection(answer), |head| head.answers(asked));
    fits && message::id(answer) == message::id(question)
}

/// A message with its length in front (RFC 1035, 4.2.2). One that is too long for that becomes an empty frame.
#[must_use]
pub fn framed(message: &[u8]) -> Vec<u8> {
    let Ok(length) = u16::try_from(message.len()) else { return vec![0, 0] };
    let mut frame = length.to_be_bytes().to_vec();
    frame.extend(message);
    frame
}
