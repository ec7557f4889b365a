//! The pod behind tp's own agent: every dial and lookup is a stream of the one link.
//!
//! Greeting and request leave in one write, without waiting for the link's or the method's answer: a dial costs one
//! round trip. While the link is being restored, dials wait for it, for a while.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use socks_proxy::mux::{MuxStream, Opener};
use socks_proxy::proto::{Client, Command, LOOKUP_A, LOOKUP_AAAA, LOOKUP_CONFIGURED, Reply, Request, Target};
use tokio::io::AsyncReadExt as _;
use tokio::sync::watch;
use tp_abi::errno::eai;

use super::conversation::{Conversation, converse};
use super::{DialError, Found, LookupError, Pod, Stream, Want, messages};

/// How long a call waits for a lost link to come back. Shorter than the time-outs that programs commonly have.
const LINK_WAIT: Duration = Duration::from_secs(10);
/// resolv.conf's usual 5 s, twice, for two nameservers, and the way there.
const LOOKUP_LIMIT: Duration = Duration::from_secs(30);
/// The agent's environment is bounded by the kernel's limit on arguments (execve(2): 2 MiB by default).
const ENVIRON_LIMIT: u64 = 4 * 1024 * 1024;

/// An agent at the other end of a link that may be lost and restored.
#[derive(Clone, Debug)]
pub struct AgentPod {
    /// session --the streams' opener, or none while the link is down--> pod
    opener_rx: watch::Receiver<Option<Opener>>,
}

impl AgentPod {
    /// A pod that opens its streams with whatever the session says at the time.
    #[must_use]
    pub fn new(opener_rx: watch::Receiver<Option<Opener>>) -> Self {
        Self { opener_rx }
    }

    async fn ask(&self, request: &Request) -> std::io::Result<(Reply, Conversation<MuxStream>)> {
        let opener = self.opener().await?;
        ask(&opener, request).await
    }

    async fn opener(&self) -> std::io::Result<Opener> {
        let mut opener_rx = self.opener_rx.clone();
        let up = opener_rx.wait_for(Option::is_some);
        let opener = tokio::time::timeout(LINK_WAIT, up).await.map(|up| up.ok().and_then(|o| o.clone()));
        match opener {
            Ok(Some(opener)) => Ok(opener),
            Ok(None) | Err(_) => {
                Err(std::io::Error::new(std::io::ErrorKind::NotConnected, "the link to the pod is down"))
            }
        }
    }
}

/// Sends one request on a stream of its own and gives the reply.
async fn ask(opener: &Opener, request: &Request) -> std::io::Result<(Reply, Conversation<MuxStream>)> {
    let client = Client::pipelined(request)
        .map_err(|error| std::io::Error::new(std::io::ErrorKind::InvalidInput, error))?;
    let stream = opener.open().await?;
    Ok(converse(stream, client).await?)
}

/// The environment of the agent's container, as the kubelet resolved it: NUL-terminated `NAME=VALUE` strings.
///
/// # Errors
/// If the link breaks, or its agent refuses the token (`PermissionDenied`).
pub async fn environ(opener: &Opener) -> std::io::Result<Vec<u8>> {
    let (reply, stream) = ask(opener, &Request::bare(Command::Environ)).await?;
    if reply.code != 0 {
        return Err(std::io::Error::other(format!("the agent answered {} to ENVIRON", reply.code)));
    }
    let mut environ = Vec::new();
    stream.take(ENVIRON_LIMIT).read_to_end(&mut environ).await?;
    Ok(environ)
}

impl Pod for AgentPod {
    fn dial(&self, target: SocketAddr) -> BoxFuture<'_, Result<Stream, DialError>> {
        async move {
            let (reply, stream) = self.ask(&Request::new(Command::Connect, target)).await?;
            if reply.code == 0 {
                Ok(Box::new(stream) as Stream)
            } else {
                Err(DialError::from_reply(reply.code))
            }
        }
        .boxed()
    }

    fn lookup(&self, name: String, want: Want) -> BoxFuture<'_, Result<Found, LookupError>> {
        async move {
            let lookup = self.messages(name, want);
            let messages = tokio::time::timeout(LOOKUP_LIMIT, lookup)
                .await
                .map_err(|_elapsed| LookupError::passing("the lookup took too long"))??;
            messages::addresses(&messages)
        }
        .boxed()
    }

    fn reverse(&self, address: IpAddr) -> BoxFuture<'_, Result<String, LookupError>> {
        async move {
            let request = Request::new(Command::ResolvePtr, SocketAddr::new(address, 0));
            let (reply, _) = tokio::time::timeout(LOOKUP_LIMIT, self.ask(&request))
                .await
                .map_err(|_elapsed| LookupError::passing("the lookup took too long"))??;
            match reply.bound {
                Target::Name(name, _) if reply.code == 0 => Ok(name.trim_end_matches('.').to_owned()),
                _ if reply.code == 0 => Err(LookupError::from_reply(1)),
                _ => Err(LookupError::from_reply(reply.code)),
            }
        }
        .boxed()
    }
}

impl AgentPod {
    /// The nameserver's messages, one a family.
    async fn messages(&self, name: String, want: Want) -> Result<Vec<Vec<u8>>, LookupError> {
        let bit = |wanted: bool, bit: u16| if wanted { bit } else { 0 };
        let bits =
            bit(want.v4, LOOKUP_A) | bit(want.v6, LOOKUP_AAAA) | bit(want.configured, LOOKUP_CONFIGURED);
        let request = Request::new(Command::Lookup, Target::Name(name, bits));
        let (reply, mut stream) = match self.ask(&request).await {
            // A name that SOCKS cannot carry is no host's name either.
            Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => {
                return Err(LookupError { eai: eai::NONAME, ttl: Duration::ZERO, reason: error.to_string() });
            }
            asked => asked?,
        };
        if reply.code != 0 {
            return Err(LookupError::from_reply(reply.code));
        }
        let mut messages = Vec::new();
        loop {
            let length = match stream.read_u16().await {
                Ok(length) => usize::from(length),
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(messages),
                Err(error) => return Err(error.into()),
            };
            let mut message = vec![0; length];
            stream.read_exact(&mut message).await?;
            messages.push(message);
            if messages.len() > 2 {
                return Err(LookupError::passing("the agent sent more answers than families"));
            }
        }
    }
}
