use std::path::PathBuf;

use super::*;
use crate::kube::target::{Kind, Workload};

fn template(kind: Kind, metadata: serde_json::Value) -> Target {
    let pod = serde_json::json!({
        "metadata": metadata,
        "spec": {
            "nodeName": "n1", "hostname": "db-0", "subdomain": "db", "serviceAccountName": "shop",
            "shareProcessNamespace": true,
            "securityContext": {"fsGroup": 7},
            "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": []}},
            "volumes": [
                {"name": "v", "emptyDir": {}}, {"name": "made", "emptyDir": {}}, {"name": "other", "hostPath": {"path": "/"}}
            ],
            "initContainers": [{"name": "first", "image": "i"}],
            "containers": [{
                "name": "app", "image": "i",
                "env": [
                    {"name": "A", "value": "1"},
                    {"name": "F", "valueFrom": {"fileKeyRef": {"volumeName": "made", "path": "f", "key": "k"}}}
                ],
                "ports": [{"name": "http", "containerPort": 8080, "hostPort": 80}],
                "resources": {"limits": {"cpu": "1", "example.com/gpu": "1"}},
                "livenessProbe": {"tcpSocket": {"port": 8080}},
                "lifecycle": {"preStop": {"sleep": {"seconds": 9}}},
                "volumeMounts": [{"name": "v", "mountPath": "/v", "subPath": "x", "mountPropagation": "Bidirectional"}]
            }, {"name": "sidecar", "image": "i"}]
        }
    });
    let workload = Workload { kind, name: "db".into() };
    Target { workload, pod: serde_json::from_value(pod).unwrap(), container: "app".into() }
}

fn made(template: &Target, purpose: &Purpose) -> Pod {
    let session = new_session();
    let name = name(&template.workload.name);
    let image = Image::Base { reference: "busybox".into(), program: PathBuf::new() };
    let secret = Secret::passing().unwrap();
    let (_, container) = agent::in_own_pod(&secret, template, &name, &session, &image, b"program");
    pod(template, &name, &session, container, purpose)
}

fn stand_in() -> Purpose {
    Purpose::StandIn { ready_port: Some(26_000), labels: BTreeMap::new() }
}

#[test]
fn it_has_what_the_target_container_has_and_nothing_of_the_others() {
    let labels = serde_json::json!({"labels": {"app": "db", "pod-template-hash": "5"}});
    let pod = made(&template(Kind::Deployment, labels), &Purpose::Beside);
    let labels = pod.metadata.labels.unwrap();
    assert_eq!(labels.keys().map(String::as_str).collect::<Vec<_>>(), ["app", MANAGED_BY, SESSION]);
    let spec = pod.spec.unwrap();
    assert_eq!(spec.service_account_name.as_deref(), Some("shop"));
    assert_eq!(spec.security_context.unwrap().fs_group, Some(7));
    let volumes = spec.volumes.unwrap();
    assert_eq!(volumes.iter().map(|volume| volume.name.as_str()).collect::<Vec<_>>(), ["v", "made"]);
    assert!(
        spec.init_containers.is_none() && spec.node_name.is_none() && spec.share_process_namespace.is_none()
    );
    let [container] = spec.containers.try_into().unwrap();
    assert_eq!(container.name, "app");
    let variables = container.env.unwrap();
    assert!(variables.iter().any(|variable| variable.name == "A"));
    let of_file = |variable: &EnvVar| variable.value_from.clone().and_then(|from| from.file_key_ref);
    assert_eq!(variables.iter().find_map(of_file).unwrap().optional, Some(true), "nobody writes it here");
    let mounts = container.volume_mounts.unwrap();
    assert_eq!((mounts[0].sub_path.as_deref(), mounts[0].mount_propagation.as_deref()), (Some("x"), None));
    assert!(container.liveness_probe.is_none() && container.lifecycle.is_none());
    let port = &container.ports.unwrap()[0];
    assert_eq!((port.name.as_deref(), port.host_port), (Some("http"), None));
    assert_eq!(container.resources.unwrap().limits.unwrap().len(), 1);
}

