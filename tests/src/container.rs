//! Containers on the laptop as Docker starts them, for programs that have fewer rights there than the laptop's user has:
//! runc applies the seccomp profile, hides parts of /proc and takes the capabilities away.
//!
//! Their root folder is made of this machine's own /usr and /etc, so no image is needed. Each runs one program, as the
//! laptop's user, in the laptop's network, and is gone with its [`Container`].

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use crate::laptop::{Laptop, UID};
use crate::layout::{CGROUP, LAPTOP_NETNS, netns_file};
use crate::{Error, host, run};

/// System calls that Docker's default profile refuses without more capabilities: those of namespaces and mounts, of the
/// kernel itself, of keys, rings and other processes.
const REFUSED: &str = "acct add_key bpf clock_adjtime clock_settime delete_module fanotify_init finit_module fsconfig \
    fsmount fsopen fspick init_module io_uring_enter io_uring_register io_uring_setup kcmp kexec_file_load kexec_load \
    keyctl lookup_dcookie mbind migrate_pages mount mount_setattr move_mount move_pages open_by_handle_at open_tree \
    perf_event_open pidfd_getfd pivot_root process_madvise quotactl reboot request_key set_mempolicy setdomainname \
    sethostname setns settimeofday swapoff swapon syslog umount umount2 unshare userfaultfd vhangup";
/// What Docker's profile allows with `--cap-add SYS_PTRACE`, and podman's without.
const TAKE_DESCRIPTOR: &str = "pidfd_getfd";
/// Memory of other processes; Docker's profile allows these since Linux 4.8 keeps the permissions of ptrace(2) here.
const MEMORY: [&str; 2] = ["process_vm_readv", "process_vm_writev"];
/// The flags of clone(2) that make namespaces, all but CLONE_NEWTIME: 0x7e020000.
const NAMESPACES: [u32; 7] =
    [0x0002_0000, 0x0200_0000, 0x0400_0000, 0x0800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000];
/// What may become of a program with a set-user-ID bit; nothing of it is in effect for the laptop's user.
const CAPABILITIES: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];
/// Files of /proc and /sys that nobody sees.
const MASKED: [&str; 11] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
/// Files of /proc that nobody writes.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
/// errno(3), as the profile has them.
const EPERM: i32 = 1;
const ENOSYS: i32 = 38;
/// Folders of this machine that stand for an image; some are links, and not every machine has all.
const IMAGE: [&str; 7] = ["/usr", "/etc", "/bin", "/sbin", "/lib", "/lib32", "/lib64"];

/// What the seccomp profile is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Docker's default.
    Docker,
    /// The same, and a process may take descriptors out of others of its user.
    TakesDescriptors,
    /// The same as that, but a process may not read the memory of others: so podman's, without a capability.
    ReadsNoMemory,
}

/// A container that is not started yet, runs, or ended; it and its files go with this value.
#[derive(Debug)]
pub struct Container {
    runc: PathBuf,
    folder: tempfile::TempDir,
    id: String,
}

impl Container {
    /// One for `command`, a command for the laptop: with its program, its arguments and its environment. No folder for
    /// sockets is there, as in any container.
    pub fn new(laptop: &Laptop, profile: Profile, command: &Command) -> Result<Self, Error> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let id = format!("tp-case-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let runc = host::find("runc")
            .ok_or_else(|| Error::Missing { programs: "runc".to_owned(), packages: "runc".to_owned() })?;
        let folder = tempfile::Builder::new().prefix(&id).tempdir();
        let folder = folder.map_err(Error::file("create", std::env::temp_dir()))?;
        let container = Self { runc, folder, id };
        run::folder(&container.root())?;
        let config = container.config(laptop, profile, command);
        run::write(&container.folder.path().join("config.json"), config.to_string())?;
        Ok(container)
    }

