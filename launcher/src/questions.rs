//! Questions to the pod's nameservers, where some names are not the pod's.
//!
//! Programs send DNS messages (RFC 1035), by UDP and TCP, and mostly that is nobody's business. But names that the
//! user keeps local (`--local`, `--only`) must be asked of the laptop, and a rule about a name is about the addresses that
//! were found for it. So with such rules each question is read: the laptop's are answered here, and in the pod's answers
//! the addresses are taken note of. Behind a SOCKS server there is no nameserver: there it is this.
//!
//! What a program asked for may have had a search domain of the pod appended; rules are about names as they are written,
//! so both spellings are looked at.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use socks_proxy::resolve::Resolver as Nameserver;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex, split};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tp_abi::errno::eai;
use tracing::debug;

use crate::names::Names;
use crate::pod::datagrams::{Arrived, Datagrams, append};
use crate::pod::{DialError, Found, LookupError, Pod, Stream, Want};
use crate::resolver::Resolver as Settings;
use crate::scope::{Resolver, Scope};

/// Where programs ask for names that have no pod: behind a SOCKS server. RFC 7335's addresses are no host's.
const NOBODYS_NAMESERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 0, 1)), 53);
const DNS_PORT: u16 = 53;
/// How long the pod's nameserver may take: longer than a program's resolver waits.
const LIMIT: Duration = Duration::from_secs(30);
/// How long an answer of the laptop's may be kept, which does not say so.
const TTL: u32 = 5;
/// What a program takes by UDP that says nothing (RFC 1035, 4.2.1).
const PLAIN_MAX: usize = 512;
/// Bytes that wait in a connection for either side.
const QUEUE: usize = 128 * 1024;
/// Questions of one flow at once.
const AT_ONCE: usize = 64;

/// Writes the files of programs that have no pod into a folder of theirs: what the laptop's hosts say of other names is not
/// what the SOCKS server would say.
///
/// # Errors
/// Those of writing.
pub fn write_files(folder: &Path) -> std::io::Result<()> {
    let text = format!("nameserver {}\n", NOBODYS_NAMESERVER.ip());
    std::fs::write(folder.join(tp_abi::env::RESOLV_CONF), text)?;
    std::fs::write(folder.join(tp_abi::env::HOSTS), "127.0.0.1 localhost\n::1 localhost\n")
}

/// Reads questions and finds who answers them.
pub struct Questions {
    pod: Arc<dyn Pod>,
    names: Arc<Names>,
    scope: Arc<Scope>,
    resolver: Option<Arc<Settings>>,
}

impl Questions {
    /// Questions to the nameservers that `resolver` has, of which `scope` says whose they are.
    #[must_use]
    pub fn new(
        pod: Arc<dyn Pod>,
        names: Arc<Names>,
        scope: Arc<Scope>,
        resolver: Option<Arc<Settings>>,
    ) -> Arc<Self> {
        Arc::new(Self { pod, names, scope, resolver })
    }

    /// Whether questions to that address are read.
    #[must_use]
    pub fn reads(&self, asked: SocketAddr) -> bool {
        match &self.resolver {
            Some(resolver) => asked.port() == DNS_PORT && self.scope.has_rules() && resolver.is_pods(asked),
            None => asked == NOBODYS_NAMESERVER,
        }
    }

    /// A stream that takes questions and gives answers, each with its length in front (RFC 1035, 4.2.2): a connection, or
    /// datagrams as the pod carries them.
    fn stream(self: &Arc<Self>, asked: SocketAddr, tcp: bool) -> Stream {
        let (ours, programs) = duplex(QUEUE);
        let questions = Arc::clone(self);
        tokio::spawn(async move {
            let ended = questions.answer_all(programs, asked, tcp).await;
            debug!(?ended, %asked, "questions");
        });
        Box::new(ours)
    }

