//! The environment: the container's as the kubelet resolved it, on a laptop that stays the laptop.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "what is not as expected is a failed case")]

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use tp_tests::case::{Folder, PYTHON, Ran, python, ran};
use tp_tests::{Case, Laptop, Sandbox};

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

/// Every source that Kubernetes has, and names that no shell could have.
const SOURCES: &str = r##"
apiVersion: v1
kind: ConfigMap
metadata: {name: open}
data: {"dotted.name-1": kept, COLOUR: teal, shade: light}
---
apiVersion: v1
kind: Secret
metadata: {name: closed}
stringData: {TOKEN: "hunter2-'q\\\\uoted' \\ x \"", shade: hunter2-shade $x, CERTIFICATE: "-----BEGIN\nhunter2\r\n-----END\n"}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}, annotations: {kubectl.kubernetes.io/default-container: app, note: "a 'note'"}}
    spec:
      terminationGracePeriodSeconds: 1
      initContainers:
      - {name: early, image: localhost/tp-sample:1, restartPolicy: Always, args: [http=8091], env: [{name: SERVICE, value: early}]}
      containers:
      - {name: sidecar, image: localhost/tp-sample:1, args: [http=8090], env: [{name: SERVICE, value: sidecar}]}
      - name: app
        image: localhost/tp-sample:1
        args: [http=8080]
        env:
        - {name: PATH, value: /nowhere}
        - {name: LD_LIBRARY_PATH, value: /nowhere}
        - {name: HIDDEN, valueFrom: {secretKeyRef: {name: closed, key: shade}}}
        - {name: URL, value: "db://$(HIDDEN)@$(COLOUR) $$(HIDDEN) $(NOSUCH)"}
        - {name: NOTE, valueFrom: {fieldRef: {fieldPath: "metadata.annotations['note']"}}}
        - {name: MILLIS, valueFrom: {resourceFieldRef: {resource: limits.cpu, divisor: 1m}}}
        - {name: OTHERS, valueFrom: {resourceFieldRef: {containerName: app, resource: limits.memory, divisor: 1Mi}}}
        - {name: ABSENT, valueFrom: {configMapKeyRef: {name: nothing, key: x, optional: true}}}
        - {name: "odd-name.x", value: "1"}
        - {name: "of two words", value: "2"}
        - {name: WORDS, value: "grüße 日本 😀 `x` ${x} #x !x %x% \\n"}
        envFrom:
        - {configMapRef: {name: open}}
        - {secretRef: {name: closed}}
        - {configMapRef: {name: open}, prefix: P_}
        - {configMapRef: {name: nothing, optional: true}}
        resources: {limits: {cpu: 250m, memory: 64Mi}}
"##;
const TOKEN: &str = r#"hunter2-'q\\uoted' \ x ""#;
const CERTIFICATE: &str = "-----BEGIN\nhunter2\r\n-----END\n";

fn shop(case: &Case, name: &str) -> Sandbox {
    let sandbox = Sandbox::create(case.target(), name).unwrap();
    sandbox.apply(SOURCES).unwrap();
    let status = ["rollout", "status", "--timeout=60s", "deployment/web"];
    ran(sandbox.kubectl().args(status)).succeeds();
    sandbox
}

/// `tp env` with these options, not yet started.
fn tp_env(case: &Case, sandbox: &Sandbox, options: &[&str]) -> Command {
    let mut command = case.target().tp().unwrap();
    command.args(["env", "-n", sandbox.namespace(), "--deployment", "web"]).args(options);
    command
}

/// The variables with their names, but for those that are different in each pod.
fn values(text: &str) -> BTreeMap<String, String> {
    let variables: BTreeMap<String, String> = serde_json::from_str(text).unwrap();
    variables
}

