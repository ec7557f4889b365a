//! The agent's container, as written into the pod.

use std::path::PathBuf;

use k8s_openapi::api::core::v1::{
    Capabilities, Container, EnvVar, EphemeralContainer, PodSecurityContext, SeccompProfile, SecurityContext,
};
use socks_proxy::link::TokenDigest;

use super::{Agent, volumes};
use crate::kube::target::Target;

/// Prefix of the names of agents' containers.
const NAME_PREFIX: &str = "tp-agent-";
/// The user that the agent runs as where the target runs as root: "nobody" of distroless images.
const UID: i64 = 65_532;
/// By its path: `PATH` is the target's.
const SHELL: &str = "/bin/sh";
/// Seconds that the script waits for its program.
const UPLOAD_LIMIT: u32 = 60;

const TOKEN: &str = "TP_AGENT_TOKEN_SHA256";
const PORT: &str = "TP_AGENT_PORT";
const FOR_CONTAINER: &str = "TP_AGENT_FOR";
const VERSION: &str = "TP_AGENT_VERSION";
const RIGHTS: &str = "TP_AGENT_RIGHTS";

/// What an agent must be able to do in its pod, beyond what any may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Rules in nftables: only uid 0 gets a capability that an image's program does not carry, as Kubernetes knows no
    /// ambient ones.
    pub net_admin: bool,
}

impl Needs {
    const fn rights(self) -> Option<&'static str> {
        if self.net_admin { Some("net_admin") } else { None }
    }
}

/// Where the agent's program comes from.
#[derive(Clone, Debug)]
pub enum Image {
    /// Any image with `sh`; the program is streamed into it.
    Base {
        /// The image.
        reference: String,
        /// The program's file on this machine.
        program: PathBuf,
    },
    /// An image whose entry point is the agent.
    BuiltIn {
        /// The image.
        reference: String,
    },
}

impl Image {
    /// The image's reference.
    #[must_use]
    pub fn reference(&self) -> &str {
        match self {
            Image::Base { reference, .. } | Image::BuiltIn { reference } => reference,
        }
    }
}

/// An agent of another version is not used again: the two must speak the same link.
#[must_use]
pub fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

pub(super) fn new_name() -> String {
    format!("{NAME_PREFIX}{:05x}", random() & 0xf_ffff)
}

/// A port that nothing in the pod should have: below the ephemeral range, above what services listen on.
pub(super) fn new_port() -> u16 {
    const FIRST: u16 = 25_000;
    const LAST: u16 = 32_000;
    FIRST + u16::try_from(random() % u64::from(LAST - FIRST)).unwrap_or(0)
}

fn random() -> u64 {
    // A clash is possible with any randomness, and told as a failure to start; so none at all is only a worse one.
    getrandom::u64().unwrap_or_else(|_| u64::from(std::process::id()))
}

/// The agent's port, if this container is an agent for `container` that `token` opens. Its rights are exactly those that
/// are needed: with more it is another user, who may not read what the target's user may.
pub(super) fn port_if_ours(
    agent: &EphemeralContainer,
    container: &str,
    token: &[u8],
    needs: Needs,
) -> Option<u16> {
    if !agent.name.starts_with(NAME_PREFIX) {
        return None;
    }
    let value = |name: &str| {
        agent.env.iter().flatten().find(|variable| variable.name == name).and_then(|v| v.value.as_deref())
    };
    let ours = value(TOKEN)? == TokenDigest::of(token).to_hex()
        && value(VERSION)? == version()
        && value(FOR_CONTAINER)? == container
        && value(RIGHTS) == needs.rights();
    if ours { value(PORT)?.parse().ok() } else { None }
}

/// If a container is an agent that can take ports, whosever it is.
pub(super) fn may_expose(container: &EphemeralContainer) -> bool {
    container.name.starts_with(NAME_PREFIX)
        && container.env.iter().flatten().any(|variable| variable.name == RIGHTS)
}