    /// What starts it and ends as its program does.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = self.runc();
        command.args(["run", "--bundle"]).arg(self.folder.path()).arg(&self.id);
        command
    }

    /// Whether runc knows of it: from its start until it has ended or was removed.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.folder.path().join("state").join(&self.id).exists()
    }

    fn runc(&self) -> Command {
        let mut command = Command::new(&self.runc);
        command.arg("--root").arg(self.folder.path().join("state"));
        command
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    fn config(&self, laptop: &Laptop, profile: Profile, command: &Command) -> Value {
        let text = |text: &std::ffi::OsStr| text.to_string_lossy().into_owned();
        let arguments: Vec<String> =
            std::iter::once(command.get_program()).chain(command.get_args()).map(text).collect();
        let environment: Vec<String> = command
            .get_envs()
            .filter(|(name, _)| *name != "XDG_RUNTIME_DIR")
            .filter_map(|(name, value)| Some(format!("{}={}", text(name), text(value?))))
            .collect();
        json!({
            "ociVersion": "1.0.2",
            "hostname": "container",
            "process": {
                "user": {"uid": UID, "gid": UID},
                "cwd": "/tmp",
                "args": arguments,
                "env": environment,
                "noNewPrivileges": true,
                "capabilities": {"bounding": CAPABILITIES},
            },
            "root": {"path": self.root(), "readonly": true},
            "mounts": mounts(laptop),
            "linux": {
                // Where `down` looks for what was left behind.
                "cgroupsPath": format!("/{CGROUP}/{}", self.id),
                "namespaces": [
                    {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"},
                    {"type": "network", "path": netns_file(LAPTOP_NETNS)},
                ],
                "maskedPaths": MASKED,
                "readonlyPaths": READ_ONLY,
                "seccomp": seccomp(profile),
            },
        })
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if !self.is_known() {
            return;
        }
        // Whoever waited for it gave up: runc was killed, and the container was not.
        if let Err(error) = run::output(self.runc().args(["delete", "--force", &self.id])) {
            eprintln!("the container {} stays: {error}", self.id);
        }
    }
}

fn bind(source: &Path, destination: &Path, access: &str) -> Value {
    json!({"type": "bind", "source": source, "destination": destination, "options": ["rbind", access]})
}

/// Those of Docker, and for an image the folders of this machine, with the laptop's own files over them.
fn mounts(laptop: &Laptop) -> Vec<Value> {
    let special = |kind: &str, destination: &str, options: &[&str]| json!({"type": kind, "source": kind, "destination": destination, "options": options});
    let kept = ["nosuid", "noexec", "nodev"];
    let mut mounts = vec![
        special("proc", "/proc", &kept),
        special("tmpfs", "/dev", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        special("devpts", "/dev/pts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]),
        special("sysfs", "/sys", &["nosuid", "noexec", "nodev", "ro"]),
        special("mqueue", "/dev/mqueue", &kept),
        special("tmpfs", "/dev/shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        special("tmpfs", "/tmp", &["nosuid", "nodev", "mode=1777"]),
    ];
    let there = |path: &&Path| path.exists();
    mounts.extend(IMAGE.iter().map(Path::new).filter(there).map(|path| bind(path, path, "ro")));
    mounts.extend(laptop.files().iter().map(|(source, path)| bind(source, Path::new(path), "ro")));
    mounts.push(bind(laptop.prefix(), laptop.prefix(), "ro"));
    // With the secret of the agent that is there: without it each run would make one.
    mounts.push(bind(&laptop.home(), &laptop.home(), "rw"));
    mounts
}

fn seccomp(profile: Profile) -> Value {
    let is_refused = |name: &&str| profile == Profile::Docker || *name != TAKE_DESCRIPTOR;
    let memory: &[&str] = if profile == Profile::ReadsNoMemory { &MEMORY } else { &[] };
    let refused: Vec<_> =
        REFUSED.split_whitespace().filter(is_refused).chain(memory.iter().copied()).collect();
    let mut rules = vec![
        json!({"names": refused, "action": "SCMP_ACT_ERRNO", "errnoRet": EPERM}),
        // Its flags are in memory, where no filter sees them; programs fall back to clone.
        json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS}),
    ];
    rules.extend(NAMESPACES.map(|flag| {
        let with_flag = json!({"index": 0, "value": flag, "valueTwo": flag, "op": "SCMP_CMP_MASKED_EQ"});
        json!({"names": ["clone"], "action": "SCMP_ACT_ERRNO", "errnoRet": EPERM, "args": [with_flag]})
    }));
    json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": rules,
    })
}
