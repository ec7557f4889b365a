//! The volumes of the target's container: how the agent's has them, and where.
//!
//! The agent's container gets copies of the mounts, so the kubelet does for it what it does for the target's. Of two kinds
//! an ephemeral container may have none (the API server's validation): mounts of a part of a volume (`subPath`), for which
//! it gets the whole volume elsewhere, and those whose own mounts are to reach the node (`Bidirectional`), since it has no
//! privileges.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Volume, VolumeMount};

use super::Agent;
use crate::kube::target::Target;

/// Where the agent has volumes of which the target has a part: no app's path.
const WHOLE: &str = "/tp-volumes";

/// A mount of the target's container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodMount {
    /// Where the container has it: absolute, without `.` and `..`.
    pub path: PathBuf,
    /// What it is, as `secret "tls"`.
    pub what: String,
    /// The name of its volume in the pod.
    pub volume: String,
    /// The container may not write to it either.
    pub read_only: bool,
    /// Where the agent has it.
    pub source: PathBuf,
    /// It is a folder, whatever is in it; otherwise it may be a file as well.
    pub is_folder: bool,
}

/// The mounts of an ephemeral container that stands for this one.
pub(super) fn copies(of: &Container) -> Vec<VolumeMount> {
    let mut copies: Vec<VolumeMount> = Vec::new();
    for mount in of.volume_mounts.iter().flatten() {
        let mut copy = mount.clone();
        if copy.mount_propagation.as_deref() == Some("Bidirectional") {
            copy.mount_propagation = Some("HostToContainer".to_owned());
        }
        if is_part(mount) {
            copy.mount_path = format!("{WHOLE}/{}", mount.name);
            (copy.sub_path, copy.sub_path_expr) = (None, None);
            // One part may be written to, and another not.
            if let Some(whole) = copies.iter_mut().find(|known| known.mount_path == copy.mount_path) {
                whole.read_only = whole.read_only.filter(|_| mount.read_only == Some(true));
                continue;
            }
        }
        copies.push(copy);
    }
    copies
}

/// The volumes of the target, and who reads them for the program.
#[derive(Clone, Debug, Default)]
pub struct PodVolumes {
    /// The mounts of the target's container.
    pub mounts: Vec<PodMount>,
    /// The user that the agent runs as.
    pub user: i64,
}

impl PodVolumes {
    /// Those of a target, whose container has the environment `environ` (environ(7)), as an agent has them.
    #[must_use]
    pub fn of(target: &Target, environ: &[u8], agent: &Agent) -> Self {
        let mut containers = target.pod.spec.iter().flat_map(|spec| &spec.containers);
        // In a pod of our own the agent has the container's place, and all of its mounts.
        let is_beside =
            agent.pod == target.pod_name() && containers.all(|container| container.name != agent.container);
        let mut mounts = mounts(target, environ);
        if !is_beside {
            mounts.iter_mut().for_each(|mount| mount.source.clone_from(&mount.path));
        }
        Self { mounts, user: super::spec::user(target) }
    }
}

/// The target's mounts, of which `environ` is the container's environment: paths of parts are made of it.
fn mounts(target: &Target, environ: &[u8]) -> Vec<PodMount> {
    let Some(spec) = &target.pod.spec else { return Vec::new() };
    let container = spec.containers.iter().find(|container| container.name == target.container);
    let mounts = container.and_then(|container| container.volume_mounts.as_deref()).unwrap_or_default();
    let volume = |name: &str| spec.volumes.iter().flatten().find(|volume| volume.name == name);
    let seen = |mount: &VolumeMount| PodMount {
        path: absolute(Path::new(&mount.mount_path)),
        what: volume(&mount.name).map_or_else(String::new, describe),
        volume: mount.name.clone(),
        read_only: mount.read_only == Some(true),
        source: source(mount, environ),
        is_folder: !is_part(mount) && volume(&mount.name).is_some_and(is_folder),
    };
    mounts.iter().map(seen).collect()
}

fn is_part(mount: &VolumeMount) -> bool {
    let some = |path: &Option<String>| path.as_ref().is_some_and(|path| !path.is_empty());
    some(&mount.sub_path) || some(&mount.sub_path_expr)
}

fn source(mount: &VolumeMount, environ: &[u8]) -> PathBuf {
    if !is_part(mount) {
        return absolute(Path::new(&mount.mount_path));
    }
    let part = match &mount.sub_path_expr {
        Some(expression) if !expression.is_empty() => expanded(expression.as_bytes(), environ),
        _ => mount.sub_path.clone().unwrap_or_default().into_bytes(),
    };
    let part = absolute(Path::new(OsStr::from_bytes(&part)));
    Path::new(WHOLE).join(&mount.name).join(part.strip_prefix("/").unwrap_or(&part))
}

/// As a container's runtime has it: from the root on, whatever it is.
fn absolute(path: &Path) -> PathBuf {
    let mut absolute = PathBuf::from("/");
    for part in path.components() {
        match part {
            std::path::Component::Normal(name) => absolute.push(name),
            std::path::Component::ParentDir => drop(absolute.pop()),
            _ => {}
        }
    }
    absolute
}