    async fn answer_all(
        self: Arc<Self>,
        program: DuplexStream,
        asked: SocketAddr,
        tcp: bool,
    ) -> std::io::Result<()> {
        let (mut from, to) = split(program);
        let to = Arc::new(Mutex::new(to));
        let mut answering = JoinSet::new();
        loop {
            let length = from.read_u16().await?;
            let mut question = vec![0; length.into()];
            from.read_exact(&mut question).await?;
            while answering.try_join_next().is_some() {}
            if answering.len() >= AT_ONCE {
                // One more is lost, as a datagram may be.
                continue;
            }
            let (questions, to) = (Arc::clone(&self), Arc::clone(&to));
            // A slow answer delays no other. A program that hears nothing asks again, or somebody else.
            answering.spawn(async move {
                let answer = questions.answer(asked, &question, tcp).await?;
                let mut record = BytesMut::new();
                append(&mut record, &answer);
                let mut to = to.lock().await;
                to.write_all(&record).await.ok()
            });
        }
    }

    /// The answer to a question; [`None`] for silence.
    pub async fn answer(&self, nameserver: SocketAddr, bytes: &[u8], tcp: bool) -> Option<Vec<u8>> {
        let Some(question) = Question::read(bytes) else { return self.ask_pod(nameserver, bytes, tcp).await };
        if let Some(ip) = question.address() {
            if self.resolver.is_some() && self.scope.is_pods_ip(ip) {
                return self.ask_pod(nameserver, bytes, tcp).await;
            }
            return question.pointer(self.names.reverse(ip).await);
        }
        let name = question.name();
        let Some(resolver) = &self.resolver else {
            return self.ask_names(&question, &name, tcp).await;
        };
        let spellings = spellings(&name, &resolver.settings().search);
        match self.scope.resolver_of(&spellings) {
            (Resolver::Pod, _) => {
                let answer = self.ask_pod(nameserver, bytes, tcp).await?;
                let found = addresses(&answer);
                spellings.iter().for_each(|name| self.scope.found(name, &found));
                Some(answer)
            }
            (Resolver::PodIfInScope, _) => {
                let answer = self.ask_pod(nameserver, bytes, tcp).await?;
                let is_pods = addresses(&answer).into_iter().any(|ip| self.scope.is_pods_ip(ip));
                // The pod's search domains are not the laptop's.
                if is_pods || spellings.len() > 1 {
                    // Connections to its other addresses would be the laptop's.
                    return only(&answer, |ip| self.scope.is_pods_ip(ip)).or(Some(answer));
                }
                self.ask_laptop(&question, &name, tcp).await
            }
            (Resolver::Laptop, Some(name)) => self.ask_laptop(&question, name, tcp).await,
            // The pod's search domains are not the laptop's.
            (Resolver::Laptop, None) if spellings.len() > 1 => question.failed(ResponseCode::NXDomain),
            (Resolver::Laptop, None) => self.ask_laptop(&question, &name, tcp).await,
        }
    }

