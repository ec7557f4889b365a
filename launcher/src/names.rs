//! Names and addresses as the pod sees them, each asked once.
//!
//! Programs look a name up at every connect, and several threads at once; the cluster is a round trip away. Answers,
//! negative ones too (RFC 2308), are kept for as long as the nameserver allows, and one question in flight serves
//! all who wait for it. A slow question never delays another: each is its own task on its own stream.
//!
//! Addresses are the real ones, in the pod's order (RFC 6724): the libc that would otherwise order them would judge by the
//! laptop's own addresses.
//!
//! What the user keeps local ([`scope`](crate::scope)) is asked of the laptop's own libc ([`laptop`]), which keeps what it
//! keeps.

mod laptop;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use moka::Expiry;
use moka::future::Cache;

use crate::pod::{Found, LookupError, Pod, Want};
use crate::scope::{Resolver, Scope};

/// Names kept at the most; a name takes a few hundred bytes.
const NAMES_KEPT: u64 = 10_000;
/// No answer is kept longer than this, whatever its TTL says.
const TTL_LIMIT: Duration = Duration::from_secs(3600);
/// A name that is not there may be made by the developer the next moment.
const NEGATIVE_TTL_LIMIT: Duration = Duration::from_secs(30);

/// An answer, and until when it is good.
#[derive(Clone, Debug)]
pub struct Known {
    /// What the nameserver, or the laptop's libc, said.
    pub said: Result<Found, LookupError>,
    /// Nothing is kept longer.
    pub until: Instant,
}

impl Known {
    fn new(said: Result<Found, LookupError>) -> Self {
        let ttl = match &said {
            Ok(found) => found.ttl.min(TTL_LIMIT),
            Err(error) => error.ttl.min(NEGATIVE_TTL_LIMIT),
        };
        Self { said, until: Instant::now() + ttl }
    }
}

/// The lookups of one session.
pub struct Names {
    pod: Arc<dyn Pod>,
    scope: Arc<Scope>,
    cache: Cache<(String, Want), Arc<Known>>,
}

impl Names {
    /// Lookups that `pod` answers, or the laptop where `scope` says so.
    #[must_use]
    pub fn new(pod: Arc<dyn Pod>, scope: Arc<Scope>) -> Self {
        Self { pod, scope, cache: Cache::builder().max_capacity(NAMES_KEPT).expire_after(ByTtl).build() }
    }

    /// Looks a name up, in the pod by its search list unless it ends with a dot.
    pub async fn lookup(&self, name: &str, want: Want) -> Arc<Known> {
        let known = match self.scope.resolver(name) {
            Resolver::Laptop => Known::new(laptop::lookup(name.to_owned(), want).await).into(),
            Resolver::Pod => self.in_pod(name, want).await,
            Resolver::PodIfInScope => match self.in_scope(&self.in_pod(name, want).await) {
                Some(known) => known.into(),
                None => Known::new(laptop::lookup(name.to_owned(), want).await).into(),
            },
        };
        if let Ok(found) = &known.said {
            self.scope.found(name, &found.addresses);
        }
        known
    }

    /// What the pod found, without addresses to which connections would be the laptop's own.
    fn in_scope(&self, known: &Arc<Known>) -> Option<Known> {
        let mut found = known.said.clone().ok()?;
        found.addresses.retain(|ip| self.scope.is_pods_ip(*ip));
        (!found.addresses.is_empty()).then_some(Known { said: Ok(found), until: known.until })
    }

    async fn in_pod(&self, name: &str, want: Want) -> Arc<Known> {
        let name = name.to_ascii_lowercase();
        let key = (name.clone(), want);
        self.cache.get_with(key, async { Known::new(self.pod.lookup(name, want).await).into() }).await
    }

    /// Looks up the name of an address.
    ///
    /// # Errors
    /// What the pod's nameserver, or the laptop's libc, said.
    pub async fn reverse(&self, address: IpAddr) -> Result<String, LookupError> {
        if self.scope.is_pods_ip(address) {
            self.pod.reverse(address).await
        } else {
            laptop::reverse(address).await
        }
    }
}

struct ByTtl;

impl Expiry<(String, Want), Arc<Known>> for ByTtl {
    fn expire_after_create(&self, _: &(String, Want), known: &Arc<Known>, now: Instant) -> Option<Duration> {
        Some(known.until.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::BoxFuture;
    use tokio::sync::Semaphore;
    use tp_abi::errno::eai;

    use super::*;
    use crate::pod::datagrams::Datagrams;
    use crate::pod::{DialError, Stream};

    /// Answers when it gets a permit, and counts the questions.
    struct Nameserver {
        asked: AtomicUsize,
        may_answer: Semaphore,
        answer: Result<Found, LookupError>,
    }

    impl Nameserver {
        fn new(answer: Result<Found, LookupError>, permits: usize) -> Arc<Self> {
            Arc::new(Self { asked: AtomicUsize::new(0), may_answer: Semaphore::new(permits), answer })
        }
    }

    impl Pod for Nameserver {
        fn dial(&self, _: SocketAddr) -> BoxFuture<'_, Result<Stream, DialError>> {
            unreachable!("a lookup does not dial")
        }

        fn carries_datagrams(&self, _: SocketAddr) -> bool {
            false
        }

        fn datagrams(&self, _: SocketAddr) -> BoxFuture<'_, Result<Datagrams, DialError>> {
            unreachable!("a lookup sends none itself")
        }

        fn lookup(&self, _: String, _: Want) -> BoxFuture<'_, Result<Found, LookupError>> {
            Box::pin(async {
                self.asked.fetch_add(1, Ordering::SeqCst);
                self.may_answer.acquire().await.unwrap().forget();
                self.answer.clone()
            })
        }

        fn reverse(&self, _: IpAddr) -> BoxFuture<'_, Result<String, LookupError>> {
            unreachable!("nobody asked")
        }
    }

    const BOTH: Want = Want { v4: true, v6: true, configured: false, as_told: false };

    fn found(ttl: Duration) -> Result<Found, LookupError> {
        Ok(Found { addresses: vec![[10, 96, 0, 1].into()], canonical: "a.".into(), aliases: Vec::new(), ttl })
    }

    #[tokio::test]
    async fn one_question_in_flight_serves_all_who_wait() {
        let nameserver = Nameserver::new(found(Duration::from_secs(5)), 0);
        let names = Arc::new(Names::new(nameserver.clone(), Arc::default()));
        let waiters: Vec<_> = (0..50)
            .map(|_| {
                let names = Arc::clone(&names);
                tokio::spawn(async move { names.lookup("Backend", BOTH).await.said.is_ok() })
            })
            .collect();
        while nameserver.asked.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        nameserver.may_answer.add_permits(1);
        for waiter in waiters {
            assert!(waiter.await.unwrap());
        }
        assert_eq!(nameserver.asked.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_missing_name_is_remembered_and_a_passing_failure_is_not() {
        for (ttl, questions) in [(Duration::from_secs(5), 1), (Duration::ZERO, 2)] {
            let answer = Err(LookupError { eai: eai::NONAME, ttl, reason: "test".into() });
            let nameserver = Nameserver::new(answer, 9);
            let names = Names::new(nameserver.clone(), Arc::default());
            assert!(names.lookup("nope", BOTH).await.said.is_err());
            assert!(names.lookup("nope", BOTH).await.said.is_err());
            assert_eq!(nameserver.asked.load(Ordering::SeqCst), questions);
        }
    }
}
