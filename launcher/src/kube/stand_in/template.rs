//! What a workload's own pods would be, as far as a pod of ours can be it.
//!
//! A stateful set's pods have names, claims and a place in its Service's domain that no template says: ours is the first
//! one, whose name a host name is (`db-0.db`), and whose claims are mounted.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{PersistentVolumeClaimVolumeSource, Pod, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::kube::record::Looked;
use crate::kube::target::{self, Kind, Target, TargetError};

/// The template as a pod that is not there yet, with its container; and the labels that only the first pod of a stateful
/// set has.
pub(super) fn of(
    looked: &Looked,
    container: Option<&str>,
) -> Result<(Target, BTreeMap<String, String>), TargetError> {
    let template = looked.template().unwrap_or_default();
    let metadata = template.metadata.unwrap_or_default();
    let mut pod = Pod {
        metadata: ObjectMeta {
            name: Some(looked.workload.name.clone()),
            labels: metadata.labels,
            annotations: metadata.annotations,
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    };
    let labels = match looked.workload.kind {
        Kind::StatefulSet => first_of_set(looked, &mut pod),
        _ => BTreeMap::new(),
    };
    let container = target::choose_container(&pod, container)?;
    Ok((Target { workload: looked.workload.clone(), pod, container }, labels))
}

fn first_of_set(looked: &Looked, pod: &mut Pod) -> BTreeMap<String, String> {
    let ordinal = looked.number("/ordinals/start").unwrap_or(0);
    let name = format!("{}-{ordinal}", looked.workload.name);
    if let Some(spec) = pod.spec.as_mut() {
        spec.hostname = Some(name.clone());
        spec.subdomain = looked.word("/serviceName").map(str::to_owned);
        let volumes = spec.volumes.get_or_insert_default();
        for claim in looked.claims() {
            // A claim comes before a volume of the same name, as the set's controller has it.
            volumes.retain(|volume| volume.name != claim);
            let source =
                PersistentVolumeClaimVolumeSource { claim_name: format!("{claim}-{name}"), read_only: None };
            volumes.push(Volume {
                name: claim.to_owned(),
                persistent_volume_claim: Some(source),
                ..Volume::default()
            });
        }
    }
    BTreeMap::from([
        ("statefulset.kubernetes.io/pod-name".to_owned(), name),
        ("apps.kubernetes.io/pod-index".to_owned(), ordinal.to_string()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::target::Workload;

    #[test]
    fn the_stand_in_of_a_stateful_set_is_its_first_pod() {
        let object = serde_json::json!({"metadata": {"name": "db"}, "spec": {
            "serviceName": "db", "replicas": 2,
            "volumeClaimTemplates": [{"metadata": {"name": "data"}}],
            "template": {"metadata": {"labels": {"app": "db"}}, "spec": {
                "containers": [{"name": "db"}], "volumes": [{"name": "data", "emptyDir": {}}]
            }}
        }});
        let workload = Workload { kind: Kind::StatefulSet, name: "db".into() };
        let looked = Looked { workload, object: serde_json::from_value(object).unwrap() };
        let (target, labels) = of(&looked, None).unwrap();
        let spec = target.pod.spec.unwrap();
        assert_eq!((spec.hostname.as_deref(), spec.subdomain.as_deref()), (Some("db-0"), Some("db")));
        let [volume] = spec.volumes.unwrap().try_into().unwrap();
        assert_eq!(volume.persistent_volume_claim.unwrap().claim_name, "data-db-0");
        assert_eq!(labels["statefulset.kubernetes.io/pod-name"], "db-0");
    }
}
