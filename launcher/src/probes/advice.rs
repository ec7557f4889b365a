//! What can be done about a refusal: by whom it may have come, as far as the machine tells, and how it is lifted.

use std::io;
use std::path::Path;

use tp_inside::probe::Need;

/// Lines for a person, most likely cause first.
pub(super) fn on(need: Need, error: &io::Error) -> Vec<String> {
    let mut lines = match need {
        Need::Users | Need::Networks | Need::Mounts => on_namespaces(error),
        Need::Link => module("veth"),
        Need::Packets => module("af_packet"),
        Need::Rules => module("nf_tables"),
        Need::Tproxy => module("nft_tproxy"),
        Need::Sockets => module("nft_socket"),
        Need::Filter => on_filter(error),
        Need::Reach | Need::Memory => on_reach(),
        Need::Tun => device("/dev/net/tun", "tun"),
        Need::Fuse => device("/dev/fuse", "fuse"),
    };
    // What a filter refuses with.
    let refused = matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES | libc::ENOSYS));
    if refused && is_confined() {
        lines.push(format!("a sandbox around tp (a container?) filters system calls: {}", allowing(need)));
    }
    lines
}

fn on_namespaces(error: &io::Error) -> Vec<String> {
    let mut lines = Vec::new();
    let zero = |name: &str| setting(name).as_deref() == Some("0");
    for name in ["user.max_user_namespaces", "user.max_net_namespaces", "user.max_mnt_namespaces"] {
        if zero(name) {
            lines.push(format!("{name} is 0; to allow them: sudo sysctl {name}=15000"));
        }
    }
    if lines.is_empty() && error.raw_os_error() == Some(libc::ENOSPC) {
        lines.push("there are as many as the sysctls user.max_*_namespaces allow".to_owned());
    }
    if zero("kernel.unprivileged_userns_clone") {
        lines.push(
            "kernel.unprivileged_userns_clone is 0; to allow them: sudo sysctl kernel.unprivileged_userns_clone=1"
                .to_owned(),
        );
    }
    if setting("kernel.apparmor_restrict_unprivileged_userns").as_deref() == Some("1") {
        lines.push(apparmor());
    }
    lines
}

/// As Ubuntu has it since 23.10: a program needs a profile that allows `userns`.
fn apparmor() -> String {
    let program = std::env::current_exe().unwrap_or_default();
    let inside = program.parent().and_then(Path::parent).unwrap_or(Path::new("/")).join("lib/tp/tp-inside");
    format!(
        "AppArmor allows user namespaces to programs with a profile only \
         (kernel.apparmor_restrict_unprivileged_userns); to allow them to tp, as root:\n\
         printf 'abi <abi/4.0>,\\nprofile tp-inside {} flags=(unconfined) {{ userns, }}\\n' > /etc/apparmor.d/tp-inside\n\
         apparmor_parser -r /etc/apparmor.d/tp-inside",
        inside.display()
    )
}

fn module(name: &str) -> Vec<String> {
    if Path::new("/sys/module").join(name).exists() {
        return Vec::new();
    }
    vec![format!("the kernel may have no {name}, or not load it for a user: sudo modprobe {name}")]
}

fn on_filter(error: &io::Error) -> Vec<String> {
    match error.raw_os_error() {
        Some(libc::EBUSY) => {
            vec!["tp runs under a seccomp listener already, and the kernel has one for a process: start it outside of that sandbox".to_owned()]
        }
        Some(libc::EINVAL | libc::ENOSYS) => vec!["it takes Linux 5.9 with CONFIG_SECCOMP_FILTER".to_owned()],
        _ => Vec::new(),
    }
}

fn on_reach() -> Vec<String> {
    match setting("kernel.yama.ptrace_scope").as_deref() {
        Some(scope @ ("2" | "3")) => vec![format!(
            "kernel.yama.ptrace_scope is {scope}; to allow it: sudo sysctl kernel.yama.ptrace_scope=1{}",
            if scope == "3" { " at the next start of the machine (3 stays until then)" } else { "" }
        )],
        _ => Vec::new(),
    }
}

fn device(path: &str, module: &str) -> Vec<String> {
    if Path::new(path).exists() {
        return Vec::new();
    }
    vec![format!("there is no {path}: sudo modprobe {module}; in a container: docker run --device {path}")]
}

fn allowing(need: Need) -> &'static str {
    match need {
        Need::Reach => "docker run --cap-add SYS_PTRACE, or a seccomp profile that allows pidfd_getfd",
        Need::Memory => {
            "docker run --cap-add SYS_PTRACE, or a seccomp profile that allows process_vm_readv and process_vm_writev"
        }
        Need::Filter => "docker run --security-opt seccomp=unconfined, or a profile that allows seccomp",
        _ => {
            "docker run --security-opt seccomp=unconfined --security-opt apparmor=unconfined, or a profile that allows \
             unshare, setns and mount"
        }
    }
}

/// `Seccomp:` of proc_pid_status(5): 2 for a process with filters.
fn is_confined() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().any(|line| line.strip_prefix("Seccomp:").is_some_and(|mode| mode.trim() == "2"))
}

/// A sysctl's value; [`None`] where there is none.
fn setting(name: &str) -> Option<String> {
    let path = Path::new("/proc/sys").join(name.replace('.', "/"));
    std::fs::read_to_string(path).ok().map(|value| value.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_read_as_sysctl_spells_it() {
        assert!(setting("kernel.ostype").is_some_and(|name| name == "Linux"));
        assert_eq!(setting("kernel.no_such_thing"), None);
    }

    #[test]
    fn a_second_listener_is_told_from_an_old_kernel() {
        let said = |errno| on_filter(&io::Error::from_raw_os_error(errno)).join("\n");
        assert!(said(libc::EBUSY).contains("listener"));
        assert!(said(libc::EINVAL).contains("Linux 5.9"));
    }

    #[test]
    fn a_device_that_is_there_is_not_what_is_missing() {
        assert!(device("/dev/null", "null").is_empty());
        assert!(device("/dev/no-such-thing", "thing").concat().contains("modprobe thing"));
    }
}
