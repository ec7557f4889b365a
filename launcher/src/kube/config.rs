//! Which cluster, as whom: the kubeconfig in all its forms.
//!
//! kubectl's rules hold, because the same files must mean the same to both: the files of `KUBECONFIG` are merged, those
//! that are not there are passed over, and without any the service account of the pod that tp runs in is taken. kube
//! reads and merges; what it would take for an anonymous user (a context whose user is in none of the files) is refused
//! here.

use std::time::Duration;

use ::kube::client::{AuthError, ConfigExt as _};
use ::kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use ::kube::{Client, Config};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tower::ServiceBuilder;

use super::{Cause, nearest};

/// How long connecting to the API server may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(4);

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
    /// The context names a user or a cluster that none of the files has.
    #[error("context `{context}` of the kubeconfig names the {kind} `{name}`, which none of its files has")]
    Incomplete {
        /// The context.
        context: String,
        /// "user" or "cluster".
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// The program that is to give credentials gives none.
    #[error("the kubeconfig's credential plugin `{command}` gave no credentials")]
    Plugin {
        /// The program.
        command: String,
        /// How to get it, in the kubeconfig's own words.
        hint: Option<String>,
        /// What went wrong.
        #[source]
        source: Cause,
    },
    /// The kubeconfig cannot be used.
    #[error("the kubeconfig cannot be used")]
    Unusable(#[source] KubeconfigError),
    /// No client can be made of it.
    #[error("no client can be made from the kubeconfig")]
    Client(#[source] Box<::kube::Error>),
}

/// A client for a context, and the namespace that the context names; without a context, for the kubeconfig's current
/// one, or for the pod that tp runs in.
///
/// # Errors
/// If there is none that can be used. The API server is not asked yet; a credential plugin is.
pub(super) async fn connect(context: Option<&str>) -> Result<(Client, String), ConfigError> {
    let mut config = configuration(context).await?;
    config.connect_timeout = Some(CONNECT_LIMIT);
    let namespace = config.default_namespace.clone();
    let plugin = config.auth_info.exec.clone();
    // A plugin may ask a person, and kube waits for it without giving way to anything else.
    let made = tokio::task::spawn_blocking(move || client(config)).await;
    match made {
        Ok(Ok(client)) => Ok((client, namespace)),
        Ok(Err(::kube::Error::Auth(error))) if plugin.is_some() => Err(ConfigError::Plugin {
            command: plugin.as_ref().and_then(|plugin| plugin.command.clone()).unwrap_or_default(),
            hint: plugin.and_then(|plugin| plugin.install_hint),
            source: auth_words(error),
        }),
        Ok(Err(error)) => Err(ConfigError::Client(Box::new(error))),
        Err(panicked) => Err(ConfigError::Client(Box::new(::kube::Error::Service(panicked.into())))),
    }
}

/// What went wrong with credentials. kube's own text for a plugin that failed holds all of its output, and that may be
/// a token.
pub(super) fn auth_words(error: AuthError) -> Cause {
    match error {
        AuthError::AuthExecRun { cmd, out } => {
            let said = String::from_utf8_lossy(&out.stderr);
            format!("`{cmd}` ended with {}: {}", out.status, said.trim()).into()
        }
        AuthError::AuthExecStart(error) => error.into(),
        other => other.into(),
    }
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
        Some(name) => complete(&kubeconfig, name)?,
    }
    let options = KubeConfigOptions { context: context.map(str::to_owned), ..KubeConfigOptions::default() };
    Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(ConfigError::Unusable)
}

/// Whether the user and the cluster of a context are there.
fn complete(kubeconfig: &Kubeconfig, name: &str) -> Result<(), ConfigError> {
    let context = kubeconfig.contexts.iter().find(|known| known.name == name);
    let Some(context) = context.and_then(|known| known.context.as_ref()) else { return Ok(()) };
    let missing = |kind, wanted: &str| {
        Err(ConfigError::Incomplete { context: name.to_owned(), kind, name: wanted.to_owned() })
    };
    let user = context.user.as_deref().unwrap_or_default();
    if !user.is_empty() && !kubeconfig.auth_infos.iter().any(|known| known.name == user) {
        return missing("user", user);
    }
    if !kubeconfig.clusters.iter().any(|known| known.name == context.cluster) {
        return missing("cluster", &context.cluster);
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_whose_user_or_cluster_is_in_no_file_is_refused() {
        let text = |user: &str, cluster: &str| {
            format!(
                "clusters: [{{name: c, cluster: {{server: 'https://h'}}}}]\nusers: [{{name: u, user: {{}}}}]\n\
                 contexts: [{{name: x, context: {{cluster: {cluster}, user: {user}}}}}]\n"
            )
        };
        let complete = |text: String| complete(&Kubeconfig::from_yaml(&text).unwrap(), "x");
        complete(text("u", "c")).unwrap();
        assert!(matches!(complete(text("v", "c")), Err(ConfigError::Incomplete { kind: "user", .. })));
        assert!(matches!(complete(text("u", "d")), Err(ConfigError::Incomplete { kind: "cluster", .. })));
    }

    #[test]
    fn a_plugins_output_is_not_shown_but_its_complaint_is() {
        use std::os::unix::process::ExitStatusExt as _;
        let out = std::process::Output {
            status: std::process::ExitStatus::from_raw(1 << 8),
            stdout: b"secret".to_vec(),
            stderr: b"please log in\n".to_vec(),
        };
        let words =
            auth_words(AuthError::AuthExecRun { cmd: "plugin".into(), out: Box::new(out) }).to_string();
        assert_eq!(words, "`plugin` ended with exit status: 1: please log in");
    }
}
