//! The pod behind tp's own agent: every dial and lookup is a stream of a link.
//!
//! Greeting and request leave in one write, without waiting for the link's or the method's answer: a dial costs one
//! round trip. While the link is being restored, dials wait for it, for a while.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use socks_proxy::files::{ENCODED_MAX, Files};
use socks_proxy::mux::{MuxStream, Opener};
use socks_proxy::proto::{
    Client, Command, LOOKUP_A, LOOKUP_AAAA, LOOKUP_CONFIGURED, LOOKUP_ORDERED, Reply, Request, Target,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{Notify, watch};
use tp_abi::errno::eai;
use tp_abi::errno::reply::COMMAND_NOT_SUPPORTED;

use super::conversation::{Conversation, converse};
use super::datagrams::Datagrams;
use super::{DialError, Found, LookupError, Pod, Stream, Want, messages};

/// How long a call waits for a lost link to come back. Shorter than the time-outs that programs commonly have.
const LINK_WAIT: Duration = Duration::from_secs(10);
/// How much later than its streams a link can be seen to have ended.
const LINK_END: Duration = Duration::from_millis(100);
/// resolv.conf's usual 5 s, twice, for two nameservers, and the way there.
const LOOKUP_LIMIT: Duration = Duration::from_secs(30);
/// The agent's environment is bounded by the kernel's limit on arguments (execve(2): 2 MiB by default).
const ENVIRON_LIMIT: u64 = 4 * 1024 * 1024;

/// An agent at the other end of a link that may be lost and restored.
#[derive(Clone, Debug)]
pub struct AgentPod {
    links: Links,
    /// session --the addresses of the pod that the link goes to--> pod
    addresses_rx: watch::Receiver<Vec<IpAddr>>,
}

impl AgentPod {
    /// A pod that opens its streams with whatever the session says at the time.
    #[must_use]
    pub const fn new(links: Links, addresses_rx: watch::Receiver<Vec<IpAddr>>) -> Self {
        Self { links, addresses_rx }
    }

    /// Asks until there is a reply or no link in time. A link that dies over a question carried no program's bytes
    /// yet, so the question is asked again over the next one.
    async fn ask(&self, request: &Request) -> std::io::Result<(Reply, Conversation<MuxStream>)> {
        loop {
            let opener = self.links.opener().await?;
            match ask(&opener, request).await {
                // A request that cannot be said is no link's fault.
                Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => return Err(error),
                // A stream that the agent alone ended tells nothing about the link.
                Err(_) if tokio::time::timeout(LINK_END, opener.closed()).await.is_ok() => {}
                asked => return asked,
            }
        }
    }
}

/// The links to the agent.
///
/// All streams of a link share one connection to the API server, and wait behind what the servers on the way hold of a busy
/// one's bytes: a connect() beside a download took twenty times as long. Two connections share the machines and nothing else. So
/// what begins while the link is busy goes by a second one, which the session opens when it is first wanted.
#[derive(Clone, Debug)]
pub struct Links {
    /// session --the streams' opener, or none while the link is down--> pod
    pub first_rx: watch::Receiver<Option<Opener>>,
    /// session --that of the second link, while there is one--> pod
    pub second_rx: watch::Receiver<Option<Opener>>,
    /// pod --a second link would be used--> session
    pub wanted: Arc<Notify>,
}

impl Links {
    async fn opener(&self) -> std::io::Result<Opener> {
        let first = self.first().await?;
        if !first.is_busy() {
            return Ok(first);
        }
        let second = self.second_rx.borrow().clone().filter(|opener| !opener.is_closed());
        if second.is_none() {
            self.wanted.notify_one();
        }
        Ok(second.filter(|second| !second.is_busy()).unwrap_or(first))
    }

    /// Those that are there.
    fn open(&self) -> impl Iterator<Item = Opener> {
        [&self.first_rx, &self.second_rx].map(|opener_rx| opener_rx.borrow().clone()).into_iter().flatten()
    }

    async fn first(&self) -> std::io::Result<Opener> {
        let mut opener_rx = self.first_rx.clone();
        // The session needs a moment to notice that a link has ended.
        let is_up = |opener: &Option<Opener>| opener.as_ref().is_some_and(|opener| !opener.is_closed());
        let up = opener_rx.wait_for(is_up);
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
    let client = client(request)?;
    let stream = opener.open().await?;
    Ok(converse(stream, client).await?)
}

fn client(request: &Request) -> std::io::Result<Client> {
    Client::pipelined(request).map_err(|error| std::io::Error::new(std::io::ErrorKind::InvalidInput, error))
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

/// The pod's resolv.conf and hosts; [`None`] if the agent is of a version that does not tell.
///
/// # Errors
/// As for [`environ`].
pub async fn files(opener: &Opener) -> std::io::Result<Option<Files>> {
    let (reply, stream) = ask(opener, &Request::bare(Command::Resolver)).await?;
    match reply.code {
        0 => {}
        COMMAND_NOT_SUPPORTED => return Ok(None),
        code => return Err(std::io::Error::other(format!("the agent answered {code} to RESOLVER"))),
    }
    let mut bytes = Vec::new();
    stream.take(ENCODED_MAX as u64).read_to_end(&mut bytes).await?;
    Files::decode(&bytes).map(Some).ok_or_else(|| std::io::ErrorKind::UnexpectedEof.into())
}

/// A stream on which a port of the pod can be exposed ([`socks_proxy::expose::wire`]).
///
/// # Errors
/// As for [`environ`].
pub async fn expose(opener: &Opener) -> std::io::Result<Conversation<MuxStream>> {
    let (reply, stream) = ask(opener, &Request::bare(Command::Expose)).await?;
    match reply.code {
        0 => Ok(stream),
        code => Err(std::io::Error::other(format!("the agent answered {code} to EXPOSE"))),
    }
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
            // Behind the empty message, where there is one, stands the order.
            let mut parts = messages.split(Vec::is_empty);
            let mut found = messages::addresses(parts.next().unwrap_or_default())?;
            messages::order(&mut found.addresses, parts.flatten().next().map_or(&[], Vec::as_slice));
            Ok(found)
        }
        .boxed()
    }

    fn own_address(&self, v6: bool) -> Option<IpAddr> {
        self.addresses_rx.borrow().iter().copied().find(|address| address.is_ipv6() == v6)
    }

    fn settle(&self) -> BoxFuture<'_, ()> {
        async move {
            // What is asked behind it has an answer when the pod has got so far. A link that is gone has nothing on its way.
            let nothing = Request::new(Command::Resolve, SocketAddr::from(([127, 0, 0, 1], 0)));
            for opener in self.links.open() {
                opener.dismiss().await;
                let _ = ask(&opener, &nothing).await;
            }
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

    fn carries_datagrams(&self, _: SocketAddr) -> bool {
        true
    }

    fn datagrams(&self, target: SocketAddr) -> BoxFuture<'_, Result<Datagrams, DialError>> {
        async move {
            let opener = self.links.opener().await?;
            let mut client = client(&Request::new(Command::Datagrams, target))?;
            let mut stream = opener.open().await?;
            stream.write_all(&client.output()).await?;
            Ok(Datagrams::new(Box::new(stream), Some(client)))
        }
        .boxed()
    }
}

impl AgentPod {
    /// A stream of the pod's volumes, see [`socks_proxy::volumes`].
    ///
    /// # Errors
    /// `NotConnected` while there is no link; `Unsupported` if the agent has no such service, or all it has to give are taken.
    pub async fn volumes(&self) -> std::io::Result<Stream> {
        match self.ask(&Request::bare(Command::Volumes)).await? {
            (Reply { code: 0, .. }, stream) => Ok(Box::new(stream)),
            (reply, _) => Err(std::io::Error::new(
                std::io::ErrorKind::Unsupported,
                format!("the agent answered {} to VOLUMES", reply.code),
            )),
        }
    }

    /// The nameserver's messages, one a family; of an agent that knows it an empty one and the order after them.
    async fn messages(&self, name: String, want: Want) -> Result<Vec<Vec<u8>>, LookupError> {
        let bit = |wanted: bool, bit: u16| if wanted { bit } else { 0 };
        let bits =
            bit(want.v4, LOOKUP_A) | bit(want.v6, LOOKUP_AAAA) | bit(want.configured, LOOKUP_CONFIGURED);
        let bits = bits | bit(!want.as_told, LOOKUP_ORDERED);
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
            if messages.len() > 4 {
                return Err(LookupError::passing("the agent sent more answers than families"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use socks_proxy::mux;
    use tokio::io::{DuplexStream, duplex};

    use super::*;

    /// An agent that connects to everything.
    async fn agreeing(link: DuplexStream) {
        let mut session = mux::server(link);
        while let Ok(Some(mut stream)) = session.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 512];
                assert!(stream.read(&mut request).await.unwrap() > 0);
                stream.write_all(&[5, 0, 5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await.unwrap();
                stream.shutdown().await.unwrap();
            });
        }
    }

    /// Links of which the second one is not there.
    fn links(first_rx: watch::Receiver<Option<Opener>>) -> (Links, watch::Sender<Option<Opener>>) {
        let (second_tx, second_rx) = watch::channel(None);
        (Links { first_rx, second_rx, wanted: Arc::default() }, second_tx)
    }

    fn linked() -> (Opener, DuplexStream) {
        let (laptop, pod) = duplex(64 * 1024);
        let (opener, _, driver) = mux::client(laptop);
        tokio::spawn(driver);
        (opener, pod)
    }

    #[tokio::test]
    async fn a_dial_over_a_dead_link_goes_to_the_next_one() {
        let (dead, pod) = linked();
        drop(pod);
        dead.closed().await;
        let (opener_tx, opener_rx) = watch::channel(Some(dead));
        let pod = AgentPod::new(links(opener_rx).0, watch::channel(Vec::new()).1);
        let dial = tokio::spawn(async move { pod.dial(([10, 0, 0, 1], 80).into()).await.map(drop) });
        tokio::task::yield_now().await;
        let (next, agent) = linked();
        tokio::spawn(agreeing(agent));
        opener_tx.send_replace(Some(next));
        dial.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_dial_whose_link_dies_before_the_reply_goes_to_the_next_one() {
        let (first, mut agent) = linked();
        let (opener_tx, opener_rx) = watch::channel(Some(first));
        let pod = AgentPod::new(links(opener_rx).0, watch::channel(Vec::new()).1);
        let dial = tokio::spawn(async move { pod.dial(([10, 0, 0, 1], 80).into()).await.map(drop) });
        // The request is on its way, and this is all that the agent does about it.
        agent.read_u8().await.unwrap();
        drop(agent);
        let (next, agent) = linked();
        tokio::spawn(agreeing(agent));
        opener_tx.send_replace(Some(next));
        dial.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn what_begins_beside_a_busy_stream_goes_by_the_second_link() {
        let ((first, pod), (second, second_pod)) = (linked(), linked());
        tokio::spawn(agreeing(pod));
        tokio::spawn(agreeing(second_pod));
        let (links, second_tx) = links(watch::channel(Some(first.clone())).1);
        assert!(!links.opener().await.unwrap().is_busy() && links.wanted.notified().now_or_never().is_none());
        let mut streams = Vec::new();
        for _ in 0..4 {
            let mut stream = first.open().await.unwrap();
            stream.write_all(&[0; 200 * 1024]).await.unwrap();
            streams.push(stream);
        }
        assert!(links.opener().await.unwrap().is_busy(), "there is no other");
        assert!(links.wanted.notified().now_or_never().is_some());
        second_tx.send_replace(Some(second));
        assert!(!links.opener().await.unwrap().is_busy());
        assert!(links.wanted.notified().now_or_never().is_none());
    }
}