/// The container for `agent`, with the environment and the volumes of the target's.
pub(super) fn container(
    target: &Target,
    agent: &Agent,
    image: &Image,
    program_len: usize,
    needs: Needs,
) -> EphemeralContainer {
    let spec = target.pod.spec.as_ref();
    // An agent that takes ports does nothing else: the target's secrets and volumes are not for a container of uid 0.
    let copied =
        if needs.net_admin { Container::default() } else { target.spec().cloned().unwrap_or_default() };
    let streamed = matches!(image, Image::Base { .. });
    EphemeralContainer {
        name: agent.container.clone(),
        image: Some(image.reference().to_owned()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        command: streamed.then(|| vec![SHELL.to_owned(), "-c".to_owned(), script(program_len, agent.port)]),
        env: Some(environment(&copied, target, agent, needs)),
        env_from: copied.env_from.clone(),
        volume_mounts: Some(volumes::copies(&copied)),
        stdin: Some(streamed),
        stdin_once: Some(streamed),
        security_context: Some(if needs.net_admin {
            net_admin()
        } else {
            security(spec.and_then(|spec| spec.security_context.as_ref()), &copied)
        }),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        ..EphemeralContainer::default()
    }
}

fn environment(copied: &Container, target: &Target, agent: &Agent, needs: Needs) -> Vec<EnvVar> {
    let plain =
        |name: &str, value: String| EnvVar { name: name.to_owned(), value: Some(value), value_from: None };
    let mut variables = copied.env.clone().unwrap_or_default();
    variables.retain(|variable| !variable.name.starts_with("TP_AGENT_"));
    for variable in &mut variables {
        // Without a container's name the resources meant are those of the container that asks, which has none.
        let resource = variable.value_from.as_mut().and_then(|from| from.resource_field_ref.as_mut());
        if let Some(resource) = resource {
            resource.container_name.get_or_insert_with(|| target.container.clone());
        }
    }
    variables.extend([
        plain(TOKEN, TokenDigest::of(&agent.token).to_hex()),
        plain(PORT, agent.port.to_string()),
        plain(FOR_CONTAINER, target.container.clone()),
        plain(VERSION, version().to_owned()),
    ]);
    variables.extend(needs.rights().map(|rights| plain(RIGHTS, rights.to_owned())));
    variables
}

/// The user that an agent for this target runs as.
pub(super) fn user(target: &Target) -> i64 {
    let spec = target.pod.spec.as_ref();
    let pod = spec.and_then(|spec| spec.security_context.as_ref());
    target.spec().and_then(|copied| security(pod, copied).run_as_user).unwrap_or(UID)
}

/// What Pod Security "restricted" asks for, and the target's own user where that is not root, so that its volumes can
/// be read.
fn security(pod: Option<&PodSecurityContext>, copied: &Container) -> SecurityContext {
    let of_container = copied.security_context.as_ref();
    let user = of_container.and_then(|c| c.run_as_user).or_else(|| pod.and_then(|p| p.run_as_user));
    let group = of_container.and_then(|c| c.run_as_group).or_else(|| pod.and_then(|p| p.run_as_group));
    SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
        run_as_non_root: Some(true),
        run_as_user: Some(user.filter(|user| *user != 0).unwrap_or(UID)),
        run_as_group: group.filter(|group| *group != 0),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }),
        ..SecurityContext::default()
    }
}

/// The least that lets an agent make rules. A program of uid 0 keeps what its container may, and no more.
fn net_admin() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities {
            drop: Some(vec!["ALL".to_owned()]),
            add: Some(vec!["NET_ADMIN".to_owned()]),
        }),
        run_as_non_root: Some(false),
        run_as_user: Some(0),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }),
        ..SecurityContext::default()
    }
}

