//! One request to a program, and its answer: HTTP/1 bytes as they are, as far as the two messages go.
//!
//! Both directions run at once: a program may answer before it has read everything, and a client that waits for an answer may
//! go. What comes of the client behind its request is the next one's, and stays where it is.

use std::io;
use std::pin::pin;

use tokio::io::{AsyncWriteExt as _, WriteHalf};

use super::framing::{self, Body, Follows, Found, Method, Request};
use super::wire::{Incoming, Wire};
use super::{HEAD_MAX, Stream};

/// A message on its way.
#[derive(Debug)]
pub(super) struct Sending {
    /// Bytes of the buffer that are its own and not written yet.
    ready: usize,
    body: Body,
}

impl Sending {
    pub(super) fn request(request: &Request) -> Self {
        Self { ready: request.length, body: request.body.clone() }
    }

    /// Its bytes that are still in the buffer, as far as they are known.
    pub(super) const fn ready(&self) -> usize {
        self.ready
    }

    pub(super) fn is_sent(&self) -> bool {
        self.ready == 0 && self.body.is_complete()
    }
}

/// How an exchange ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Both messages are through, and others may follow.
    Again,
    /// The answer is through, and it was the connection's last.
    Last,
    /// No messages any more: what is left of both sides goes to the other as it is.
    Whole,
    /// The client went.
    ClientLost,
    /// The program went, in order or not.
    FarLost {
        /// The client has some of the answer.
        answered: bool,
        error: Option<io::Error>,
    },
}

/// Why a message is not passed on.
#[derive(Debug)]
enum Stop {
    Broken,
    /// The sender ended before the message did.
    Ended,
    Read(io::Error),
    Write,
}

/// Carries one request and its answer. `sending` tells afterwards what is left of the request.
pub(super) async fn exchange(
    client: &mut Wire,
    far: &mut Wire,
    sending: &mut Sending,
    method: Method,
) -> Outcome {
    let Wire { incoming: from_client, outgoing: to_client } = client;
    let Wire { incoming: from_far, outgoing: to_far } = far;
    let mut down = pin!(answer(from_far, to_client, method));
    let mut answered = false;
    let sent = {
        let mut up = pin!(pass(from_client, sending, to_far));
        loop {
            tokio::select! {
                sent = &mut up => break sent,
                outcome = &mut down, if !answered => match outcome {
                    Outcome::Again => answered = true,
                    other => return other,
                },
            }
        }
    };
    match sent {
        Ok(()) if answered => return Outcome::Again,
        Ok(()) => {}
        Err(Stop::Broken) => return Outcome::Whole,
        Err(Stop::Read(_)) => return Outcome::ClientLost,
        Err(Stop::Ended | Stop::Write) if answered => return Outcome::Last,
        // The program may have something to say to half a request.
        Err(Stop::Ended) => drop(to_far.shutdown().await),
        Err(Stop::Write) => {}
    }
    let outcome = tokio::select! {
        () = gone(from_client, to_far) => return Outcome::ClientLost,
        outcome = &mut down => outcome,
    };
    match outcome {
        Outcome::Again if sent.is_err() => Outcome::Last,
        other => other,
    }
}

/// Passes a message on. Cancel safe: `sending` and the buffer tell what is left of it.
async fn pass(from: &mut Incoming, sending: &mut Sending, to: &mut WriteHalf<Stream>) -> Result<(), Stop> {
    loop {
        while sending.ready > 0 {
            let ready = from.buffer.get(..sending.ready).unwrap_or(&from.buffer);
            let written = to.write(ready).await.ok().filter(|&written| written > 0).ok_or(Stop::Write)?;
            from.drop_front(written);
            sending.ready = sending.ready.saturating_sub(written);
        }
        to.flush().await.map_err(|_| Stop::Write)?;
        if !more(from, sending).await? {
            return Ok(());
        }
    }
}

/// Reads on until there is something of the message to write; `false` at its end. Cancel safe.
async fn more(from: &mut Incoming, sending: &mut Sending) -> Result<bool, Stop> {
    if sending.body.is_complete() {
        return Ok(false);
    }
    if from.buffer.is_empty() && !from.fill().await.map_err(Stop::Read)? {
        return Err(Stop::Ended);
    }
    sending.ready = sending.body.take(&from.buffer).map_err(|_| Stop::Broken)?;
    Ok(true)
}

/// Passes over what is left of a request; `false` if its end does not come.
pub(super) async fn discard(client: &mut Wire, sending: &mut Sending) -> bool {
    loop {
        client.incoming.drop_front(sending.ready);
        sending.ready = 0;
        match more(&mut client.incoming, sending).await {
            Ok(true) => {}
            Ok(false) => return true,
            Err(_) => return false,
        }
    }
}

/// Passes the answer on, with the interim ones before it.
async fn answer(from: &mut Incoming, to: &mut WriteHalf<Stream>, method: Method) -> Outcome {
    let mut answered = false;
    loop {
        let response = match head(from, method).await {
            Ok(Some(response)) => response,
            Ok(None) => return Outcome::Whole,
            Err(error) => {
                return Outcome::FarLost { answered: answered || !from.buffer.is_empty(), error };
            }
        };
        let (body, interim) = match response.follows {
            Follows::Bytes => return Outcome::Whole,
            Follows::Answer => (Body::Sized(0), true),
            Follows::Body(body) => (body, false),
        };
        answered = true;
        let until_end = body == Body::UntilEnd;
        let mut sending = Sending { ready: response.length, body };
        match pass(from, &mut sending, to).await {
            Ok(()) if interim => {}
            Ok(()) if response.persistent => return Outcome::Again,
            Ok(()) => return Outcome::Last,
            Err(Stop::Ended) if until_end => return Outcome::Last,
            Err(Stop::Ended) => return Outcome::FarLost { answered, error: None },
            Err(Stop::Read(error)) => return Outcome::FarLost { answered, error: Some(error) },
            Err(Stop::Write) => return Outcome::ClientLost,
            Err(Stop::Broken) => return Outcome::Whole,
        }
    }
}

/// The next answer's head; `None` if what comes is none. The error is the program's end, `None` an orderly one.
async fn head(from: &mut Incoming, method: Method) -> Result<Option<framing::Response>, Option<io::Error>> {
    loop {
        match framing::response(&from.buffer, method) {
            Found::Whole(response) => return Ok(Some(response)),
            Found::Partial if from.buffer.len() < HEAD_MAX => {}
            Found::Partial | Found::Broken => return Ok(None),
        }
        if !from.fill().await.map_err(Some)? {
            return if from.buffer.is_empty() { Err(None) } else { Ok(None) };
        }
    }
}

/// Waits until the client goes. Its end alone is told to the program, unless another request stands before it.
async fn gone(from: &mut Incoming, to: &mut WriteHalf<Stream>) {
    while from.buffer.len() < HEAD_MAX {
        match from.fill().await {
            Ok(true) => {}
            Ok(false) => {
                if from.buffer.is_empty() {
                    drop(to.shutdown().await);
                }
                break;
            }
            Err(_) => return,
        }
    }
    std::future::pending().await
}
