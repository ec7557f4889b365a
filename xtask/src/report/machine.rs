//! Where figures were taken: the machine, and the versions of what was measured.

use std::fs;
use std::process::Command;

use tp_tests::{Cluster, run, socks};

use crate::step::workspace;

/// Peers and parts of the cluster that are Debian's.
const PACKAGES: [&str; 10] = [
    "containerd",
    "runc",
    "bind9-dnsutils",
    "microsocks",
    "torsocks",
    "proxychains4",
    "slirp4netns",
    "passt",
    "sshfs",
    "openssh-sftp-server",
];

/// What there is to know, each with what it is of.
pub(super) fn facts(own: &Cluster) -> Vec<(String, String)> {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let mut packages = packages();
    packages.extend(socks::dante_version().ok().map(|version| format!("dante {version}")));
    let jsonpath = ["version", "-o", "json"];
    let versions: serde_json::Value =
        serde_json::from_str(&said(own.kubectl().args(jsonpath))).unwrap_or_default();
    let version = versions.pointer("/serverVersion/gitVersion").and_then(|version| version.as_str());
    let revision = said(run::command("git", ["log", "-1", "--format=%h of %cs"]).current_dir(workspace()));
    let fact = |what: &str, fact: String| (what.to_owned(), fact);
    vec![
        fact(
            "machine",
            format!(
                "{cores} cores, {}, {}",
                field("/proc/cpuinfo", "model name"),
                field("/proc/meminfo", "MemTotal")
            ),
        ),
        fact(
            "kernel",
            fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
        ),
        fact("Kubernetes and kubectl", version.unwrap_or_default().to_owned()),
        fact("packages", packages.join(", ")),
        fact("tp", revision),
    ]
}

/// Those that are there, each with its version.
fn packages() -> Vec<String> {
    let listed = said(run::command("dpkg-query", ["-W", "-f", "${Package} ${Version}\n"]).args(PACKAGES));
    // What is known but not installed has no version.
    listed.lines().filter(|line| !line.ends_with(' ')).map(str::to_owned).collect()
}

/// What a program says, even if it fails then: a package that is not there is no reason to lose the others.
fn said(command: &mut Command) -> String {
    run::attempt(command)
        .map_or_else(|_| String::new(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The first value of that name in a file of `name: value`.
fn field(file: &str, name: &str) -> String {
    let text = fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(name));
    line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
}
