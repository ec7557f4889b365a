//! Any SOCKS5 server as the pod: `tp run --proxy socks5://host:port`.
//!
//! Each dial is a TCP connection of its own, negotiated step by step, since servers of other makers may read
//! pipelined bytes as part of the greeting. Names are asked with Tor's RESOLVE where the server knows it. Most
//! servers do not: then a name gets a stand-in address out of 198.18.0.0/15 (set aside for tests of networks by
//! RFC 2544, so no real host has one), and a connect to that address carries the name to the server. There, and only
//! there, a name that does not exist is told at connect().

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use socks_proxy::proto::{Client, Command, Credentials, ProtoError, Reply, Request, Target};
use tokio::net::TcpStream;
use tp_abi::env;
use tp_abi::errno::{code, eai, reply};
use url::{Host, Url};

use super::conversation::{Conversation, ConversationError, converse};
use super::datagrams::Datagrams;
use super::spoken::{Spoken, SpokenKind};
use super::{DialError, Found, LookupError, Pod, Stream, Want};

/// First of the stand-in addresses, and how many there are.
const STAND_IN_FIRST: u32 = u32::from_be_bytes([env::STAND_INS.0[0], env::STAND_INS.0[1], 0, 1]);
const STAND_INS: u32 = (1 << (32 - env::STAND_INS.1)) - 2;
/// How long a server may take to be reached.
const CONNECT_LIMIT: Duration = Duration::from_secs(8);
/// How long an answer about a name is kept; RESOLVE tells no time to live.
const RESOLVE_TTL: Duration = Duration::from_secs(30);

/// Where a SOCKS5 server is and how it lets us in.
#[derive(Clone)]
pub struct ProxyAddress {
    host: String,
    port: u16,
    credentials: Option<Credentials>,
}

/// Why an address of a proxy is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProxyAddressError {
    /// It is no URL.
    #[error("it is not a URL: {0}")]
    Url(#[from] url::ParseError),
    /// It is a URL of something else.
    #[error("its scheme is `{0}`; tp speaks `socks5` and `socks5h`")]
    Scheme(String),
    /// There is no host in it.
    #[error("it names no host")]
    Host,
    /// RFC 1929 cannot carry them.
    #[error("its user name or password is empty or longer than 255 bytes")]
    Credentials,
}

impl FromStr for ProxyAddress {
    type Err = ProxyAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let url = Url::parse(text)?;
        if !matches!(url.scheme(), "socks5" | "socks5h") {
            return Err(ProxyAddressError::Scheme(url.scheme().to_owned()));
        }
        let host = match url.host().ok_or(ProxyAddressError::Host)? {
            Host::Domain("") => return Err(ProxyAddressError::Host),
            // Of a scheme that the URL standard does not know, an IPv4 address is parsed as a name.
            Host::Domain(name) => name.to_owned(),
            Host::Ipv4(v4) => v4.to_string(),
            Host::Ipv6(v6) => v6.to_string(),
        };
        let credentials = match (url.username(), url.password()) {
            ("", None) => None,
            (user, password) => {
                let plain = |text| percent_encoding::percent_decode_str(text).collect::<Vec<u8>>();
                let credentials = Credentials::new(plain(user), plain(password.unwrap_or_default()));
                Some(credentials.map_err(|_| ProxyAddressError::Credentials)?)
            }
        };
        Ok(Self { host, port: url.port().unwrap_or(1080), credentials })
    }
}

impl std::fmt::Debug for ProxyAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ProxyAddress({self})")
    }
}

impl std::fmt::Display for ProxyAddress {
    /// Without the credentials: this goes into logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Why a proxy cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// It is not there.
    #[error("the SOCKS5 server at {proxy} cannot be reached")]
    Unreachable {
        /// Where it should be.
        proxy: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// It does not speak SOCKS5, or does not let us in.
    #[error("the server at {proxy} does not take us as its client")]
    Refused {
        /// Where it is.
        proxy: String,
        /// What it said.
        #[source]
        source: ConversationError,
    },
}

/// A SOCKS5 server.
pub struct ProxyPod {
    proxy: ProxyAddress,
    address: Vec<SocketAddr>,
    resolves: AtomicBool,
    stand_ins: Mutex<StandIns>,
}

#[derive(Default)]
struct StandIns {
    by_name: HashMap<String, Ipv4Addr>,
    by_address: HashMap<Ipv4Addr, String>,
}

impl ProxyPod {
    /// Finds the server and makes sure that it lets us in.
    ///
    /// # Errors
    /// If it does not.
    pub async fn connect(proxy: ProxyAddress) -> Result<Self, ProxyError> {
        let unreachable = |source| ProxyError::Unreachable { proxy: proxy.to_string(), source };
        let address =
            tokio::net::lookup_host((proxy.host.as_str(), proxy.port)).await.map_err(unreachable)?.collect();
        let mut pod = Self {
            address,
            resolves: AtomicBool::new(true),
            stand_ins: Mutex::default(),
            proxy: proxy.clone(),
        };
        let stream = pod.reach().await.map_err(unreachable)?;
        // Of several addresses, this is one at which it is.
        pod.address.sort_by_key(|address| stream.peer_addr().ok() != Some(*address));
        // A server that knows RESOLVE answers at once for a numeric name, and one that does not says so.
        let probe = Request::new(Command::Resolve, Target::Name("127.0.0.1".to_owned(), 0));
        let asked = tokio::time::timeout(CONNECT_LIMIT, pod.converse(stream, &probe)).await;
        match asked.unwrap_or_else(|_elapsed| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()))
        {
            Ok((reply, _)) => pod.resolves.store(reply.code == 0, Ordering::Relaxed),
            // A server may hang up on a command that it does not know: OpenSSH does.
            Err(ConversationError::HungUp(_)) => pod.resolves.store(false, Ordering::Relaxed),
            Err(source) => return Err(ProxyError::Refused { proxy: proxy.to_string(), source }),
        }
        Ok(pod)
    }

