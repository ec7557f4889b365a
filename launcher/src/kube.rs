//! The Kubernetes side of a session: which cluster, which pod, where its agent is, and the one connection to it.
//!
//! Every call to the API server goes through [`Cluster::call`], so that each failure says which verb on which
//! resource was tried, and none waits longer than a user would.

mod access;
pub mod agent;
pub mod forward;
pub mod target;

use std::collections::BTreeSet;
use std::future::Future;
use std::time::Duration;

use ::kube::client::ConfigExt as _;
use ::kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use ::kube::{Client, Config};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tower::ServiceBuilder;

/// How long connecting to the API server may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(4);
/// How long one answer of the API server may take.
const CALL_LIMIT: Duration = Duration::from_secs(8);

/// A cluster and the namespace in which things are looked for.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    namespace: String,
}

/// Why there is no cluster to talk to.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Neither a kubeconfig nor a pod's service account.
    #[error("no cluster is configured: there is no kubeconfig at {looked_at}, and this is not a pod")]
    None {
        /// Where a kubeconfig was looked for.
        looked_at: String,
        /// Why there is no in-cluster configuration.
        #[source]
        source: InClusterError,
    },
    /// The kubeconfig does not name a current context, and none was given.
    #[error("the kubeconfig has no current context")]
    NoContext {
        /// The contexts that it has.
        contexts: Vec<String>,
    },
    /// The kubeconfig has no such context.
    #[error("the kubeconfig has no context `{name}`")]
    UnknownContext {
        /// What was asked for.
        name: String,
        /// What comes closest.
        nearest: Vec<String>,
    },
    /// The kubeconfig cannot be used.
    #[error("the kubeconfig cannot be used")]
    Unusable(#[source] KubeconfigError),
    /// No client can be made of it.
    #[error("no client can be made from the kubeconfig")]
    Client(#[source] Box<::kube::Error>),
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
        let mut config = configuration(context).await?;
        config.connect_timeout = Some(CONNECT_LIMIT);
        let namespace = namespace.map_or_else(|| config.default_namespace.clone(), str::to_owned);
        let client = client(config).map_err(|error| ConfigError::Client(Box::new(error)))?;
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
            other => Box::new(other),
        };
        match code {
            0 => ApiError::Unreachable(source),
            401 => ApiError::Unauthorized(source),
            403 if !by_admission => {
                ApiError::Forbidden { verb, resource, namespace: self.namespace.clone(), source }
            }
            404 => ApiError::NotFound { resource, source },
            _ => ApiError::Other { verb, resource, source },
        }
    }
}

/// A 403 is also the answer of admission (quota, Pod Security, webhooks): then the person is allowed, the object not.
fn is_by_admission(error: &::kube::Error) -> bool {
    // RBAC's refusals alone name the user in a fixed form (k8s.io/apiserver, responsewriters/errors.go).
    matches!(error, ::kube::Error::Api(status) if !status.message.contains(" cannot "))
}

/// A client whose connections send small writes at once. kube's own leave Nagle's algorithm on, which together with
/// the API server's delayed acknowledgements costs 40 ms at the first connects of a session. Behind a proxy the
/// connection is the proxy's business, and kube's client is taken as it is.
fn client(config: Config) -> ::kube::Result<Client> {
    if config.proxy_url.is_some() {
        return Client::try_from(config);
    }
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(config.connect_timeout);
    let https = config.rustls_https_connector_with_connector(connector)?;
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(tower::BoxError::from)
        .service(hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build(https));
    Ok(Client::new(service, config.default_namespace))
}

async fn configuration(context: Option<&str>) -> Result<Config, ConfigError> {
    let kubeconfig = match read_kubeconfig() {
        Ok(kubeconfig) => kubeconfig,
        Err(error) if is_missing(&error) && context.is_none() => {
            return Config::incluster()
                .map_err(|source| ConfigError::None { looked_at: looked_at(), source });
        }
        Err(error) => return Err(ConfigError::Unusable(error)),
    };
    let contexts: Vec<String> = kubeconfig.contexts.iter().map(|context| context.name.clone()).collect();
    match context.or(kubeconfig.current_context.as_deref().filter(|name| !name.is_empty())) {
        None => {
            return Config::incluster().map_err(|_| ConfigError::NoContext { contexts });
        }
        Some(name) if !contexts.iter().any(|known| known == name) => {
            return Err(ConfigError::UnknownContext {
                name: name.to_owned(),
                nearest: nearest(name, contexts),
            });
        }
        Some(_) => {}
    }
    let options = KubeConfigOptions { context: context.map(str::to_owned), ..KubeConfigOptions::default() };
    Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(ConfigError::Unusable)
}

/// The files of `KUBECONFIG`, merged, or `~/.kube/config`. As kubectl does it, files of a list that are not there
/// are passed over; the first error is that of the last one if none is.
fn read_kubeconfig() -> Result<Kubeconfig, KubeconfigError> {
    let Some(list) = std::env::var_os("KUBECONFIG").filter(|list| !list.is_empty()) else {
        return Kubeconfig::read();
    };
    let mut merged: Option<Kubeconfig> = None;
    let mut missing = None;
    for path in std::env::split_paths(&list).filter(|path| !path.as_os_str().is_empty()) {
        match Kubeconfig::read_from(&path) {
            Ok(next) => merged = Some(merged.take().unwrap_or_default().merge(next)?),
            Err(error) if is_missing(&error) => missing = Some(error),
            Err(error) => return Err(error),
        }
    }
    merged.ok_or_else(|| missing.unwrap_or(KubeconfigError::FindPath))
}

fn is_missing(error: &KubeconfigError) -> bool {
    match error {
        KubeconfigError::ReadConfig(error, _) => error.kind() == std::io::ErrorKind::NotFound,
        KubeconfigError::FindPath => true,
        _ => false,
    }
}

fn looked_at() -> String {
    match std::env::var("KUBECONFIG") {
        Ok(list) if !list.is_empty() => format!("{list} (KUBECONFIG)"),
        _ => "~/.kube/config".to_owned(),
    }
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