#[test]
fn every_source_is_there_and_every_reader_reads_the_same() {
    let case = Case::cold();
    let sandbox = shop(&case, "sources");
    let all = ["--show-secrets", "--format", "json"];
    let here = values(ran(&mut tp_env(&case, &sandbox, &all)).succeeds());
    let url = "db://hunter2-shade $x@teal $(HIDDEN) $(NOSUCH)";
    for (name, value) in [
        ("HIDDEN", "hunter2-shade $x"),
        ("TOKEN", TOKEN),
        ("CERTIFICATE", CERTIFICATE),
        ("URL", url),
        ("NOTE", "a 'note'"),
        ("MILLIS", "250"),
        ("OTHERS", "64"),
        ("odd-name.x", "1"),
        ("of two words", "2"),
        ("WORDS", "grüße 日本 😀 `x` ${x} #x !x %x% \\n"),
        ("dotted.name-1", "kept"),
        ("shade", "hunter2-shade $x"),
        ("P_shade", "light"),
        ("P_dotted.name-1", "kept"),
        ("TELEPRESENCE_CONTAINER", "app"),
    ] {
        assert_eq!(here.get(name).map(String::as_str), Some(value), "{name}");
    }
    for name in ["ABSENT", "PATH", "HOME", "LD_LIBRARY_PATH", "SHLVL", "PWD"] {
        assert!(!here.contains_key(name), "{name}");
    }
    let run = case.tp(["-n", sandbox.namespace(), "--deployment", "web"], show());
    let run = environment(&run);
    assert!(here.iter().all(|(name, value)| run.get(name) == Some(value)), "{here:?}\n{run:?}");
    runtimes_find(&case, &sandbox, &here);
    read_back(&case, &sandbox, &here);
    for (container, service) in [("early", "early"), ("sidecar", "sidecar")] {
        let other = ran(&mut tp_env(&case, &sandbox, &["--format", "json", "--container", container]));
        assert_eq!(values(other.succeeds())["SERVICE"], service);
    }
}

