//! Failures as the user sees them: what happened, to what, and what to do next.
//!
//! The only place that prints an error. Hints come from the kind of a failure, never from its text. One exception is
//! read closely: what the API server itself says is shown, not judged.

mod expose;

use std::io::{self, Write as _};
use std::path::PathBuf;

use crate::expose::ExposeError;
use crate::gate::ParkError;
use crate::kube::ApiError;
use crate::kube::agent::{AgentError, SecretError};
use crate::kube::config::ConfigError;
use crate::kube::stand_in::StandInError;
use crate::kube::target::TargetError;
use crate::method::CommandError;
use crate::mounts::MountsError;
use crate::mounts::chosen::ChoiceError;
use crate::placement::PlacementError;
use crate::pod::proxy::ProxyError;
use crate::session::SessionError;
use crate::tell::tell;
use crate::undo::Failed;

/// tp itself failed (the convention of env(1) and timeout(1)).
pub const FAILED: u8 = 125;
/// The command cannot be executed.
const NOT_EXECUTABLE: u8 = 126;
/// The command is not there.
const NOT_FOUND: u8 = 127;

/// Why tp ended without the command's own exit code.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// No command was given.
    #[error("no command was given")]
    NoCommand,
    /// No workload was given.
    #[error("no pod or workload was given")]
    NoPlace,
    /// The command cannot be started.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// Nothing keeps the command under tp.
    #[error(transparent)]
    Placement(#[from] PlacementError),
    /// The system refused to start it.
    #[error("{} could not be started", .path.display())]
    Start {
        /// The program.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// No session.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// No port of the pod.
    #[error(transparent)]
    Expose(#[from] ExposeError),
    /// Not the volumes that were asked for.
    #[error(transparent)]
    Mounts(#[from] MountsError),
    /// No SOCKS5 server.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// No gate.
    #[error(transparent)]
    Park(#[from] ParkError),
    /// No place for the shim to ask.
    #[error("the socket for the shim could not be made")]
    Listener(#[source] io::Error),
    /// No private folder.
    #[error("no private folder could be made in {}", .path.display())]
    Folder {
        /// The folder it should be in.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The environment's file.
    #[error("the environment could not be written to {}", .path.display())]
    EnvFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The log's file.
    #[error("the log could not be written to {}", .path.display())]
    LogFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Our own program's path.
    #[error("tp cannot find its own program")]
    NoSelf(#[source] io::Error),
    /// The shim is missing.
    #[error("tp's shim cannot be used at {}", .path.display())]
    NoShim {
        /// Where it should be.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The program that enters is missing.
    #[error("tp's program for what the shim cannot enter cannot be used at {}", .path.display())]
    NoInside {
        /// Where it should be.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The runtime or the signals could not be set up.
    #[error("tp could not be set up")]
    SetUp(#[source] io::Error),
    /// What was asked for cannot be told.
    #[error("standard output cannot be written to")]
    Output(#[source] io::Error),
    /// A signal came before the command was started.
    #[error("interrupted")]
    Interrupted(i32),
}

impl Failure {
    /// tp's exit code.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Failure::Command(CommandError::NotFound(_)) => NOT_FOUND,
            Failure::Placement(PlacementError::Method { .. }) => FAILED,
            Failure::Command(_) | Failure::Placement(_) | Failure::Start { .. } => NOT_EXECUTABLE,
            Failure::Interrupted(signal) => u8::try_from(128 + signal).unwrap_or(FAILED),
            _ => FAILED,
        }
    }

    /// Prints it, unless the user knows already.
    pub fn print(&self) {
        if matches!(self, Failure::Interrupted(_)) {
            return;
        }
        // Standard error may be a pipe that nobody reads any more; there is nobody else to tell.
        let _ = io::stderr().write_all(self.text().as_bytes());
    }

    /// What happened in one line, then why, then what to do next.
    fn text(&self) -> String {
        let mut text = format!("tp: {self} [{}]\n", code(self));
        let mut said = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let words = error.to_string();
            // Many errors repeat their source in their own words.
            if !said.contains(&words) {
                text.push_str(&format!("  because: {words}\n"));
                said.push_str(&words);
            }
            cause = error.source();
        }
        for (at, line) in help(self).iter().flat_map(|help| help.lines()).enumerate() {
            text.push_str(if at == 0 { "  help: " } else { "        " });
            text.push_str(line);
            text.push('\n');
        }
        text
    }
}

/// Tells what could not be undone, and how to do it by hand.
pub fn tell_failed(failed: &Failed) {
    tell(format_args!("{failed}: {}\n  by hand: {}", failed.source, failed.by_hand));
}

/// Tells how to do by hand what was not undone.
pub fn tell_left(by_hand: &[String]) {
    tell(format_args!("left as it is; `tp leave` undoes it, or by hand:\n  {}", by_hand.join("\n  ")));
}

fn code(failure: &Failure) -> &'static str {
    match failure {
        Failure::NoCommand | Failure::NoPlace => "tp::usage",
        Failure::Command(CommandError::NotFound(_)) => "tp::command::not_found",
        Failure::Command(CommandError::NotExecutable { .. }) | Failure::Start { .. } => {
            "tp::command::not_executable"
        }
        Failure::Placement(PlacementError::Method { .. }) => "tp::method",
        Failure::Placement(_) => "tp::command::refused",
        Failure::Session(error) | Failure::Expose(ExposeError::Session(error)) => session_code(error),
        Failure::Expose(error) => expose::code(error),
        Failure::Mounts(MountsError::Choice(_)) => "tp::usage",
        Failure::Mounts(_) => "tp::volumes",
        Failure::Proxy(_) => "tp::proxy",
        Failure::Park(_) | Failure::Listener(_) | Failure::Folder { .. } | Failure::SetUp(_) => "tp::setup",
        Failure::EnvFile { .. } | Failure::LogFile { .. } | Failure::Output(_) => "tp::file",
        Failure::NoSelf(_) | Failure::NoShim { .. } | Failure::NoInside { .. } => "tp::install",
        Failure::Interrupted(_) => "tp::interrupted",
    }
}

fn mounts_help(error: &MountsError) -> Option<String> {
    Some(match error {
        MountsError::Choice(ChoiceError::Unknown { known, .. }) if known.is_empty() => {
            "the container has no volumes; --container names another".to_owned()
        }
        MountsError::Choice(ChoiceError::Unknown { known, .. }) => {
            format!("its volumes are at {}", known.join(", "))
        }
        MountsError::Choice(ChoiceError::NotHere { .. }) | MountsError::Place { .. } => {
            "leave it out: what is chosen is below the folder in TP_ROOT, too".to_owned()
        }
        MountsError::NoWay { .. } => {
            "`tp doctor` says what can be done about it; --mount false runs without them".to_owned()
        }
        _ => return None,
    })
}

fn session_code(error: &SessionError) -> &'static str {
    match error {
        SessionError::Config(_) => "tp::kube::config",
        SessionError::Target(TargetError::Api(error))
        | SessionError::Agent(AgentError::Api(error))
        | SessionError::StandIn(
            StandInError::Api(error)
            | StandInError::Agent(AgentError::Api(error))
            | StandInError::Target(TargetError::Api(error)),
        )
        | SessionError::Api(error) => api_code(error),
        SessionError::StandIn(StandInError::Target(_)) => "tp::kube::target",
        SessionError::StandIn(StandInError::Agent(_)) => "tp::agent",
        SessionError::StandIn(_) => "tp::stand_in",
        SessionError::Target(_) => "tp::kube::target",
        SessionError::Unfit(_) => "tp::session",
        SessionError::Agent(_) => "tp::agent",
        SessionError::Secret(_) => "tp::secret",
        SessionError::Refused { .. } => "tp::agent::token",
        SessionError::Link { .. } => "tp::link",
    }
}

fn api_code(error: &ApiError) -> &'static str {
    match error {
        ApiError::Unreachable(_) | ApiError::TooSlow { .. } => "tp::kube::unreachable",
        ApiError::Unauthorized(_) => "tp::kube::unauthorized",
        ApiError::Forbidden { .. } => "tp::kube::forbidden",
        ApiError::NotFound { .. } | ApiError::Conflict { .. } | ApiError::Other { .. } => "tp::kube::api",
    }
}

fn help(failure: &Failure) -> Option<String> {
    Some(match failure {
        Failure::NoCommand | Failure::NoPlace => "see `tp run --help`".to_owned(),
        Failure::Command(CommandError::NotFound(_)) => {
            "tp runs a command of this machine: check its spelling and PATH".to_owned()
        }
        Failure::Command(CommandError::NotExecutable { .. }) => {
            "check the file's permissions (`ls -l`), or run it by its interpreter".to_owned()
        }
        Failure::Placement(error) => placement_help(error),
        Failure::Session(error) | Failure::Expose(ExposeError::Session(error)) => {
            return session_help(error);
        }
        Failure::Expose(error) => return expose::help(error),
        Failure::Mounts(error) => return mounts_help(error),
        Failure::Proxy(ProxyError::Unreachable { .. }) => {
            "check that the server runs and the address".to_owned()
        }
        Failure::Proxy(ProxyError::Refused { .. }) => {
            "check that it is a SOCKS5 server, and user and password: socks5://USER:PASSWORD@HOST:PORT"
                .to_owned()
        }
        Failure::Folder { .. } => {
            "set XDG_RUNTIME_DIR to a folder of yours that only you can enter (mode 0700)".to_owned()
        }
        Failure::NoShim { .. } | Failure::NoInside { .. } => {
            "install tp again, with bin/ and lib/ side by side".to_owned()
        }
        Failure::EnvFile { .. } | Failure::LogFile { .. } => {
            "name a file in a folder that you can write to".to_owned()
        }
        _ => return None,
    })
}

fn placement_help(error: &PlacementError) -> String {
    const WHY: &str = "tp did not start it, because it would have talked to this machine's own network";
    match error {
        PlacementError::Program(refusal) if refusal.reason.goes_inside() => {
            format!("{WHY}; the other methods run it: leave --method away")
        }
        PlacementError::Program(_) => {
            format!("{WHY}; use a build for this machine without special permissions")
        }
        PlacementError::Nothing { lacks, .. } => format!("{WHY}\n{lacks}\n{DOCTOR}"),
        PlacementError::Method { lacks, .. } => format!("{lacks}\n{DOCTOR}"),
    }
}

/// Where all of it is told.
const DOCTOR: &str = "`tp doctor` says what each method needs, and what of it there is";

/// The kubelet's reason where a ConfigMap or a Secret, or a key of one, is missing.
const NOT_CONFIGURED: &str = "CreateContainerConfigError";

fn session_help(error: &SessionError) -> Option<String> {
    Some(match error {
        SessionError::Config(error) => return config_help(error),
        SessionError::Target(error) => return target_help(error),
        SessionError::Agent(error) => return agent_help(error),
        SessionError::Api(error) => return api_help(error),
        SessionError::StandIn(error) => return stand_in_help(error),
        SessionError::Secret(SecretError::File { path, .. }) => {
            format!("check that you can read and write {}", path.display())
        }
        SessionError::Unfit(_) | SessionError::Secret(SecretError::Random(_)) => return None,
        SessionError::Refused { .. } => {
            "the agent was started with another secret; wait until it ends (10 minutes without sessions), or use \
             another pod"
                .to_owned()
        }
        SessionError::Link { pod, .. } => {
            format!("try again; look at the pod: kubectl describe pod {pod}")
        }
    })
}

fn agent_help(error: &AgentError) -> Option<String> {
    Some(match error {
        AgentError::Api(error) => return api_help(error),
        AgentError::NoProgram { .. } => {
            "install tp again, with bin/ and lib/ side by side, or name an image that has the agent in it with \
             --agent-image"
                .to_owned()
        }
        AgentError::CannotStart { reason, .. } if reason == NOT_CONFIGURED => {
            "the agent has the environment of the target's container: what that names must be there, or be marked \
             `optional: true`; --container names another one"
                .to_owned()
        }
        AgentError::CannotStart { image, .. } => format!(
            "the cluster's nodes must be able to pull `{image}`; name another small image that has `sh` with \
             --agent-base-image, or one that has tp-agent in it with --agent-image"
        ),
        AgentError::PodGone { .. } => "try again: the workload's next pod will do".to_owned(),
        AgentError::Ended { pod, .. } | AgentError::NotReady { pod, .. } => {
            format!("look at it: kubectl describe pod {pod}")
        }
    })
}

fn stand_in_help(error: &StandInError) -> Option<String> {
    Some(match error {
        StandInError::Api(error) => return api_help(error),
        StandInError::Target(error) => return target_help(error),
        StandInError::Agent(error) => return agent_help(error),
        StandInError::Held { .. } => {
            "wait until that run has ended; `tp leave --all` takes it from them, and from everybody else in the \
             namespace"
                .to_owned()
        }
        StandInError::Exists { .. } => {
            "--swap-deployment takes the place of a deployment that there is; or choose another name".to_owned()
        }
        StandInError::NotGone { .. } => "look at what keeps them: kubectl describe pod".to_owned(),
        StandInError::Restless { .. } | StandInError::GivenBack { .. } => "try again".to_owned(),
    })
}

fn config_help(error: &ConfigError) -> Option<String> {
    Some(match error {
        ConfigError::None { .. } => {
            "set KUBECONFIG, or put the cluster's kubeconfig at ~/.kube/config".to_owned()
        }
        ConfigError::NoContext { contexts } if contexts.is_empty() => {
            "the kubeconfig has no contexts".to_owned()
        }
        ConfigError::NoContext { contexts } => {
            format!("name one with --context: {}", contexts.join(", "))
        }
        ConfigError::UnknownContext { nearest, .. } => {
            or_list(nearest, "kubectl config get-contexts lists those that there are")
        }
        ConfigError::Incomplete { .. } => {
            "is a file missing from KUBECONFIG? check: kubectl config view".to_owned()
        }
        ConfigError::Plugin { hint: Some(hint), .. } => hint.clone(),
        ConfigError::Unusable(_) | ConfigError::Client(_) | ConfigError::Plugin { .. } => {
            "check it with: kubectl config view; kubectl get pods".to_owned()
        }
    })
}

fn target_help(error: &TargetError) -> Option<String> {
    Some(match error {
        TargetError::NoNamespace { nearest, .. } => or_list(nearest, "kubectl get namespaces lists them"),
        TargetError::NoWorkload { workload, nearest, namespace } => or_list(
            nearest,
            &format!(
                "is it in another namespace? kubectl get {} --all-namespaces | grep {}  (looked in `{namespace}`)",
                workload.kind.resource(),
                workload.name
            ),
        ),
        TargetError::NoPod { pods, namespace, .. } if pods.is_empty() => format!(
            "it has no pods: check its replicas, and the namespace's events: kubectl get events -n {namespace}"
        ),
        TargetError::NoPod { pods, .. } => format!("its pods:\n{}", pods.join("\n")),
        TargetError::NoContainer { containers, .. } => format!("its containers: {}", containers.join(", ")),
        TargetError::NoSelector { .. } => "name one of its pods with --pod".to_owned(),
        TargetError::Api(error) => return api_help(error),
    })
}

fn api_help(error: &ApiError) -> Option<String> {
    Some(match error {
        ApiError::Unreachable(_) | ApiError::TooSlow { .. } => {
            "check that the cluster runs and the network (VPN) to it: kubectl version".to_owned()
        }
        ApiError::Unauthorized(_) => {
            "log in again with your cluster's own tool, then: kubectl auth whoami".to_owned()
        }
        ApiError::Forbidden { verb, resource, namespace, .. } => {
            let verbs = match *resource {
                // Later Kubernetes versions ask for `create` where earlier ones ask for `get`.
                "pods/portforward" | "pods/attach" => "verbs `get` and `create`".to_owned(),
                _ => format!("verb `{verb}`"),
            };
            format!(
                "ask an administrator for a role with the {verbs} on `{resource}` in namespace `{namespace}`\n\
                 (tp's README lists all that tp needs); check: kubectl auth can-i {verb} {resource} -n {namespace}"
            )
        }
        ApiError::NotFound { .. } => "it may have been deleted this moment; try again".to_owned(),
        ApiError::Conflict { .. } => "try again".to_owned(),
        ApiError::Other { .. } => return None,
    })
}

fn or_list(nearest: &[String], otherwise: &str) -> String {
    if nearest.is_empty() { otherwise.to_owned() } else { format!("did you mean: {}?", nearest.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_those_of_env() {
        assert_eq!(Failure::Command(CommandError::NotFound("x".into())).exit_code(), 127);
        assert_eq!(Failure::NoCommand.exit_code(), 125);
        assert_eq!(Failure::Interrupted(libc::SIGINT).exit_code(), 130);
    }

    #[test]
    fn what_is_printed_says_what_why_and_what_next() {
        let source = io::Error::from(io::ErrorKind::PermissionDenied);
        let text = Failure::EnvFile { path: "/x".into(), source }.text();
        assert_eq!(
            text,
            "tp: the environment could not be written to /x [tp::file]\n  because: permission denied\n  \
             help: name a file in a folder that you can write to\n"
        );
    }

    #[test]
    fn a_missing_permission_names_the_verb_the_resource_and_the_namespace() {
        let failure = Failure::Session(SessionError::Api(ApiError::Forbidden {
            verb: "patch",
            resource: "pods/ephemeralcontainers",
            namespace: "shop".into(),
            source: "no".into(),
        }));
        let help = help(&failure).unwrap();
        assert!(help.contains("`patch` on `pods/ephemeralcontainers` in namespace `shop`"), "{help}");
        assert_eq!(code(&failure), "tp::kube::forbidden");
    }
}