    /// Passes a question on to the pod's nameserver as it is.
    async fn ask_pod(&self, nameserver: SocketAddr, bytes: &[u8], tcp: bool) -> Option<Vec<u8>> {
        let asked = async {
            if tcp {
                let mut stream = self.pod.dial(nameserver).await?;
                stream.write_u16(u16::try_from(bytes.len()).map_err(std::io::Error::other)?).await?;
                stream.write_all(bytes).await?;
                stream.flush().await?;
                let mut answer = vec![0; stream.read_u16().await?.into()];
                stream.read_exact(&mut answer).await?;
                return Ok(Some(answer));
            }
            let mut flow = self.pod.datagrams(nameserver).await?;
            let mut record = BytesMut::new();
            append(&mut record, bytes);
            flow.outgoing.write_all(&record).await?;
            flow.outgoing.flush().await?;
            while let Some(arrived) = flow.incoming.next().await? {
                match arrived {
                    Arrived::Datagram(answer) if answer.get(..2) == bytes.get(..2) => {
                        return Ok(Some(answer.to_vec()));
                    }
                    Arrived::Datagram(_) => {}
                    Arrived::Error(_) => break,
                }
            }
            Ok(None)
        };
        match timeout(LIMIT, asked).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                let error: DialError = error;
                debug!(%error, "the pod's nameserver was not asked");
                None
            }
            Err(_elapsed) => None,
        }
    }

    /// Addresses come from the laptop's libc, which knows more than nameservers; all else from its nameservers.
    async fn ask_laptop(&self, question: &Question, name: &str, tcp: bool) -> Option<Vec<u8>> {
        if question.is_for_addresses() {
            return self.ask_names(question, name, tcp).await;
        }
        let nameserver = Nameserver::new("/etc/resolv.conf", "/etc/hosts");
        let asked = question.about(name)?;
        question.renamed(&nameserver.forward(&asked, tcp).await)
    }

    async fn ask_names(&self, question: &Question, name: &str, tcp: bool) -> Option<Vec<u8>> {
        if !question.is_for_addresses() {
            return question.failed(ResponseCode::NotImp);
        }
        // Both families at once: what the laptop's hosts file has for one of them is not asked elsewhere for the other.
        let both = Want { v4: true, v6: true, configured: false, as_told: false };
        let answer = match &self.names.lookup(name, both).await.said {
            Ok(found) => question.addresses(&found.addresses),
            Err(error) => question.failure(error),
        };
        if tcp { answer } else { question.fitting(answer?) }
    }
}

/// A pod whose nameservers are asked by [`Questions`], whoever sends the messages.
pub struct Questioned(pub Arc<Questions>);

impl Pod for Questioned {
    fn dial(&self, target: SocketAddr) -> BoxFuture<'_, Result<Stream, DialError>> {
        if self.0.reads(target) {
            return std::future::ready(Ok(self.0.stream(target, true))).boxed();
        }
        self.0.pod.dial(target)
    }

    fn carries_datagrams(&self, target: SocketAddr) -> bool {
        self.0.reads(target) || self.0.pod.carries_datagrams(target)
    }

    fn datagrams(&self, target: SocketAddr) -> BoxFuture<'_, Result<Datagrams, DialError>> {
        if self.0.reads(target) {
            return std::future::ready(Ok(Datagrams::new(self.0.stream(target, false), None))).boxed();
        }
        self.0.pod.datagrams(target)
    }

    fn lookup(&self, name: String, want: Want) -> BoxFuture<'_, Result<Found, LookupError>> {
        self.0.pod.lookup(name, want)
    }

    fn own_address(&self, v6: bool) -> Option<IpAddr> {
        self.0.pod.own_address(v6)
    }

    fn settle(&self) -> BoxFuture<'_, ()> {
        self.0.pod.settle()
    }

    fn reverse(&self, address: IpAddr) -> BoxFuture<'_, Result<String, LookupError>> {
        self.0.pod.reverse(address)
    }
}

/// A name as it may have been written: whole, and without the search domain that it ends with.
fn spellings(name: &str, search: &[String]) -> Vec<String> {
    let bare = |domain: &String| {
        let start = name.len().checked_sub(domain.len())?;
        let (rest, end) = name.split_at_checked(start)?;
        let rest = rest.strip_suffix('.').filter(|rest| !rest.is_empty())?;
        end.eq_ignore_ascii_case(domain).then(|| rest.to_owned())
    };
    let mut all = vec![name.to_owned()];
    all.extend(search.iter().filter_map(bare));
    all
}

/// The addresses in an answer; none in what is no answer.
fn addresses(answer: &[u8]) -> Vec<IpAddr> {
    let Ok(message) = Message::from_vec(answer) else { return Vec::new() };
    message.answers.iter().filter_map(address).collect()
}

fn address(record: &Record) -> Option<IpAddr> {
    match &record.data {
        RData::A(a) => Some(IpAddr::V4(a.0)),
        RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
        _ => None,
    }
}

