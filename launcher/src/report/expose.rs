//! What is said about ports that cannot be exposed.

use super::{or_list, target_help};
use crate::expose::ExposeError;
use crate::kube::agent::AgentError;
use crate::kube::stand_in::StandInError;
use crate::kube::target::TargetError;
use crate::kube::turning::TurnError;

pub(super) fn code(error: &ExposeError) -> &'static str {
    match error {
        ExposeError::Twice { .. } | ExposeError::Filtered { .. } => "tp::usage",
        ExposeError::InUse { .. } | ExposeError::Low { .. } => "tp::expose::here",
        ExposeError::Held { .. } => "tp::expose::held",
        ExposeError::NoRights { .. } => "tp::expose::rights",
        ExposeError::Services(TurnError::Held { .. }) => "tp::expose::held",
        ExposeError::Services(
            TurnError::Api(error)
            | TurnError::Agent(AgentError::Api(error))
            | TurnError::Made(StandInError::Api(error)),
        ) => super::api_code(error),
        ExposeError::Services(_) => "tp::expose::services",
        ExposeError::Target(TargetError::Api(error)) => super::api_code(error),
        ExposeError::Target(_) => "tp::kube::target",
        ExposeError::Session(error) => super::session_code(error),
        _ => "tp::expose",
    }
}

pub(super) fn help(error: &ExposeError) -> Option<String> {
    Some(match error {
        ExposeError::InUse { port, .. } => format!(
            "end that program, or have the command listen on another port: --expose {}:{port}",
            other(*port)
        ),
        ExposeError::Low { port, first } => format!(
            "have the command listen on another port: --expose {}:{port}\nin a private network it may listen on all: leave \
             --method away; `tp doctor` says what that needs\nan administrator can allow it on this machine: sysctl \
             net.ipv4.ip_unprivileged_port_start={port} (now {first})",
            other(*port)
        ),
        ExposeError::Twice { .. } => "name each port of the pod once".to_owned(),
        ExposeError::Filtered { .. } => {
            "expose it in a run of its own, without --http-header and --http-path".to_owned()
        }
        ExposeError::NoName { nearest, names, .. } if names.is_empty() => {
            or_list(nearest, "its containers name no ports of that protocol; give the number")
        }
        ExposeError::NoName { nearest, names, .. } => {
            or_list(nearest, &format!("its ports: {}", names.join(", ")))
        }
        ExposeError::NobodyListens { pod, .. } => format!(
            "check the number: kubectl get pod {pod} -o jsonpath='{{.spec.containers[*].ports}}'; the pod's comes after the \
             colon: --expose LOCAL:REMOTE"
        ),
        ExposeError::Held { .. } => {
            "ask them to end it; or both take only some requests: --http-header NAME=VALUE, each with a value of their own"
                .to_owned()
        }
        ExposeError::Refused { .. } => {
            "the node's kernel needs nf_tables with tproxy (modules nf_tables, nft_tproxy, nft_socket)".to_owned()
        }
        ExposeError::HostNetwork { .. } => {
            "ports of a pod with hostNetwork cannot be exposed: everything else on the node would lose them, too".to_owned()
        }
        ExposeError::Mesh { .. } => {
            "expose the ports of a workload that is not in the mesh (or a test copy of this one, made without its proxy)"
                .to_owned()
        }
        ExposeError::NoRights { .. } => {
            "taking a port beside the app needs the capability NET_ADMIN in the pod, which the Pod Security standards \
             `baseline` and `restricted` forbid\nan administrator can admit it: kubectl label namespace NAME \
             pod-security.kubernetes.io/enforce=privileged --overwrite"
                .to_owned()
        }
        ExposeError::Services(error) => return services_help(error),
        ExposeError::Target(error) => return target_help(error),
        ExposeError::Session(error) => return super::session_help(error),
    })
}

fn services_help(error: &TurnError) -> Option<String> {
    const RULES: &str = "ports are taken in the pods themselves, for several people and without any Service, where you may \
                         patch pods/ephemeralcontainers and Pod Security admits NET_ADMIN (`privileged`)";
    Some(match error {
        TurnError::Api(error) => return super::api_help(error),
        TurnError::Agent(error) => return super::agent_help(error),
        TurnError::Made(error) => return super::stand_in_help(error),
        TurnError::Held { .. } => format!(
            "a Service leads to one person at a time: wait until that run has ended; `tp leave --all` takes it from them, \
             and from everybody else in the namespace\n{RULES}"
        ),
        TurnError::None { port, .. } => format!(
            "make one: kubectl expose; look at those there are: kubectl get services -o wide (port {port} must be a \
             targetPort)\n{RULES}"
        ),
        TurnError::Mirror => RULES.to_owned(),
        TurnError::NoAddress { .. } | TurnError::Restless { .. } | TurnError::GivenBack { .. } => {
            "try again".to_owned()
        }
    })
}

/// A port in place of that one which everybody may listen on.
fn other(port: u16) -> u16 {
    if port < 1024 { 8000 + port } else { port.checked_add(10_000).unwrap_or(port - 10_000) }
}