#[test]
fn only_a_stand_in_is_found_by_services_and_has_a_name_of_its_own() {
    let target = template(Kind::Deployment, serde_json::json!({}));
    let beside = made(&target, &Purpose::Beside).spec.unwrap();
    assert_eq!(beside.readiness_gates.unwrap()[0].condition_type, NEVER);
    assert!(beside.hostname.is_none() && beside.security_context.unwrap().sysctls.is_none());
    let affinity = beside.affinity.unwrap();
    assert!(affinity.pod_anti_affinity.is_none() && affinity.node_affinity.is_some());
    let stands_in = made(&target, &stand_in()).spec.unwrap();
    assert!(stands_in.readiness_gates.is_none() && stands_in.containers[0].readiness_probe.is_some());
    assert_eq!(stands_in.hostname.as_deref(), Some("db-0"));
    assert_eq!(stands_in.security_context.unwrap().sysctls.unwrap()[0].value, "0");
}

#[test]
fn no_controller_adopts_it() {
    let owned = |kind: &str, labels: serde_json::Value| {
        let owner = serde_json::json!([{"apiVersion": "apps/v1", "kind": kind, "name": "o", "uid": "o", "controller": true}]);
        let metadata =
            serde_json::json!({"name": "x-1", "uid": "u", "labels": labels, "ownerReferences": owner});
        made(&template(Kind::Pod, metadata), &Purpose::Beside).metadata
    };
    let hashed = owned("ReplicaSet", serde_json::json!({"app": "x", "pod-template-hash": "5"}));
    assert!(hashed.owner_references.is_none(), "the selector asks for the hash");
    let by_name = owned("StatefulSet", serde_json::json!({"app": "x"}));
    assert!(by_name.owner_references.is_none());
    assert!(!by_name.name.unwrap().ends_with(|last: char| last.is_ascii_digit()), "no ordinal");
    for kind in ["DaemonSet", "ReplicaSet"] {
        let owner = owned(kind, serde_json::json!({"app": "x"})).owner_references.unwrap();
        assert_eq!((owner[0].kind.as_str(), owner[0].name.as_str()), ("Pod", "x-1"));
    }
}

#[test]
fn every_name_is_a_valid_host_name() {
    let long = format!("a.b-{}", "c".repeat(100));
    for workload in ["web", long.as_str(), "web.v1"] {
        let name = name(workload);
        assert!(name.len() <= 63 && !name.contains('.') && !name.contains("--"), "{name}");
    }
}

#[test]
fn one_for_services_is_not_found_as_the_workloads_pods_are_and_stays() {
    let mut template =
        template(Kind::Deployment, serde_json::json!({"labels": {"app": "db", "tier": "back"}}));
    let side: Container = serde_json::from_value(serde_json::json!({
        "name": "side", "ports": [{"name": "dns", "containerPort": 53, "protocol": "UDP"}, {"containerPort": 1}]
    }))
    .unwrap();
    template.pod.spec.as_mut().unwrap().containers.push(side);
    let labels = BTreeMap::from([("app".to_owned(), "xyz".to_owned())]);
    let pod = made(&template, &Purpose::Instead { ready_port: 26_000, labels });
    assert!(outlives(&pod) && stands_before(&pod, &template.workload));
    assert_eq!(ready_port(&pod), Some(26_000));
    let labels = pod.metadata.labels.unwrap();
    assert_eq!((labels["app"].as_str(), labels["tier"].as_str()), ("xyz", "back"));
    let container = pod.spec.unwrap().containers.remove(0);
    let ports: Vec<_> = container.ports.into_iter().flatten().filter_map(|port| port.name).collect();
    assert_eq!(ports, ["dns", "http"]);
    let env = container.env.unwrap();
    let linger = env.iter().find(|variable| variable.name == "TP_AGENT_LINGER").unwrap();
    assert_eq!(linger.value, Some(DEADLINE.as_secs().to_string()));
}
