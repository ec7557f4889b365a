//! The client's side of one conversation: what to send next, and what the bytes that came mean.
//!
//! Two ways to talk. *Pipelined*: greeting and request leave together, for an agent that is known to take them
//! (one round trip for all). *Negotiated*: each step waits for its answer, for SOCKS5 servers of other makers.

use super::method::{answer, credentials_version};
use super::{Credentials, METHOD_NONE, METHOD_PASSWORD, METHOD_REFUSED, ProtoError, Reply, Request, VERSION};
use super::{greeting, need};

#[derive(Debug)]
enum State {
    Method,
    Credentials,
    Reply,
}

/// What [`Client::input`] made of the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// So many bytes were used; ask [`Client::output`] and read on.
    More(usize),
    /// So many bytes were used, and this is the server's reply. Bytes after them are the far end's data.
    Done(usize, Reply),
}

/// One client's conversation, up to the reply.
#[derive(Debug)]
pub struct Client {
    state: State,
    output: Vec<u8>,
    request: Vec<u8>,
    credentials: Option<Credentials>,
}

impl Client {
    /// Greeting and request at once, with method "no authentication".
    ///
    /// # Errors
    /// As [`Request::encode`].
    pub fn pipelined(request: &Request) -> Result<Self, ProtoError> {
        let mut output = greeting(&[METHOD_NONE]);
        request.encode(&mut output)?;
        Ok(Self { state: State::Method, output, request: Vec::new(), credentials: None })
    }

    /// Step by step; with `credentials` both methods are offered, without them "no authentication" alone.
    ///
    /// # Errors
    /// As [`Request::encode`].
    pub fn negotiated(credentials: Option<Credentials>, request: &Request) -> Result<Self, ProtoError> {
        let methods: &[u8] =
            if credentials.is_some() { &[METHOD_NONE, METHOD_PASSWORD] } else { &[METHOD_NONE] };
        let mut encoded = Vec::new();
        request.encode(&mut encoded)?;
        Ok(Self { state: State::Method, output: greeting(methods), request: encoded, credentials })
    }

    /// The bytes to send now; empty when it is the server's turn.
    #[must_use]
    pub fn output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// Whether the server has let us in: only its reply is still to come.
    #[must_use]
    pub const fn is_let_in(&self) -> bool {
        matches!(self.state, State::Reply)
    }

    /// Takes what the server sent, from the first byte not used so far.
    ///
    /// # Errors
    /// Everything in [`ProtoError`]; the conversation is over then.
    pub fn input(&mut self, bytes: &[u8]) -> Result<Step, ProtoError> {
        let mut used = 0_usize;
        loop {
            let rest = bytes.get(used..).unwrap_or_default();
            if matches!(self.state, State::Reply) {
                return Ok(match Reply::decode(rest)? {
                    Some((reply, length)) => Step::Done(used.saturating_add(length), reply),
                    None => Step::More(used),
                });
            }
            match self.negotiate(rest)? {
                Some(length) => used = used.saturating_add(length),
                None => return Ok(Step::More(used)),
            }
        }
    }

    fn negotiate(&mut self, bytes: &[u8]) -> Result<Option<usize>, ProtoError> {
        if matches!(self.state, State::Credentials) {
            let (status, length) = need!(answer(bytes, credentials_version())?);
            if status != 0 {
                return Err(ProtoError::Credentials(status));
            }
            self.ask();
            return Ok(Some(length));
        }
        let (method, length) = need!(answer(bytes, VERSION)?);
        match (method, &self.credentials) {
            (METHOD_NONE, _) => self.ask(),
            (METHOD_PASSWORD, Some(credentials)) => {
                credentials.encode(&mut self.output);
                self.state = State::Credentials;
            }
            (METHOD_REFUSED, _) => return Err(ProtoError::NoMethod),
            (other, _) => return Err(ProtoError::Method(other)),
        }
        Ok(Some(length))
    }

    fn ask(&mut self) {
        self.output.append(&mut self.request);
        self.state = State::Reply;
    }
}
