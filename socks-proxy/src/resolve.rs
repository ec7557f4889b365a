//! Names, as a program inside the pod would see them: `/etc/hosts`, then the nameservers of `/etc/resolv.conf` by
//! its search list, with glibc's rules.
//!
//! The agent is a static program, and glibc's own resolver needs shared objects (NSS); it also tells addresses only,
//! where the laptop needs TTLs, CNAMEs and SRV records. hickory-resolver is not used either: its lookups give parsed
//! records of one type, not the messages that came, and its search does not stop as glibc's does.
//!
//! Invariants: each question stands alone (no cache, no queue, no shared socket), so a slow one delays no other; the
//! files are read again when they change; names and answers from outside never panic.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::Name;
pub use hickory_proto::rr::RecordType;

pub mod exchange;
pub mod families;
pub mod hosts;
pub mod message;
pub mod order;

use crate::files::Files;
use crate::settings::Settings;
use exchange::{ExchangeError, exchange};
use hosts::Hosts;
use message::Head;

/// A name or an address that could not be resolved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// It does not exist, or has no records of the type.
    #[error("{0} does not resolve")]
    NotFound(String),
    /// DNS cannot carry such a name.
    #[error("{0} is not a name that DNS can carry")]
    NotAName(String),
    /// A nameserver said that it failed.
    #[error("the nameserver failed to resolve {0}")]
    ServerFailure(String),
    /// No answer.
    #[error("{name} was not resolved")]
    NoAnswer {
        /// What was asked for.
        name: String,
        /// Why there is no answer.
        #[source]
        source: ExchangeError,
    },
}

/// The address families that a lookup asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Families {
    /// A records.
    pub ipv4: bool,
    /// AAAA records.
    pub ipv6: bool,
}

impl Families {
    /// Both.
    pub const BOTH: Self = Self { ipv4: true, ipv6: true };

    fn types(self) -> impl Iterator<Item = RecordType> {
        let ipv4 = self.ipv4.then_some(RecordType::A);
        ipv4.into_iter().chain(self.ipv6.then_some(RecordType::AAAA))
    }

    const fn has(self, address: &IpAddr) -> bool {
        match address {
            IpAddr::V4(_) => self.ipv4,
            IpAddr::V6(_) => self.ipv6,
        }
    }
}

/// The two files, and what they said when they were last read.
#[derive(Debug)]
pub struct Resolver {
    resolv_conf: PathBuf,
    hosts: PathBuf,
    read: Mutex<Option<Read>>,
    turn: AtomicUsize,
}

type Stamp = [Option<(SystemTime, u64)>; 2];

#[derive(Clone, Debug)]
struct Read {
    stamp: Stamp,
    settings: Arc<Settings>,
    hosts: Arc<Hosts>,
}

impl Resolver {
    /// A resolver by these files; one that is missing counts as empty.
    #[must_use]
    pub fn new(resolv_conf: impl Into<PathBuf>, hosts: impl Into<PathBuf>) -> Self {
        Self {
            resolv_conf: resolv_conf.into(),
            hosts: hosts.into(),
            read: Mutex::default(),
            turn: AtomicUsize::new(0),
        }
    }

    /// A resolver with settings that no file changes.
    #[cfg(test)]
    pub(crate) fn fixed(settings: Settings, hosts: Hosts) -> Self {
        let resolver = Self::new("/nonexistent/resolv.conf", "/nonexistent/hosts");
        let read = Read { stamp: resolver.stamp(), settings: Arc::new(settings), hosts: Arc::new(hosts) };
        *resolver.read.lock().unwrap_or_else(PoisonError::into_inner) = Some(read);
        resolver
    }

    /// The messages that answer a lookup of `name`, one for each family asked for, A before AAAA: those of the first
    /// candidate that any family has records of; if there is none, those that say so best.
    ///
    /// # Errors
    /// [`ResolveError::NotAName`] and [`ResolveError::NoAnswer`]. "No such name" is not an error but a message.
    pub async fn lookup(&self, name: &str, families: Families) -> Result<Vec<Vec<u8>>, ResolveError> {
        let read = self.current();
        if let Some(own) = local(&read.hosts, name, families) {
            return Ok(own);
        }
        let mut best: Option<Outcome> = None;
        for candidate in read.settings.candidates(name) {
            // A candidate that is too long is skipped, as glibc does; the others may do.
            let Some(query) = message::name(&candidate) else { continue };
            let as_it_is = best.is_none() && candidate.len() == name.len();
            let outcome = self.families(&read.settings, &query, families).await;
            let outcome = outcome.map_err(|source| ResolveError::NoAnswer { name: candidate, source })?;
            if outcome.rank == Rank::Found {
                return Ok(outcome.messages);
            }
            let rank = if as_it_is { Rank::AsItIs } else { outcome.rank };
            let outcome = Outcome { rank, ..outcome };
            if best.as_ref().is_none_or(|best| outcome.rank >= best.rank) {
                best = Some(outcome);
            }
        }
        best.map(|best| best.messages).ok_or_else(|| ResolveError::NotAName(name.to_owned()))
    }

    /// The addresses of a name, IPv4 first.
    ///
    /// # Errors
    /// All of [`ResolveError`].
    pub async fn addresses(&self, name: &str, families: Families) -> Result<Vec<IpAddr>, ResolveError> {
        if let Ok(address) = name.parse() {
            return Ok(vec![address]);
        }
        let messages = self.lookup(name, families).await?;
        let addresses: Vec<IpAddr> =
            messages.iter().flat_map(|message| message::addresses(message)).collect();
        if !addresses.is_empty() {
            return Ok(addresses);
        }
        let heads = messages.iter().filter_map(|message| Head::read(message));
        if heads.into_iter().any(|head| head.code == ResponseCode::ServFail) {
            return Err(ResolveError::ServerFailure(name.to_owned()));
        }
        Err(ResolveError::NotFound(name.to_owned()))
    }

