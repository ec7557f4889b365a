//! Which of a container's variables come from Secrets, by its specification.
//!
//! `env` says it for each variable. Of `envFrom` the specification names the Secret and not its keys, and who may run tp
//! need not be allowed to read Secrets: so what may have come from one counts as if it had, unless it is known to be
//! something else.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::net::IpAddr;

use ::kube::api::Api;
use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVar, EnvVarSource};
use tracing::debug;

use super::Cluster;
use super::target::Target;

/// The names of those of the variables that come from Secrets, whole or in part.
pub async fn from_secrets<'a>(
    cluster: &Cluster,
    target: &Target,
    variables: impl Iterator<Item = (&'a OsStr, &'a OsStr)>,
) -> BTreeSet<OsString> {
    let Some(container) = target.spec() else { return BTreeSet::new() };
    let known = if from_whole_secrets(container).next().is_some() {
        open_values(cluster, target, container).await
    } else {
        BTreeMap::new()
    };
    let variables =
        variables.filter_map(|(name, value)| Some((name.to_str()?, value.to_str().unwrap_or_default())));
    judge(container, &known, &variables.collect()).into_iter().map(OsString::from).collect()
}

/// The prefixes of the Secrets that are taken whole.
fn from_whole_secrets(container: &Container) -> impl Iterator<Item = &str> {
    let sources = container.env_from.iter().flatten();
    sources
        .filter(|source| source.secret_ref.is_some())
        .map(|source| source.prefix.as_deref().unwrap_or_default())
}

/// What is open to be read: the values of ConfigMaps, as far as this user may read them, and the pod's own names.
async fn open_values(cluster: &Cluster, target: &Target, container: &Container) -> BTreeMap<String, String> {
    let mut known = BTreeMap::from([("HOSTNAME".to_owned(), target.pod_name().to_owned())]);
    let api: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    for source in container.env_from.iter().flatten() {
        let Some(reference) = &source.config_map_ref else { continue };
        let prefix = source.prefix.as_deref().unwrap_or_default();
        match cluster.call("get", "configmaps", api.get(&reference.name)).await {
            Ok(map) => {
                let values = map.data.into_iter().flatten();
                known.extend(values.map(|(key, value)| (format!("{prefix}{key}"), value)));
            }
            Err(error) => debug!(%error, "what comes from this ConfigMap is not known"),
        }
    }
    known
}

fn judge<'a>(
    container: &'a Container,
    known: &BTreeMap<String, String>,
    variables: &BTreeMap<&'a str, &'a str>,
) -> BTreeSet<&'a str> {
    let own = container.env.as_deref().unwrap_or_default();
    let is_own = |name: &str| own.iter().any(|variable| variable.name == name);
    let prefixes: Vec<&str> = from_whole_secrets(container).collect();
    let mut secret: BTreeSet<&str> = variables
        .iter()
        .filter(|&(&name, &value)| {
            prefixes.iter().any(|prefix| name.starts_with(prefix))
                && !is_own(name)
                && known.get(name).is_none_or(|open| open != value)
                && !is_of_a_service(name, value, variables)
        })
        .map(|(name, _)| *name)
        .collect();
    // In their order: each may refer to those before it, `$(NAME)`.
    for variable in own {
        if is_secret(variable, &secret) {
            secret.insert(&variable.name);
        } else {
            secret.remove(variable.name.as_str());
        }
    }
    secret
}

fn is_secret(variable: &EnvVar, before: &BTreeSet<&str>) -> bool {
    // A file of variables is written by an init container, and may hold anything.
    let is_kept = |from: &EnvVarSource| from.secret_key_ref.is_some() || from.file_key_ref.is_some();
    let from_secret = variable.value_from.as_ref().is_some_and(is_kept);
    let value = variable.value.as_deref().unwrap_or_default();
    from_secret || before.iter().any(|name| value.contains(&format!("$({name})")))
}

/// What the kubelet says of a service (`X_SERVICE_HOST`, `X_PORT_80_TCP`…): by its name, the value's form, and because the
/// service's address is there as well.
fn is_of_a_service(name: &str, value: &str, variables: &BTreeMap<&str, &str>) -> bool {
    let is_address = |text: &str| text.parse::<IpAddr>().is_ok();
    let is_plain = value.parse::<u16>().is_ok()
        || is_address(value)
        || ["tcp", "udp", "sctp"].iter().any(|protocol| {
            value.strip_prefix(protocol).is_some_and(|rest| rest.is_empty() || rest.starts_with("://"))
        });
    let mut services = name.match_indices("_SERVICE_").chain(name.match_indices("_PORT"));
    is_plain
        && services.any(|(at, _)| {
            let host = name.get(..at).map(|service| format!("{service}_SERVICE_HOST"));
            host.and_then(|host| variables.get(host.as_str())).is_some_and(|host| is_address(host))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(
        container: serde_json::Value,
        known: &[(&str, &str)],
        variables: &[(&str, &str)],
    ) -> Vec<String> {
        let container: Container = serde_json::from_value(container).unwrap();
        let known = known.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        judge(&container, &known, &variables.iter().copied().collect())
            .into_iter()
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn keys_of_secrets_and_what_is_made_of_them_are_secret() {
        let container = serde_json::json!({"name": "app", "env": [
            {"name": "PLAIN", "value": "x"},
            {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "s", "key": "p"}}},
            {"name": "URL", "value": "db://me:$(PASSWORD)@$(PLAIN)"},
            {"name": "OF_URL", "value": "$(URL)/x"},
            {"name": "MADE", "valueFrom": {"fileKeyRef": {"volumeName": "v", "path": "f", "key": "k"}}},
        ]});
        assert_eq!(secret(container, &[], &[("PLAIN", "x")]), ["MADE", "OF_URL", "PASSWORD", "URL"]);
    }

    #[test]
    fn of_a_whole_secret_all_counts_that_is_not_known_to_be_something_else() {
        let container = serde_json::json!({"name": "app",
            "env": [{"name": "PLAIN", "value": "x"}, {"name": "MADE", "value": "$(KEY)"}],
            "envFrom": [{"configMapRef": {"name": "c"}}, {"secretRef": {"name": "s"}}],
        });
        let variables = [
            ("PLAIN", "x"),
            ("MADE", "k"),
            ("KEY", "k"),
            ("COLOUR", "teal"),
            ("SHADE", "of the secret"),
            ("DB_SERVICE_HOST", "10.1.2.3"),
            ("DB_PORT", "tcp://10.1.2.3:80"),
            ("DB_PORT_80_TCP_ADDR", "10.1.2.3"),
            ("DB_SERVICE_PASSWORD", "hunter2"),
            ("MY_PORT", "80"),
        ];
        let known = [("COLOUR", "teal"), ("SHADE", "light")];
        let expected = ["DB_SERVICE_PASSWORD", "KEY", "MADE", "MY_PORT", "SHADE"];
        assert_eq!(secret(container, &known, &variables), expected);
    }

    #[test]
    fn a_prefix_narrows_it_down() {
        let container =
            serde_json::json!({"name": "app", "envFrom": [{"secretRef": {"name": "s"}, "prefix": "S_"}]});
        assert_eq!(secret(container, &[], &[("S_KEY", "1"), ("KEY", "2")]), ["S_KEY"]);
    }
}
