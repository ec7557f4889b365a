//! The cluster's DNS and the sample application: applied from `cluster/manifests`, and waited for.

use std::fs;
use std::process::Command;

use crate::{Error, layout, run};

/// Stands in a manifest for a name of the sample application's program, so that a new one replaces the pods.
const IMAGE: &str = "@SAMPLE_IMAGE@";
/// The file of CoreDNS, which a cluster that is not ours has already.
const DNS: &str = "10-coredns.yaml";
/// Workloads that become ready, as kubectl names them.
const READY: [(&str, &str); 5] = [
    ("default", "deployment/backend"),
    ("default", "deployment/headless"),
    ("default", "deployment/web"),
    ("default", "statefulset/db"),
    ("kube-system", "deployment/coredns"),
];

/// Applies the manifests with the `kubectl` that the closure makes.
pub fn apply(kubectl: &dyn Fn() -> Command, sample_image: &str, with_dns: bool) -> Result<(), Error> {
    let folder = layout::sources("cluster/manifests");
    let mut files = Vec::new();
    for entry in fs::read_dir(&folder).map_err(Error::file("list", &folder))? {
        let path = entry.map_err(Error::file("list", &folder))?.path();
        if path.extension().is_some_and(|extension| extension == "yaml") && (with_dns || !path.ends_with(DNS))
        {
            files.push(path);
        }
    }
    files.sort();
    let mut all = String::new();
    for file in files {
        all.push_str(&fs::read_to_string(&file).map_err(Error::file("read", &file))?);
        all.push_str("\n---\n");
    }
    let all = all.replace(IMAGE, sample_image);
    let arguments = ["apply", "--server-side", "--force-conflicts", "--field-manager=tp-tests", "-f", "-"];
    run::with_input(kubectl().args(arguments), all.as_bytes()).map(drop)
}

/// Waits until every workload that can become ready is.
pub fn wait(kubectl: &dyn Fn() -> Command, with_dns: bool) -> Result<(), Error> {
    for (namespace, workload) in READY {
        if with_dns || namespace == "default" {
            run::output(kubectl().args(["-n", namespace, "rollout", "status", "--timeout=120s", workload]))?;
        }
    }
    Ok(())
}