/// Programs that read the environment by runtimes of their own find what is there.
#[track_caller]
fn runtimes_find(case: &Case, sandbox: &Sandbox, here: &BTreeMap<String, String>) {
    let Some(laptop) = case.laptop("files of the laptop's user") else { return };
    let place = ["-n", sandbox.namespace(), "--deployment", "web"];
    let node = case.tp(place, ["node", "-e", "console.log(JSON.stringify(process.env))"]);
    let node = values(node.succeeds());
    assert!(here.iter().all(|(name, value)| node.get(name) == Some(value)), "{here:?}\n{node:?}");
    let folder = Folder::new(laptop);
    let source = "class Show { public static void main(String[] names) {
        for (var name : names) System.out.print(System.getenv(name) + \"|\"); } }";
    let java = folder.write("Show.java", source, 0o644);
    let names = ["URL", "CERTIFICATE", "TOKEN", "KUBERNETES_SERVICE_HOST"];
    let expected: String = names.iter().map(|name| format!("{}|", here[*name])).collect();
    case.tp(place, ["java", &java].into_iter().chain(names)).prints(&expected);
}

/// Each syntax is read by those that it is for; they find what is there, but for what the syntax cannot say.
#[track_caller]
fn read_back(case: &Case, sandbox: &Sandbox, here: &BTreeMap<String, String>) {
    let Some(laptop) = case.laptop("files of the laptop's user") else { return };
    let folder = Folder::new(laptop);
    let names = |letters: &str| {
        let known = |name: &&String| name.chars().all(|c| c.is_ascii_alphanumeric() || letters.contains(c));
        here.iter().filter(|(name, _)| known(name)).map(|(name, _)| name.as_str()).collect::<Vec<_>>()
    };
    let print = "import json, os; print(json.dumps({k: v for k, v in os.environ.items()}))";
    let dotenv =
        "import json, sys, dotenv; print(json.dumps(dotenv.dotenv_values(sys.argv[1], interpolate=False)))";
    let docker = "import json, sys; lines = open(sys.argv[1], newline='').read().split('\\n'); \
                  print(json.dumps(dict(l.split('=', 1) for l in lines if l and not l.startswith('#'))))";
    let bash = format!("set -e; . \"$0\"; exec {PYTHON} -c \"$1\"");
    let mut readers: Vec<(&str, Vec<&str>, Vec<&str>, &str)> = vec![
        ("shell", vec!["/bin/bash", "-c", &bash], names("_"), "of two words is left out"),
        ("shell", vec!["/bin/sh", "-c", &bash], names("_"), "odd-name.x is left out"),
        ("dotenv", vec![PYTHON, "-c", dotenv], names("_.-"), "of two words is left out"),
        ("docker", vec![PYTHON, "-c", docker], names("_.-"), "CERTIFICATE is left out"),
    ];
    for (syntax, reader, names, complaint) in &mut readers {
        let written = ran(&mut tp_env(case, sandbox, &["--show-secrets", "--format", syntax]));
        written.complains(&[complaint]);
        let file = folder.write(syntax, &format!("{}\n", written.succeeds()), 0o600);
        let read = ran(Command::new(reader[0]).args(&reader[1..]).args([&file, print]).env_clear());
        let read = values(read.succeeds());
        for name in names.iter().filter(|name| **name != "CERTIFICATE" || *syntax != "docker") {
            assert_eq!(read.get(*name), here.get(*name), "{name} in {syntax}: {read:?}");
        }
    }
    // Node.js knows no escapes but for newlines.
    let script =
        "console.log(process.env.URL_ + process.env.shade + process.env.NOTE + process.env['dotted.name-1'])";
    let file = format!("--env-file={}", folder.file("dotenv"));
    ran(Command::new("/usr/bin/node").args([&file, "-e", script]))
        .prints("undefinedhunter2-shade $xa 'note'kept");
}

#[test]
fn secrets_are_for_those_who_ask_and_in_no_log() {
    let case = Case::cold();
    let Some(laptop) = case.laptop("files of the laptop's user") else { return };
    let sandbox = shop(&case, "secrets");
    let shown = ran(&mut tp_env(&case, &sandbox, &[]));
    shown.says(&["COLOUR='teal'", "P_shade='light'", "MILLIS='250'", "TELEPRESENCE_CONTAINER='app'"]);
    shown.complains(&["may come from Secrets (--show-secrets): CERTIFICATE, HIDDEN, TOKEN, URL, shade"]);
    assert!(!shown.to_string().contains("hunter2"), "{shown}");
    // A secret that the user sets is the user's to show.
    let set = ran(&mut tp_env(&case, &sandbox, &["--env", "TOKEN=mine", "--env-exclude", "*_*"]));
    set.says(&["TOKEN='mine'"]);
    assert!(!set.stdout.contains("KUBERNETES") && !set.stdout.contains("P_shade"), "{set}");

    let folder = Folder::new(laptop);
    let (log, json) = (folder.file("log"), folder.file("web.json"));
    let options =
        ["-n", sandbox.namespace(), "--deployment", "web", "-vv", "--log-file", &log, "--env-json", &json];
    let look = "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '; curl -sS http://backend.default >/dev/null; \
                /bin/busybox true; test \"$shade\" = 'hunter2-shade $x' && echo known";
    let run = case.tp(options, ["sh", "-c", &look.replace("hunter2", "hunter''2")]);
    run.says(&["known"]);
    let log = std::fs::read_to_string(log).unwrap();
    let cluster = ran(sandbox.kubectl().args(["get", "pods,events", "-o", "yaml"]));
    for text in [&run.to_string(), &log, &cluster.to_string()] {
        assert!(!text.contains("hunter2") && !text.contains("BEGIN\n"), "{text}");
    }
    assert_eq!(std::fs::metadata(&json).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(values(&std::fs::read_to_string(&json).unwrap())["CERTIFICATE"], CERTIFICATE);
}

/// Steps: what the running app was started with goes away, and a new agent cannot have it; then it comes back.
#[test]
fn what_the_environment_names_and_is_not_there_is_told_by_its_name() {
    let case = Case::cold();
    let sandbox = shop(&case, "missing");
    let tp = |words: &[&str]| {
        let ran =
            ran(&mut case.command(["-n", sandbox.namespace(), "--deployment", "web"], ["echo", "started"]));
        ran.exits(125).complains(&["cannot start: CreateContainerConfigError", "optional: true"]);
        ran.complains(words);
        assert_eq!(ran.stdout, "");
    };
    ran(sandbox.kubectl().args(["delete", "configmap/open"])).succeeds();
    tp(&["configmap \"open\" not found"]);
    sandbox.apply(SOURCES).unwrap();
    let patch =
        ["patch", "secret/closed", "--type=json", "-p", r#"[{"op": "remove", "path": "/data/shade"}]"#];
    ran(sandbox.kubectl().args(patch)).succeeds();
    tp(&["couldn't find key shade in Secret", "/closed"]);
    // Other containers of the pod are none the worse.
    case.tp(["-n", sandbox.namespace(), "--deployment", "web", "--container", "sidecar"], ["true"])
        .succeeds();
}

#[test]
fn what_the_user_sets_and_leaves_out_is_so() {
    let case = Case::new();
    let options = [
        "--deployment",
        "web",
        "--env",
        "LITERAL=mine=yes",
        "--env",
        "PATH=/usr/bin:/bin",
        "--env-exclude",
        "SECRET_*",
        "--env-exclude",
        "M?DE",
    ];
    let here = environment(&case.tp(options, show()));
    assert_eq!((here["LITERAL"].as_str(), here["PATH"].as_str()), ("mine=yes", "/usr/bin:/bin"));
    assert!(here.contains_key("COLOUR"));
    for name in ["SECRET_password", "SECRET_API_KEY", "MODE"] {
        assert!(!here.contains_key(name), "{name}");
    }
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
    for words in [
        "LITERAL='a literal value'\n",
        "MULTILINE='line one\nline two\n\nline four'\n",
        "LINES='first line\nsecond line with \"quotes\" and $dollar\n'\n",
        "TELEPRESENCE_CONTAINER='app'\n",
    ] {
        assert!(text.contains(words), "{words} is not in\n{text}");
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