/// An answer without the addresses that are not wanted; [`None`] if it has none of these.
fn only(answer: &[u8], wanted: impl Fn(IpAddr) -> bool) -> Option<Vec<u8>> {
    let mut message = Message::from_vec(answer).ok()?;
    let before = message.answers.len();
    message.answers.retain(|record| address(record).is_none_or(&wanted));
    if message.answers.len() == before { None } else { message.to_vec().ok() }
}

/// A question of one name, as all are.
struct Question {
    message: Message,
    query: Query,
}

impl Question {
    /// [`None`] for what is not to be read here: no question, or no ordinary one.
    fn read(bytes: &[u8]) -> Option<Self> {
        let message = Message::from_vec(bytes).ok()?;
        let ordinary =
            message.metadata.message_type == MessageType::Query && message.metadata.op_code == OpCode::Query;
        let [query] = message.queries.as_slice() else { return None };
        let query = query.clone();
        ordinary.then_some(Self { message, query })
    }

    /// The name, without a dot at the end.
    fn name(&self) -> String {
        self.query.name().to_ascii().trim_end_matches('.').to_owned()
    }

    /// Whether addresses are asked for.
    fn is_for_addresses(&self) -> bool {
        matches!(self.query.query_type(), RecordType::A | RecordType::AAAA)
    }

    /// The address whose name is asked for.
    fn address(&self) -> Option<IpAddr> {
        let network = (self.query.query_type() == RecordType::PTR)
            .then(|| self.query.name().parse_arpa_name().ok())
            .flatten()?;
        (network.prefix_len() == network.max_prefix_len()).then(|| network.addr())
    }

    /// The same question about another name.
    fn about(&self, name: &str) -> Option<Vec<u8>> {
        let mut message = self.message.clone();
        let mut query = self.query.clone();
        query.set_name(Name::from_ascii(format!("{name}.")).ok()?);
        message.queries = vec![query];
        message.to_vec().ok()
    }

    /// The answer to another name as one to this.
    fn renamed(&self, answer: &[u8]) -> Option<Vec<u8>> {
        let mut message = Message::from_vec(answer).ok()?;
        let other = message.queries.first().map(|query| query.name().clone());
        for record in message.answers.iter_mut().filter(|record| Some(&record.name) == other.as_ref()) {
            record.name = self.query.name().clone();
        }
        message.queries = vec![self.query.clone()];
        message.to_vec().ok()
    }

    fn response(&self, code: ResponseCode) -> Message {
        let mut message = Message::response(self.message.metadata.id, OpCode::Query);
        message.metadata.recursion_desired = self.message.metadata.recursion_desired;
        message.metadata.recursion_available = true;
        message.metadata.response_code = code;
        message.add_query(self.query.clone());
        message
    }

    fn failed(&self, code: ResponseCode) -> Option<Vec<u8>> {
        self.response(code).to_vec().ok()
    }

    fn failure(&self, error: &LookupError) -> Option<Vec<u8>> {
        self.failed(match error.eai {
            eai::NONAME => ResponseCode::NXDomain,
            eai::NODATA => ResponseCode::NoError,
            _ => ResponseCode::ServFail,
        })
    }

    fn addresses(&self, addresses: &[IpAddr]) -> Option<Vec<u8>> {
        let mut message = self.response(ResponseCode::NoError);
        for ip in addresses {
            let data = match (ip, self.query.query_type()) {
                (IpAddr::V4(ip), RecordType::A) => RData::A(A(*ip)),
                (IpAddr::V6(ip), RecordType::AAAA) => RData::AAAA(AAAA(*ip)),
                _ => continue,
            };
            message.add_answer(Record::from_rdata(self.query.name().clone(), TTL, data));
        }
        message.to_vec().ok()
    }

    fn pointer(&self, found: Result<String, LookupError>) -> Option<Vec<u8>> {
        let name = match found {
            Ok(name) => name,
            Err(error) => return self.failure(&error),
        };
        let mut message = self.response(ResponseCode::NoError);
        let name = Name::from_ascii(format!("{}.", name.trim_end_matches('.'))).ok()?;
        message.add_answer(Record::from_rdata(self.query.name().clone(), TTL, RData::PTR(PTR(name))));
        message.to_vec().ok()
    }