/// `$(NAME)` is the variable's value, `$$` a `$`, all else itself, as Kubernetes has it
/// (k8s.io/kubernetes/third_party/forked/golang/expansion).
fn expanded(text: &[u8], environ: &[u8]) -> Vec<u8> {
    let mut rest = text;
    let mut out = Vec::new();
    while let Some((first, after)) = rest.split_first() {
        let variable = || {
            let inner = after.strip_prefix(b"(")?;
            let end = inner.iter().position(|byte| *byte == b')')?;
            Some((value(inner.get(..end)?, environ)?, inner.get(end + 1..)?))
        };
        rest = match (first, after.first()) {
            (b'$', Some(b'$')) => {
                out.push(b'$');
                after.get(1..).unwrap_or_default()
            }
            (b'$', Some(b'(')) if let Some((value, behind)) = variable() => {
                out.extend_from_slice(value);
                behind
            }
            _ => {
                out.push(*first);
                after
            }
        };
    }
    out
}

fn value<'a>(name: &[u8], environ: &'a [u8]) -> Option<&'a [u8]> {
    environ.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(name)?.strip_prefix(b"="))
}

/// Volumes that the kubelet makes itself are folders; a path of the node, or what a driver mounts, can be a file.
const fn is_folder(volume: &Volume) -> bool {
    volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.projected.is_some()
        || volume.downward_api.is_some()
        || volume.empty_dir.is_some()
}

fn describe(volume: &Volume) -> String {
    let named = |kind: &str, name: Option<&str>| format!("{kind} \"{}\"", name.unwrap_or_default());
    if let Some(secret) = &volume.secret {
        return named("secret", secret.secret_name.as_deref());
    }
    if let Some(map) = &volume.config_map {
        return named("configMap", Some(&map.name));
    }
    if let Some(claim) = &volume.persistent_volume_claim {
        return named("persistentVolumeClaim", Some(&claim.claim_name));
    }
    if let Some(path) = &volume.host_path {
        return named("hostPath", Some(&path.path));
    }
    let kinds = [
        (volume.projected.is_some(), "projected"),
        (volume.empty_dir.is_some(), "emptyDir"),
        (volume.downward_api.is_some(), "downwardAPI"),
    ];
    let kind = kinds.into_iter().find_map(|(is, kind)| is.then_some(kind));
    format!("{} volume \"{}\"", kind.unwrap_or("a"), volume.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::target::{Kind, Workload};

    fn target(mounts: serde_json::Value) -> Target {
        let pod = serde_json::json!({
            "metadata": {"name": "web-1"},
            "spec": {
                "containers": [{"name": "app", "volumeMounts": mounts}],
                "volumes": [{"name": "v", "secret": {"secretName": "tls"}}, {"name": "e", "emptyDir": {}}]
            }
        });
        Target {
            workload: Workload { kind: Kind::Pod, name: "web-1".into() },
            pod: serde_json::from_value(pod).unwrap(),
            container: "app".into(),
        }
    }

    fn container(target: &Target) -> &Container {
        &target.pod.spec.as_ref().unwrap().containers[0]
    }

    #[test]
    fn parts_of_a_volume_are_found_in_the_whole_of_it() {
        let target = target(serde_json::json!([
            {"name": "v", "mountPath": "/etc/tls/key", "subPath": "tls.key", "readOnly": true},
            {"name": "v", "mountPath": "/etc/tls/logs", "subPathExpr": "logs/$(POD)/$$(X)$(NONE)"},
            {"name": "e", "mountPath": "relative//x/../y/", "mountPropagation": "Bidirectional"},
        ]));
        let copies = copies(container(&target));
        let paths: Vec<_> = copies.iter().map(|copy| (copy.mount_path.as_str(), copy.read_only)).collect();
        assert_eq!(paths, [("/tp-volumes/v", None), ("relative//x/../y/", None)]);
        assert!(copies.iter().all(|copy| copy.sub_path.is_none() && copy.sub_path_expr.is_none()));
        assert_eq!(copies[1].mount_propagation.as_deref(), Some("HostToContainer"));
        let mounts = mounts(&target, b"PO=x\0POD=web-1\0");
        let seen: Vec<_> = mounts
            .iter()
            .map(|mount| (mount.path.to_str().unwrap(), mount.source.to_str().unwrap()))
            .collect();
        assert_eq!(
            seen,
            [
                ("/etc/tls/key", "/tp-volumes/v/tls.key"),
                ("/etc/tls/logs", "/tp-volumes/v/logs/web-1/$(X)$(NONE)"),
                ("/relative/y", "/relative/y"),
            ]
        );
        assert_eq!(mounts.iter().map(|mount| mount.is_folder).collect::<Vec<_>>(), [false, false, true]);
        assert_eq!((mounts[0].what.as_str(), mounts[0].read_only), ("secret \"tls\"", true));
        assert_eq!((mounts[2].what.as_str(), mounts[2].read_only), ("emptyDir volume \"e\"", false));
    }

    #[test]
    fn a_volume_that_is_read_only_in_all_parts_stays_so() {
        let part = |path, read_only| serde_json::json!({"name": "v", "mountPath": path, "subPath": "x", "readOnly": read_only});
        let target = target(serde_json::json!([part("/a", true), part("/b", true)]));
        assert_eq!(copies(container(&target))[0].read_only, Some(true));
    }
}
