//! Which Services lead to a workload's pods, and which of them can be turned.
//!
//! A turned Service brings all of its ports along, the exposed ones and the others: our pod passes those on. What cannot be
//! turned has its reason, and stays as it is.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::record::{Record, Selector};
use crate::kube::own_pod::SESSION;
use crate::kube::pods::{Declared, declared};
use crate::kube::target::Target;

/// A port of a Service, and what it is in the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lead {
    pub(super) udp: bool,
    pub(super) port: u16,
    pub(super) target: u16,
}

/// A Service that is to be turned.
#[derive(Clone, Debug)]
pub(super) struct Chosen {
    pub(super) service: Service,
    pub(super) name: String,
    /// Of its own, whoever has turned it now.
    pub(super) selector: Selector,
    pub(super) leads: Vec<Lead>,
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Choice {
    pub(super) chosen: Vec<Chosen>,
    /// Those that lead to exposed ports, too, and cannot be turned: why.
    pub(super) left: Vec<String>,
    /// The keys by which any Service knows the workload's pods.
    pub(super) keys: BTreeSet<String>,
}

impl Choice {
    /// If a Service was chosen that leads to the port.
    pub(super) fn leads_to(&self, udp: bool, target: u16) -> bool {
        self.chosen
            .iter()
            .flat_map(|chosen| &chosen.leads)
            .any(|lead| (lead.udp, lead.target) == (udp, target))
    }
}

/// Looks through the namespace's Services for those that lead to `wanted` ports (if of UDP, and number) of the pod.
pub(super) fn choose(services: Vec<Service>, template: &Target, wanted: &[(bool, u16)]) -> Choice {
    let mut choice = Choice::default();
    let labels = template.pod.metadata.labels.clone().unwrap_or_default();
    let named = declared(&template.pod, &template.container);
    for service in services {
        let metadata = &service.metadata;
        let is_ours = metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(SESSION));
        let Some(spec) = service.spec.as_ref().filter(|_| !is_ours) else { continue };
        let selector = Record::of(&service).map(|record| record.selector);
        let selector = selector.or_else(|| spec.selector.clone()).unwrap_or_default();
        let selects = selector.iter().all(|(key, value)| labels.get(key) == Some(value));
        if selector.is_empty() || !selects || spec.type_.as_deref() == Some("ExternalName") {
            continue;
        }
        choice.keys.extend(selector.keys().cloned());
        let ports = spec.ports.iter().flatten();
        let leads: Vec<_> = ports.filter_map(|port| lead(port, &named)).collect();
        if !leads.iter().any(|lead| wanted.contains(&(lead.udp, lead.target))) {
            continue;
        }
        let name = metadata.name.clone().unwrap_or_default();
        match untouchable(&service) {
            Some(why) => choice.left.push(format!("service/{name} {why}")),
            None => choice.chosen.push(Chosen { name, selector, leads, service }),
        }
    }
    choice
}

/// [`None`] for a port that leads nowhere, or by a protocol that nobody passes on.
fn lead(port: &ServicePort, named: &[Declared]) -> Option<Lead> {
    let udp = match port.protocol.as_deref() {
        None | Some("TCP") => false,
        Some("UDP") => true,
        Some(_) => return None,
    };
    let number = u16::try_from(port.port).ok()?;
    let target = match &port.target_port {
        None => number,
        Some(IntOrString::Int(target)) => u16::try_from(*target).ok()?,
        Some(IntOrString::String(name)) => {
            named.iter().find(|known| known.udp == udp && known.name.as_ref() == Some(name))?.port
        }
    };
    Some(Lead { udp, port: number, target })
}

fn untouchable(service: &Service) -> Option<&'static str> {
    let spec = service.spec.as_ref()?;
    let sctp = || spec.ports.iter().flatten().any(|port| port.protocol.as_deref() == Some("SCTP"));
    if spec.cluster_ip.as_deref() == Some("None") {
        return Some("is headless: its clients look the pods' own addresses up");
    }
    if spec.internal_traffic_policy.as_deref() == Some("Local") {
        return Some("leads each node to pods of its own (internalTrafficPolicy: Local)");
    }
    sctp().then_some("has a port of SCTP, which nobody passes on")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::kube::target::{Kind, Workload};

    fn template() -> Target {
        let pod = json!({
            "metadata": {"labels": {"app": "web", "tier": "front", "pod-template-hash": "5"}},
            "spec": {"containers": [
                {"name": "app", "ports": [{"name": "http", "containerPort": 8080}]},
                {"name": "side", "ports": [{"name": "dns", "containerPort": 5353, "protocol": "UDP"}]},
            ]},
        });
        let workload = Workload { kind: Kind::Deployment, name: "web".into() };
        Target { workload, pod: serde_json::from_value(pod).unwrap(), container: "app".into() }
    }

    fn service(name: &str, spec: Value) -> Service {
        serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap()
    }

    fn chosen(choice: &Choice) -> Vec<&str> {
        choice.chosen.iter().map(|chosen| chosen.name.as_str()).collect()
    }

    #[test]
    fn services_are_known_by_their_selector_and_ports_by_number_and_name() {
        let ports =
            json!([{"port": 80, "targetPort": "http"}, {"port": 9090}, {"port": 1, "targetPort": "none"}]);
        let services = vec![
            service("web", json!({"selector": {"app": "web"}, "ports": ports})),
            service(
                "dns",
                json!({"selector": {"tier": "front"}, "ports": [
                    {"port": 53, "protocol": "UDP", "targetPort": "dns"}
                ]}),
            ),
            service("other", json!({"selector": {"app": "other"}, "ports": ports})),
            service("empty", json!({"ports": ports})),
            service("elsewhere", json!({"type": "ExternalName", "selector": {"app": "web"}, "ports": ports})),
        ];
        let choice = choose(services.clone(), &template(), &[(false, 8080)]);
        assert_eq!(chosen(&choice), ["web"]);
        assert!(choice.leads_to(false, 9090) && !choice.leads_to(true, 8080) && !choice.leads_to(true, 5353));
        assert_eq!(choice.chosen[0].leads[0], Lead { udp: false, port: 80, target: 8080 });
        assert_eq!(choice.keys.into_iter().collect::<Vec<_>>(), ["app", "tier"]);
        assert_eq!(chosen(&choose(services, &template(), &[(true, 5353)])), ["dns"]);
    }

    #[test]
    fn what_cannot_be_turned_has_a_reason() {
        let ports = json!([{"port": 8080}]);
        let services = vec![
            service("heads", json!({"clusterIP": "None", "selector": {"app": "web"}, "ports": ports})),
            service(
                "near",
                json!({"internalTrafficPolicy": "Local", "selector": {"app": "web"}, "ports": ports}),
            ),
        ];
        let choice = choose(services, &template(), &[(false, 8080)]);
        assert!(choice.chosen.is_empty() && choice.left.len() == 2);
        assert!(choice.left[0].starts_with("service/heads is headless"), "{:?}", choice.left);
    }

    #[test]
    fn one_that_is_turned_already_is_known_by_what_it_was() {
        let selector = [("app".into(), "web".into())].into();
        let record = Record { selector, since: 5, who: "a@b".into(), session: "xyz".into() };
        let mut turned = service("web", json!({"selector": record.turned(), "ports": [{"port": 8080}]}));
        let written = serde_json::to_string(&record).unwrap();
        turned.metadata.annotations = Some([(super::super::record::TURNED.to_owned(), written)].into());
        assert_eq!(chosen(&choose(vec![turned], &template(), &[(false, 8080)])), ["web"]);
    }
}