    /// An answer as long as the program takes; a longer one says that there is more by TCP.
    fn fitting(&self, answer: Vec<u8>) -> Option<Vec<u8>> {
        let most = self.message.edns.as_ref().map_or(PLAIN_MAX, |edns| edns.max_payload().into());
        if answer.len() <= most {
            return Some(answer);
        }
        Message::from_vec(&answer).ok()?.truncate().to_vec().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(name: &str, kind: RecordType) -> (Vec<u8>, Question) {
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        let bytes = message.to_vec().unwrap();
        let question = Question::read(&bytes).unwrap();
        (bytes, question)
    }

    #[test]
    fn a_name_is_looked_at_with_and_without_the_search_domains() {
        let search = ["default.svc.cluster.local", "svc.cluster.local", "cluster.local"].map(str::to_owned);
        assert_eq!(spellings("db", &search), ["db"]);
        assert_eq!(spellings("db.Cluster.Local", &search), ["db.Cluster.Local", "db"]);
        assert_eq!(spellings("db.svc.cluster.local", &search), ["db.svc.cluster.local", "db", "db.svc"]);
        assert_eq!(spellings("cluster.local", &search), ["cluster.local"]);
        assert_eq!(spellings("xcluster.local", &search), ["xcluster.local"]);
    }

    #[test]
    fn answers_are_about_the_name_that_was_asked_for() {
        let (bytes, asked) = question("db.cluster.local.", RecordType::A);
        let ips = [IpAddr::from([10, 0, 0, 1]), "fd00::1".parse().unwrap()];
        let answer = asked.addresses(&ips).unwrap();
        assert_eq!(addresses(&answer), [ips[0]]);
        assert_eq!(answer.get(..2), bytes.get(..2));
        // The laptop is asked about "db", and answers about it.
        let other = Question::read(&asked.about("db").unwrap()).unwrap();
        assert_eq!(other.name(), "db");
        let renamed = Message::from_vec(&asked.renamed(&other.addresses(&ips).unwrap()).unwrap()).unwrap();
        assert_eq!(renamed.answers[0].name.to_ascii(), "db.cluster.local.");
        assert_eq!(renamed.queries[0].name().to_ascii(), "db.cluster.local.");
    }

    #[test]
    fn addresses_that_are_not_wanted_are_taken_out_of_an_answer() {
        let (_, asked) = question("db.", RecordType::A);
        let ips = [IpAddr::from([10, 0, 0, 1]), [10, 9, 0, 1].into()];
        let answer = asked.addresses(&ips).unwrap();
        let left = only(&answer, |ip| ip == ips[1]).unwrap();
        assert_eq!(addresses(&left), [ips[1]]);
        assert_eq!(only(&left, |ip| ip == ips[1]), None);
        assert!(addresses(&only(&left, |_| false).unwrap()).is_empty());
    }

    #[test]
    fn an_answer_that_is_too_long_says_so() {
        let (_, asked) = question("db.", RecordType::A);
        let ips: Vec<_> = (0..=255).map(|last| IpAddr::from([10, 0, 0, last])).collect();
        let answer = asked.fitting(asked.addresses(&ips).unwrap()).unwrap();
        assert!(answer.len() <= PLAIN_MAX);
        assert!(Message::from_vec(&answer).unwrap().metadata.truncation);
    }

    #[test]
    fn an_address_is_asked_for_by_its_reverse_name_and_nothing_else_is_read() {
        let (_, asked) = question("7.0.96.10.in-addr.arpa.", RecordType::PTR);
        assert_eq!(asked.address(), Some([10, 96, 0, 7].into()));
        let (_, asked) = question("96.10.in-addr.arpa.", RecordType::PTR);
        assert_eq!(asked.address(), None);
        for bytes in [&b""[..], b"x", &[0; 12]] {
            assert!(Question::read(bytes).is_none());
        }
    }
}