    /// What the shim is told of the server ([`env::PROXY`]), if it may speak with it by itself: whoever reads a program's
    /// environment is not to find a password there.
    #[must_use]
    pub fn for_the_shim(&self) -> Option<Spoken> {
        let address = *self.address.first().filter(|_| self.proxy.credentials.is_none())?;
        let is_plain = self.resolves.load(Ordering::Relaxed);
        Some(Spoken { address, kind: if is_plain { SpokenKind::Plain } else { SpokenKind::TakesNames } })
    }

    async fn reach(&self) -> std::io::Result<TcpStream> {
        let stream = tokio::time::timeout(CONNECT_LIMIT, TcpStream::connect(self.address.as_slice()))
            .await
            .map_err(|_elapsed| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    async fn converse(
        &self,
        stream: TcpStream,
        request: &Request,
    ) -> Result<(Reply, Conversation<TcpStream>), ConversationError> {
        converse(stream, Client::negotiated(self.proxy.credentials.clone(), request)?).await
    }

    async fn ask(&self, request: &Request) -> Result<(Reply, Conversation<TcpStream>), ConversationError> {
        self.converse(self.reach().await?, request).await
    }

    /// The name that a stand-in address stands for.
    fn target(&self, address: SocketAddr) -> Target {
        let name = match address.ip() {
            IpAddr::V4(v4) => {
                let stand_ins = self.stand_ins.lock().unwrap_or_else(PoisonError::into_inner);
                stand_ins.by_address.get(&v4).cloned()
            }
            IpAddr::V6(_) => None,
        };
        name.map_or(Target::Ip(address), |name| Target::Name(name, address.port()))
    }

    fn stand_in(&self, name: String) -> Result<Found, LookupError> {
        // What the wire cannot carry would fail only at connect().
        if let Err(error) =
            Request::new(Command::Connect, Target::Name(name.clone(), 1)).encode(&mut Vec::new())
        {
            return Err(LookupError { eai: eai::NONAME, ttl: Duration::ZERO, reason: error.to_string() });
        }
        let mut stand_ins = self.stand_ins.lock().unwrap_or_else(PoisonError::into_inner);
        let address = match stand_ins.by_name.get(&name) {
            Some(address) => *address,
            None => {
                let next = u32::try_from(stand_ins.by_name.len()).unwrap_or(u32::MAX);
                if next >= STAND_INS {
                    return Err(LookupError::passing("no stand-in address is left"));
                }
                let address = Ipv4Addr::from(STAND_IN_FIRST + next);
                stand_ins.by_name.insert(name.clone(), address);
                stand_ins.by_address.insert(address, name.clone());
                address
            }
        };
        Ok(Found {
            addresses: vec![address.into()],
            canonical: name,
            aliases: Vec::new(),
            ttl: Duration::from_secs(3600),
        })
    }
}

impl Pod for ProxyPod {
    fn dial(&self, target: SocketAddr) -> BoxFuture<'_, Result<Stream, DialError>> {
        async move {
            let request = Request::new(Command::Connect, self.target(target));
            match self.ask(&request).await {
                Ok((reply, stream)) if reply.code == 0 => Ok(Box::new(stream) as Stream),
                Ok((reply, _)) => Err(DialError::from_reply(match reply.code {
                    code if code < reply::ERRNO => code,
                    _not_the_agents => reply::GENERAL_FAILURE,
                })),
                Err(error) => Err(std::io::Error::from(error).into()),
            }
        }
        .boxed()
    }

    /// SOCKS5's own UDP ASSOCIATE is not spoken.
    fn carries_datagrams(&self, _: SocketAddr) -> bool {
        false
    }

    fn datagrams(&self, target: SocketAddr) -> BoxFuture<'_, Result<Datagrams, DialError>> {
        let reason = format!("no datagrams to {target} by a SOCKS5 server");
        async { Err(DialError { errno: code::ENETUNREACH, reason }) }.boxed()
    }

