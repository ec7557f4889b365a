//! The Kubernetes side of a session: which cluster, which pod, where its agent is, and the one connection to it.
//!
//! Every call to the API server goes through [`Cluster::call`], so that each failure says which verb on which
//! resource was tried, and none waits longer than a user would.

mod access;
pub mod agent;
pub mod config;
pub mod forward;
pub mod origin;
pub mod own_pod;
pub mod pods;
pub mod record;
pub mod stand_in;
pub mod target;
pub mod turning;
pub mod workloads;

use std::collections::BTreeSet;
use std::future::Future;
use std::time::Duration;

use ::kube::Client;
use ::kube::client::Body;
use ::kube::core::Request;
use ::kube::core::params::GetParams;
use k8s_openapi::jiff::fmt::rfc2822::DateTimeParser;

use config::ConfigError;

/// How long one answer of the API server may take.
const CALL_LIMIT: Duration = Duration::from_secs(8);

/// A cluster and the namespace in which things are looked for.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    namespace: String,
}

/// What lies behind a failed call: the API server's own words, or what kept them from coming.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why a call to the API server gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Nobody there, or no TLS with them.
    #[error("the API server cannot be reached")]
    Unreachable(#[source] Cause),
    /// No answer.
    #[error("the API server did not answer `{verb} {resource}` within {} s", .limit.as_secs())]
    TooSlow {
        /// What was tried.
        verb: &'static str,
        /// On what.
        resource: &'static str,
        /// For how long.
        limit: Duration,
    },
    /// Who is asking is not known there.
    #[error("the API server does not accept the credentials of this context")]
    Unauthorized(#[source] Cause),
    /// Who is asking may not do that.
    #[error("not allowed: {verb} {resource} in namespace `{namespace}`")]
    Forbidden {
        /// What was tried.
        verb: &'static str,
        /// On what.
        resource: &'static str,
        /// Where.
        namespace: String,
        /// The API server's own words.
        #[source]
        source: Cause,
    },
    /// It is not there.
    #[error("not found: {resource}")]
    NotFound {
        /// What was looked for.
        resource: &'static str,
        /// The API server's own words.
        #[source]
        source: Cause,
    },
    /// The object was changed after it was read.
    #[error("{resource} changed in the meantime")]
    Conflict {
        /// What was to be changed.
        resource: &'static str,
        /// The API server's own words.
        #[source]
        source: Cause,
    },
    /// Anything else that the API server says.
    #[error("the API server refused `{verb} {resource}`")]
    Other {
        /// What was tried.
        verb: &'static str,
        /// On what.
        resource: &'static str,
        /// The API server's own words.
        #[source]
        source: Cause,
    },
}

impl Cluster {
    /// The cluster of a context; without one, the kubeconfig's current one, or that of the pod tp runs in.
    ///
    /// # Errors
    /// If there is none that can be used. The API server is not asked yet.
    pub async fn connect(context: Option<&str>, namespace: Option<&str>) -> Result<Self, ConfigError> {
        let (client, of_context) = config::connect(context).await?;
        let namespace = namespace.map_or(of_context, str::to_owned);
        Ok(Self { client, namespace })
    }

    /// The namespace in which things are looked for.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Waits for one answer of the API server, and says what was tried if it is none. `limit` is for calls that do
    /// more than fetch an object.
    async fn call<T>(
        &self,
        verb: &'static str,
        resource: &'static str,
        answer: impl Future<Output = ::kube::Result<T>>,
    ) -> Result<T, ApiError> {
        match tokio::time::timeout(CALL_LIMIT, answer).await {
            Err(_elapsed) => Err(ApiError::TooSlow { verb, resource, limit: CALL_LIMIT }),
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(self.classify(verb, resource, error)),
        }
    }

    /// Seconds since 1970 by the API server's clock, which made the times of all objects; by this machine's, if it does not
    /// tell. Laptops' clocks are wrong now and then.
    pub async fn time(&self) -> u64 {
        // The date is in the head of every answer (RFC 9110 6.6.1), and this question is everybody's to ask.
        let answered = async {
            let request = Request::new("").get("version", &GetParams::default()).ok()?;
            let answer = self.client.send(request.map(Body::from)).await.ok()?;
            let date = answer.headers().get("date")?.to_str().ok()?;
            let date = DateTimeParser::new().parse_timestamp(date).ok()?;
            u64::try_from(date.as_second()).ok()
        };
        tokio::time::timeout(CALL_LIMIT, answered).await.ok().flatten().unwrap_or_else(now)
    }

    fn classify(&self, verb: &'static str, resource: &'static str, error: ::kube::Error) -> ApiError {
        let code = match &error {
            ::kube::Error::Api(status) => status.code,
            ::kube::Error::Auth(_) => 401,
            ::kube::Error::Service(_) | ::kube::Error::HyperError(_) => 0,
            _ => 1,
        };
        let by_admission = is_by_admission(&error);
        let source: Cause = match error {
            // Its own text has the whole object a second time.
            ::kube::Error::Api(status) => status.message.into(),
            ::kube::Error::Service(inner) => inner,
            ::kube::Error::Auth(error) => config::auth_words(error),
            other => Box::new(other),
        };
        match code {
            0 => ApiError::Unreachable(source),
            401 => ApiError::Unauthorized(source),
            403 if !by_admission => {
                ApiError::Forbidden { verb, resource, namespace: self.namespace.clone(), source }
            }
            404 => ApiError::NotFound { resource, source },
            409 => ApiError::Conflict { resource, source },
            _ => ApiError::Other { verb, resource, source },
        }
    }
}

/// How often an object is looked at again that changed before it could be written.
const LOOKS: u32 = 20;

/// Does `step`, which looks at an object and writes what it makes of it onto the version that it saw, until nobody else was
/// faster.
///
/// # Errors
/// Those of `step`; [`ApiError::Conflict`] only if it was that at every try.
async fn until_written<T, F>(mut step: impl FnMut() -> F) -> Result<T, ApiError>
where
    F: Future<Output = Result<T, ApiError>>,
{
    for _ in 1..LOOKS {
        match step().await {
            Err(ApiError::Conflict { .. }) => {}
            done => return done,
        }
    }
    step().await
}

/// A 403 is also the answer of admission (quota, Pod Security, webhooks): then the person is allowed, the object not.
fn is_by_admission(error: &::kube::Error) -> bool {
    // RBAC's refusals alone name the user in a fixed form (k8s.io/apiserver, responsewriters/errors.go).
    let by_rbac = |words: &str| words.contains(": User \"") && words.contains("\" cannot ");
    matches!(error, ::kube::Error::Api(status) if !by_rbac(&status.message))
}

/// A time as Kubernetes tells it (RFC 3339), of seconds since 1970; null if it is none.
#[must_use]
pub fn time(seconds: Option<&serde_json::Value>) -> serde_json::Value {
    let seconds = seconds.and_then(serde_json::Value::as_i64);
    let time = seconds.and_then(|seconds| k8s_openapi::jiff::Timestamp::from_second(seconds).ok());
    time.map(|time| time.to_string()).into()
}

/// Seconds since 1970 by this machine's clock.
#[must_use]
pub fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// The names most like `wanted`, at most three, best first.
#[must_use]
pub fn nearest(wanted: &str, names: impl IntoIterator<Item = String>) -> Vec<String> {
    const ALIKE: f64 = 0.8;
    let names: BTreeSet<String> = names.into_iter().collect();
    let mut scored: Vec<(usize, String)> = names
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(wanted, &name), name))
        .filter(|(slips, name)| {
            *slips <= wanted.len() / 3
                || strsim::jaro_winkler(wanted, name) >= ALIKE
                || (!wanted.is_empty() && name.contains(wanted))
        })
        .collect();
    scored.sort();
    scored.into_iter().map(|(_, name)| name).take(3).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_names_are_offered_best_first() {
        let names = || ["webhook", "web", "database", "frontend"].map(str::to_owned);
        assert_eq!(nearest("wbe", names()), ["web"]);
        assert_eq!(nearest("webb", names()), ["web", "webhook"]);
        assert_eq!(nearest("end", names()), ["frontend"]);
        assert!(nearest("zzz", names()).is_empty());
    }
}