    /// The name of an address, without a trailing dot.
    ///
    /// # Errors
    /// All of [`ResolveError`].
    pub async fn name(&self, address: IpAddr) -> Result<String, ResolveError> {
        let read = self.current();
        let address = address.to_canonical();
        if let Some(name) = read.hosts.name(address) {
            return Ok(name.to_owned());
        }
        let mut reverse = Name::from(address);
        reverse.set_fqdn(true);
        let answer = self.ask(&read.settings, &reverse, RecordType::PTR).await;
        let answer = answer.map_err(|source| ResolveError::NoAnswer { name: address.to_string(), source })?;
        let name = message::pointer(&answer).map(|name| name.to_ascii().trim_end_matches('.').to_owned());
        name.filter(|name| !name.is_empty()).ok_or_else(|| ResolveError::NotFound(address.to_string()))
    }

    /// Passes a question on as it is and gives the answer as it came. If nobody answers, the answer says "server
    /// failure"; what is no question at all gets that too.
    pub async fn forward(&self, question: &[u8], tcp: bool) -> Vec<u8> {
        let read = self.current();
        let answer = exchange(&read.settings, self.skip(&read.settings), question, tcp).await;
        answer.unwrap_or_else(|_| message::failure(question))
    }

    /// The two files as they are now.
    #[must_use]
    pub fn files(&self) -> Files {
        let text = |path: &Path| std::fs::read(path).unwrap_or_default();
        Files { resolv_conf: text(&self.resolv_conf), hosts: text(&self.hosts) }
    }

    async fn families(
        &self,
        settings: &Settings,
        name: &Name,
        families: Families,
    ) -> Result<Outcome, ExchangeError> {
        let ask = |kind| async move { (kind, self.ask(settings, name, kind).await) };
        let answers = futures_util::future::join_all(families.types().map(ask)).await;
        let mut outcome = Outcome { rank: Rank::Missing, messages: Vec::new() };
        let mut silence = None;
        for (kind, answer) in answers {
            let message = match answer {
                Ok(message) => {
                    outcome.rank = outcome.rank.max(rank(&message));
                    message
                }
                Err(error) => {
                    silence = Some(error);
                    message::failure(&message::question(name, kind, false).unwrap_or_default())
                }
            };
            outcome.messages.push(message);
        }
        match silence {
            // One family's records are worth more than the other's silence.
            Some(error) if outcome.rank != Rank::Found => Err(error),
            _ => Ok(outcome),
        }
    }

    async fn ask(
        &self,
        settings: &Settings,
        name: &Name,
        kind: RecordType,
    ) -> Result<Vec<u8>, ExchangeError> {
        let skip = self.skip(settings);
        let question = |edns| message::question(name, kind, edns).ok_or(ExchangeError::NotAQuestion(0));
        let answer = exchange(settings, skip, &question(true)?, false).await?;
        if !message::is_rejection(&answer) {
            return Ok(answer);
        }
        exchange(settings, skip, &question(false)?, false).await
    }

    fn skip(&self, settings: &Settings) -> usize {
        if settings.rotate { self.turn.fetch_add(1, Ordering::Relaxed) } else { 0 }
    }

    fn stamp(&self) -> Stamp {
        let stamp = |path: &Path| {
            let found = std::fs::metadata(path).ok()?;
            Some((found.modified().ok()?, found.len()))
        };
        [stamp(&self.resolv_conf), stamp(&self.hosts)]
    }

    /// What the files say now. Both are small and on a local file system, so they are read in place.
    fn current(&self) -> Read {
        let stamp = self.stamp();
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(read) = read.as_ref().filter(|read| read.stamp == stamp) {
            return read.clone();
        }
        let text = |path: &Path| std::fs::read(path).unwrap_or_default();
        let fresh = Read {
            stamp,
            settings: Arc::new(Settings::parse(&text(&self.resolv_conf))),
            hosts: Arc::new(Hosts::parse(&text(&self.hosts))),
        };
        *read = Some(fresh.clone());
        fresh
    }
}

/// How much a candidate's answers say, least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// No such name.
    Missing,
    /// A server failed; another candidate may still be found.
    Failed,
    /// The name is there, the records are not.
    Empty,
    /// Not found, but this is the name as the program spelled it, asked first: glibc gives this one's reason.
    AsItIs,
    /// Records.
    Found,
}

fn rank(message: &[u8]) -> Rank {
    match Head::read(message) {
        Some(head) if head.found() => Rank::Found,
        Some(head) if head.code == ResponseCode::NoError => Rank::Empty,
        Some(head) if head.code == ResponseCode::NXDomain => Rank::Missing,
        _ => Rank::Failed,
    }
}

#[derive(Debug)]
struct Outcome {
    rank: Rank,
    messages: Vec<Vec<u8>>,
}

/// The messages for what needs no nameserver: numbers, `/etc/hosts`, `localhost`. `None` if there is nothing of the
/// families asked for.
fn local(hosts: &Hosts, name: &str, families: Families) -> Option<Vec<Vec<u8>>> {
    let known = match name.parse::<IpAddr>() {
        Ok(address) => vec![address],
        Err(_) => hosts.addresses(name),
    };
    if !known.iter().any(|address| families.has(address)) {
        return None;
    }
    let query = message::name(name).unwrap_or_else(Name::root);
    families.types().map(|kind| message::from_addresses(&query, kind, &known)).collect()
}

#[cfg(test)]
pub(crate) mod tests;
