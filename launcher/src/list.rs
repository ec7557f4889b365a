//! `tp list`: the workloads of a namespace, and who has ports of them.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::cli;
use crate::kube::Cluster;
use crate::kube::workloads::{self, Listed};
use crate::report::Failure;
use crate::session::SessionError;
use crate::tell::tell;
use crate::{show, table};

/// Prints them.
///
/// # Errors
/// If the cluster does not tell, or nobody reads.
pub async fn list(options: cli::List) -> Result<u8, Failure> {
    let connected = Cluster::connect(options.context.as_deref(), options.namespace.as_deref()).await;
    let cluster = connected.map_err(SessionError::from)?;
    let found = workloads::list(&cluster).await.map_err(SessionError::from)?;
    for error in &found.unknown {
        tell(format_args!("not all is known: {error}"));
    }
    let text = match options.output {
        cli::Output::Text => {
            let rows: Vec<_> = found.workloads.iter().map(row).collect();
            table::set(["WORKLOAD", "READY", "EXPOSED"], &rows)
        }
        cli::Output::Json => format!("{:#}\n", Value::from_iter(found.workloads.iter().map(object))),
    };
    show::print(&text)
}

fn row(listed: &Listed) -> [String; 3] {
    let Listed { workload, ready, wanted, exposed, turned, swapped } = listed;
    // Each pod has an agent of its own that says the same.
    let exposed: BTreeSet<String> = exposed.iter().map(describe).collect();
    let swapped = swapped.get("who").map(|who| format!("all of it by {} (swapped)", word(who)));
    let part = |entry: &Value, name: &str| entry.get(name).map(word).unwrap_or_default();
    let turned =
        turned.iter().map(|entry| format!("service/{} by {}", part(entry, "service"), part(entry, "who")));
    let exposed: Vec<String> = swapped.into_iter().chain(turned).chain(exposed).collect();
    [workload.to_string(), format!("{ready}/{wanted}"), exposed.join("; ")]
}

fn object(listed: &Listed) -> Value {
    let Listed { workload, ready, wanted, exposed, turned, swapped } = listed;
    json!({
        "workload": workload.to_string(), "ready": ready, "wanted": wanted, "exposed": exposed,
        "turned": turned, "swapped": swapped,
    })
}

/// `8080/tcp by alice@laptop (mirror, x-user=alice, /path)`.
fn describe(entry: &Value) -> String {
    let part = |name: &str| entry.get(name).map(word).unwrap_or_default();
    let mut notes = Vec::new();
    if part("way") != "steal" {
        notes.push(part("way"));
    }
    let headers = entry.pointer("/filter/headers").and_then(Value::as_array);
    for header in headers.into_iter().flatten().filter_map(Value::as_array) {
        notes.push(header.iter().map(word).collect::<Vec<_>>().join("="));
    }
    notes.extend(entry.pointer("/filter/path_prefix").and_then(Value::as_str).map(str::to_owned));
    let text = format!("{}/{} by {}", part("port"), part("protocol"), part("who"));
    if notes.is_empty() { text } else { format!("{text} ({})", notes.join(", ")) }
}

fn word(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::target::{Kind, Workload};

    #[test]
    fn a_row_says_who_has_which_port_and_what_of_it() {
        let entry = |pod: &str| {
            json!({
                "port": 8080, "protocol": "tcp", "way": "mirror", "who": "alice@laptop", "since": "…", "pod": pod,
                "filter": {"headers": [["x-user", "alice"]], "path_prefix": "/v1"},
            })
        };
        let mut listed = Listed {
            workload: Workload { kind: Kind::Deployment, name: "web".into() },
            ready: 1,
            wanted: 2,
            exposed: vec![entry("web-1"), entry("web-2")],
            turned: Vec::new(),
            swapped: Value::Null,
        };
        let words = "8080/tcp by alice@laptop (mirror, x-user=alice, /v1)";
        assert_eq!(row(&listed), ["deployment/web", "1/2", words]);
        listed.exposed.clear();
        listed.turned = vec![json!({"service": "web", "who": "alice@laptop", "since": "…"})];
        assert_eq!(row(&listed)[2], "service/web by alice@laptop");
        listed.turned.clear();
        listed.swapped = json!({"who": "bob@desk", "since": "…"});
        assert_eq!(row(&listed)[2], "all of it by bob@desk (swapped)");
    }
}