    fn lookup(&self, name: String, want: Want) -> BoxFuture<'_, Result<Found, LookupError>> {
        async move {
            if !self.resolves.load(Ordering::Relaxed) {
                let v4_only = LookupError {
                    eai: eai::NODATA,
                    ttl: Duration::ZERO,
                    reason: "stand-in addresses are IPv4".into(),
                };
                return if want.v4 { self.stand_in(name) } else { Err(v4_only) };
            }
            let request = Request::new(Command::Resolve, Target::Name(name.clone(), 0));
            let reply = match self.ask(&request).await {
                Ok((reply, _)) => reply,
                Err(ConversationError::Proto(ProtoError::Name { .. })) => {
                    return Err(LookupError::from_reply(reply::HOST_UNREACHABLE));
                }
                Err(error) => return Err(std::io::Error::from(error).into()),
            };
            match reply.bound {
                Target::Ip(address) if reply.code == 0 => match address.ip() {
                    ip if (ip.is_ipv4() && want.v4) || (ip.is_ipv6() && want.v6) => Ok(Found {
                        addresses: vec![ip],
                        canonical: name,
                        aliases: Vec::new(),
                        ttl: RESOLVE_TTL,
                    }),
                    _ => Err(LookupError {
                        eai: eai::NODATA,
                        ttl: RESOLVE_TTL,
                        reason: "the server knows an address of the other family".into(),
                    }),
                },
                _ => Err(LookupError::from_reply(reply.code)),
            }
        }
        .boxed()
    }

    fn reverse(&self, address: IpAddr) -> BoxFuture<'_, Result<String, LookupError>> {
        async move {
            if let Target::Name(name, _) = self.target(SocketAddr::new(address, 0)) {
                return Ok(name);
            }
            if !self.resolves.load(Ordering::Relaxed) {
                return Err(LookupError::from_reply(reply::HOST_UNREACHABLE));
            }
            let request = Request::new(Command::ResolvePtr, SocketAddr::new(address, 0));
            let (reply, _) = self.ask(&request).await.map_err(std::io::Error::from)?;
            match reply.bound {
                Target::Name(name, _) if reply.code == 0 => Ok(name),
                _ => Err(LookupError::from_reply(reply.code.max(1))),
            }
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that says `words`, each after it was told something, and hangs up.
    async fn connect_to_one_that_says(words: &'static [&'static [u8]]) -> Result<ProxyPod, ProxyError> {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("socks5://{}", listener.local_addr().unwrap()).parse().unwrap();
        let server = async {
            let (mut client, _) = listener.accept().await.unwrap();
            for word in words {
                assert!(client.read(&mut [0; 512]).await.unwrap() > 0);
                client.write_all(word).await.unwrap();
            }
            assert!(client.read(&mut [0; 512]).await.unwrap() > 0);
        };
        tokio::join!(ProxyPod::connect(address), server).0
    }

    #[tokio::test]
    async fn a_server_that_hangs_up_on_resolve_is_one_and_one_that_hangs_up_before_is_none() {
        let pod = connect_to_one_that_says(&[&[5, 0]]).await.unwrap();
        assert!(!pod.resolves.load(Ordering::Relaxed));
        let refused = connect_to_one_that_says(&[]).await.err().unwrap();
        assert!(matches!(refused, ProxyError::Refused { .. }));
    }

    #[tokio::test]
    async fn the_shim_is_told_of_a_server_without_a_password() {
        let mut pod = connect_to_one_that_says(&[&[5, 0]]).await.unwrap();
        let port = pod.address[0].port();
        let spoken = |pod: &ProxyPod| pod.for_the_shim().map(|spoken| spoken.to_string());
        assert_eq!(spoken(&pod), Some(format!("7f000001,{port},names")));
        pod.resolves.store(true, Ordering::Relaxed);
        assert_eq!(spoken(&pod), Some(format!("7f000001,{port}")));
        pod.proxy.credentials = Credentials::new(b"me".to_vec(), b"secret".to_vec()).ok();
        assert_eq!(spoken(&pod), None);
    }

    #[test]
    fn an_address_is_read_with_and_without_credentials() {
        let plain: ProxyAddress = "socks5://127.0.0.1:9050".parse().unwrap();
        assert_eq!((plain.host.as_str(), plain.port), ("127.0.0.1", 9050));
        assert!(plain.credentials.is_none());
        let full: ProxyAddress = "socks5h://me:p%40ss@[::1]".parse().unwrap();
        assert_eq!((full.host.as_str(), full.port), ("::1", 1080));
        assert_eq!(full.credentials.as_ref().unwrap().password(), b"p@ss");
        assert_eq!(full.to_string(), "::1:1080", "no password in what is printed");
    }

    #[test]
    fn what_is_no_socks5_address_says_why() {
        let error = |text: &str| text.parse::<ProxyAddress>().err().unwrap();
        assert_eq!(error("http://a:1"), ProxyAddressError::Scheme("http".into()));
        assert!(matches!(error("localhost"), ProxyAddressError::Url(_)));
        assert!(matches!(error("socks5://"), ProxyAddressError::Host | ProxyAddressError::Url(_)));
        assert_eq!(error("socks5://:x@h"), ProxyAddressError::Credentials);
    }
}
