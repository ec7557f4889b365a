//! The environment: the container's as the kubelet resolved it, on a laptop that stays the laptop.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "what is not as expected is a failed case")]

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;

use tp_tests::case::{Folder, Ran, python, ran};
use tp_tests::{Case, Laptop};

/// The variables of a program under tp, also those of several lines.
fn environment(ran: &Ran) -> BTreeMap<String, String> {
    let variables: Vec<(String, String)> = serde_json::from_str(ran.succeeds()).unwrap();
    variables.into_iter().collect()
}

/// A program that prints its environment.
fn show() -> Vec<String> {
    let script = "import json, os; print(json.dumps(list(os.environ.items())))";
    ["/usr/bin/python3", "-c", script].map(str::to_owned).to_vec()
}

#[test]
fn literals_config_maps_secrets_and_fields_are_there() {
    let case = Case::new();
    let here = environment(&case.web(show()));
    let pod = here.get("TELEPRESENCE_POD").unwrap().clone();
    let ip = case.kubectl(&["get", "pod", &pod, "-o", "jsonpath={.metadata.labels.app} {.status.podIP}"]);
    let ip = ip.strip_prefix("web ").unwrap();
    for (name, value) in [
        ("SERVICE", "web"),
        ("LITERAL", "a literal value"),
        ("EMPTY", ""),
        ("EXPANDED", "a literal value, expanded"),
        ("MULTILINE", "line one\nline two\n\nline four"),
        ("COLOUR", "teal"),
        ("LINES", "first line\nsecond line with \"quotes\" and $dollar\n"),
        ("PASSWORD", "s3cr=t value"),
        ("MODE", "from-configmap"),
        ("colour", "teal"),
        ("SECRET_API_KEY", "from-secret"),
        ("MEMORY_LIMIT", "134217728"),
        ("POD_NAME", &pod),
        ("POD_IP", ip),
        ("TELEPRESENCE_CONTAINER", "app"),
    ] {
        assert_eq!(here.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert!(!here.contains_key("ABSENT"), "an optional key that is not there gives no variable");
}

#[test]
fn the_variables_of_services_are_there() {
    let case = Case::new();
    let here = environment(&case.web(show()));
    let address =
        |service: &str| case.kubectl(&["get", "service", service, "-o", "jsonpath={.spec.clusterIP}"]);
    assert_eq!(here["KUBERNETES_SERVICE_HOST"], address("kubernetes"));
    assert_eq!(here["KUBERNETES_SERVICE_PORT"], "443");
    assert_eq!(here["BACKEND_SERVICE_HOST"], address("backend"));
    assert_eq!(here["BACKEND_SERVICE_PORT_HTTP"], "80");
}

#[test]
fn what_describes_the_laptop_stays_the_laptops() {
    let case = Case::new();
    let without = ran(case.target().command("/usr/bin/python3").unwrap().args(&show()[1..]));
    let (without, here) = (environment(&without), environment(&case.web(show())));
    for name in ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "KUBECONFIG", "XDG_RUNTIME_DIR"] {
        assert_eq!(here.get(name), without.get(name), "{name}");
    }
}

/// Steps: a variable for variable comparison with the container itself, asked through its own HTTP server.
#[test]
fn each_variable_is_the_containers_own() {
    let case = Case::new();
    let here = environment(&case.web(show()));
    let names =
        ["LITERAL", "EMPTY", "MULTILINE", "LINES", "PASSWORD", "POD_IP", "MEMORY_LIMIT", "SECRET_password"];
    let ask = python("ask_environment", &names);
    let there: BTreeMap<String, String> = serde_json::from_str(case.web(ask).succeeds()).unwrap();
    for name in names {
        assert_eq!(here.get(name), there.get(name), "{name}");
    }
}

#[test]
fn another_container_of_the_pod_has_another_environment() {
    let case = Case::new();
    let sidecar = case.tp(["--deployment", "web", "--container", "sidecar"], show());
    let sidecar = environment(&sidecar);
    assert_eq!(sidecar["SERVICE"], "sidecar");
    assert_eq!(sidecar["TELEPRESENCE_CONTAINER"], "sidecar");
    assert!(!sidecar.contains_key("LITERAL"));
}

/// Steps: the file is written, private, and a shell-like reader of dotenv files finds the same values in it.
#[test]
fn the_environment_can_be_kept_in_a_file() {
    let case = Case::new();
    let Some(laptop) = case.laptop("a folder of the laptop's user") else { return };
    let folder = Folder::new(laptop);
    let file = folder.file("web.env");
    case.tp(["--deployment", "web", "--env-file", &file], ["true"]).prints("");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let text = std::fs::read_to_string(&file).unwrap();
    for line in [
        "LITERAL=\"a literal value\"",
        "MULTILINE=\"line one\\nline two\\n\\nline four\"",
        "LINES=\"first line\\nsecond line with \\\"quotes\\\" and \\$dollar\\n\"",
        "TELEPRESENCE_CONTAINER=\"app\"",
    ] {
        assert!(text.lines().any(|known| known == line), "{line} is not in\n{text}");
    }
    assert!(!text.contains("TP_AGENT_") && !text.contains("\nPATH="), "{text}");
}

/// The token is the key to the pod's network: nobody who can read the pod or the program's environment may find it.
#[test]
fn the_token_is_nowhere_to_be_read() {
    let case = Case::new();
    let shown = case.agent(&["--show-token"]);
    let shown = shown.succeeds();
    let token = shown.lines().find_map(|line| line.strip_prefix("token")).unwrap().trim();
    assert_eq!(token.len(), 64, "{shown}");
    let here = environment(&case.web(show()));
    assert!(!here.keys().any(|name| name.starts_with("TP_AGENT")), "{:?}", here.keys());
    assert!(!here.values().any(|value| value.contains(token)));
    let pods = case.kubectl(&["get", "pods,events", "-A", "-o", "yaml"]);
    assert!(pods.contains("TP_AGENT_TOKEN_SHA256") && !pods.contains(token));
    let Some(laptop) = case.laptop("files of the laptop's user") else { return };
    assert_eq!(modes_of_secrets(laptop), [0o600]);
}

fn modes_of_secrets(laptop: &Laptop) -> Vec<u32> {
    let folder = laptop.home().join(".local/state/tp");
    let files = std::fs::read_dir(folder).unwrap().flatten();
    files.map(|file| file.metadata().unwrap().permissions().mode() & 0o777).collect()
}