/// Takes `length` bytes from standard input as a program and becomes it. Whoever is to send them may be gone: a time
/// limit ends the wait. `head` reads in the background, because a shell runs no trap while it waits for a command,
/// and from a descriptor of its own, because background commands have no standard input. The file has no name any more
/// when it runs: `/tmp` may be a volume of the pod.
///
/// Shells pass on no variables whose names they could not have themselves (`a.b`), and some of their own: so the
/// environment is kept as it came, in a file that has no name before anything is in it. The target's `PATH` may lead
/// nowhere here. (No `$` may stand before another `$` or a parenthesized name of a
/// variable: the kubelet expands those.)
fn script(length: usize, port: u16) -> String {
    format!(
        r#"set -u
umask 077
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:"${{PATH-}}"
for d in /tmp /var/tmp /run .; do f=$d/.tp-agent-{port}; (: >"$f") 2>/dev/null && break; f=; done
[ -n "$f" ] || {{ echo "tp-agent: error: no folder in this image can be written to" >&2; exit 1; }}
exec 3<&0 5</proc/self/environ 6<>"$f.env" && rm -f "$f.env" && cat <&5 >&6 && exec 5<&-
export TP_AGENT_ENVIRON=/proc/self/fd/6
head -c {length} <&3 >"$f" & h=$!
(sleep {UPLOAD_LIMIT}; kill $h) >/dev/null 2>&1 & w=$!
wait $h
kill $w 2>/dev/null
[ "$(wc -c <"$f")" -eq {length} ] || {{ rm -f "$f"; echo "tp-agent: error: the upload was cut off" >&2; exit 1; }}
chmod 700 "$f" && exec 4<"$f" 3<&- && rm -f "$f" && exec /proc/self/fd/4
"#
    )
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use super::*;
    use crate::kube::target::{Kind, Workload};

    fn target() -> Target {
        let pod = serde_json::json!({
            "metadata": {"name": "web-1", "uid": "u"},
            "spec": {"containers": [{
                "name": "app",
                "env": [
                    {"name": "A", "value": "1"},
                    {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}
                ],
                "envFrom": [{"configMapRef": {"name": "c"}}],
                "volumeMounts": [{"name": "v", "mountPath": "/v"}, {"name": "s", "mountPath": "/s", "subPath": "x"}]
            }]}
        });
        Target {
            workload: Workload { kind: Kind::Pod, name: "web-1".into() },
            pod: serde_json::from_value(pod).unwrap(),
            container: "app".into(),
        }
    }

    fn agent() -> Agent {
        Agent { pod: "web-1".into(), container: new_name(), port: new_port(), token: [7; 32] }
    }

    const PLAIN: Needs = Needs { net_admin: false };

    fn base() -> Image {
        Image::Base { reference: "busybox".into(), program: PathBuf::new() }
    }

    #[test]
    fn an_agent_is_known_again_by_its_token_and_by_nothing_else() {
        let agent = agent();
        let made = container(&target(), &agent, &base(), 10, PLAIN);
        assert_eq!(port_if_ours(&made, "app", &agent.token, PLAIN), Some(agent.port));
        assert_eq!(port_if_ours(&made, "app", &[8; 32], PLAIN), None);
        assert_eq!(port_if_ours(&made, "sidecar", &agent.token, PLAIN), None);
        let text = serde_json::to_string(&made).unwrap();
        assert!(
            !text.contains(&socks_proxy::link::hex(&agent.token)),
            "the token itself must not be in the pod"
        );
    }

    #[test]
    fn the_targets_environment_and_volumes_are_copied_as_an_ephemeral_container_may_have_them() {
        let made = container(&target(), &agent(), &base(), 10, PLAIN);
        let variables = made.env.unwrap();
        let cpu = variables.iter().find(|v| v.name == "CPU").unwrap();
        let field = cpu.value_from.as_ref().unwrap().resource_field_ref.as_ref().unwrap();
        assert_eq!(field.container_name.as_deref(), Some("app"));
        assert_eq!(made.env_from.unwrap().len(), 1);
        let mounts: Vec<_> = made.volume_mounts.unwrap().into_iter().map(|mount| mount.mount_path).collect();
        assert_eq!(mounts, ["/v", "/tp-volumes/s"]);
    }

    #[test]
    fn an_agent_with_rights_is_for_those_who_need_them_and_has_no_others() {
        let (agent, needs) = (agent(), Needs { net_admin: true });
        let made = container(&target(), &agent, &base(), 10, needs);
        assert_eq!(port_if_ours(&made, "app", &agent.token, needs), Some(agent.port));
        assert_eq!(port_if_ours(&made, "app", &agent.token, PLAIN), None);
        let plain = container(&target(), &agent, &base(), 10, PLAIN);
        assert_eq!(port_if_ours(&plain, "app", &agent.token, needs), None);
        let rights = made.security_context.unwrap().capabilities.unwrap();
        assert_eq!(
            (rights.drop.unwrap(), rights.add.unwrap()),
            (vec!["ALL".into()], vec!["NET_ADMIN".into()])
        );
    }

    fn shell(length: usize, port: u16) -> Command {
        let mut shell = Command::new(SHELL);
        shell.args(["-c", &script(length, port)]);
        shell
    }

    fn run(length: usize, port: u16, input: &[u8]) -> std::process::Output {
        fed(&mut shell(length, port), input)
    }

    fn fed(shell: &mut Command, input: &[u8]) -> std::process::Output {
        let mut child =
            shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        child.wait_with_output().unwrap()
    }

    #[test]
    fn the_script_becomes_the_program_that_it_was_sent() {
        let program = b"#!/bin/sh\necho it runs; ls -a /tmp | grep -c tp-agent-1$\n";
        let output = run(program.len(), 1, program);
        assert_eq!(String::from_utf8_lossy(&output.stdout), "it runs\n0\n", "and leaves no file");
    }

    #[test]
    fn the_program_finds_the_environment_that_the_shell_was_started_with() {
        let program = b"#!/bin/sh\ntr '\\0' '\\n' </proc/self/fd/6\n";
        let mut shell = shell(program.len(), 3);
        let shell = shell.env_clear().env("PATH", "/nowhere").env("a.b-c", "1\n2");
        let output = fed(shell, program);
        assert_eq!(String::from_utf8_lossy(&output.stdout), "PATH=/nowhere\na.b-c=1\n2\n", "{output:?}");
    }

    #[test]
    fn an_upload_that_was_cut_off_is_never_run() {
        let output = run(1000, 2, b"#!/bin/sh\necho it runs\n");
        assert_eq!(output.status.code(), Some(1));
        assert!(output.stdout.is_empty());
        assert!(String::from_utf8_lossy(&output.stderr).contains("cut off"));
    }
}
