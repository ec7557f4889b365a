//! What this machine must have: root, and a handful of Debian packages.

use std::collections::BTreeSet;
use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Error;

/// A program or file that the cluster or a case needs, and the Debian package that brings it.
struct Need {
    /// A program on the PATH, or an absolute path.
    file: &'static str,
    package: &'static str,
}

const fn need(file: &'static str, package: &'static str) -> Need {
    Need { file, package }
}

/// `kubectl` is missing on purpose: the cluster's own binary has one, and Debian's conflicts on some systems.
const NEEDS: &[Need] = &[
    need("containerd", "containerd"),
    need("ctr", "containerd"),
    need("runc", "runc"),
    need("/usr/lib/cni/ptp", "containernetworking-plugins"),
    need("/usr/lib/cni/host-local", "containernetworking-plugins"),
    need("/usr/lib/cni/loopback", "containernetworking-plugins"),
    need("nft", "nftables"),
    need("conntrack", "conntrack"),
    need("ip", "iproute2"),
    need("nsenter", "util-linux"),
    need("mount", "mount"),
    need("/bin/busybox", "busybox-static"),
    // What the cases run on the laptop: Debian's own, which an unprivileged user can read.
    need("/usr/bin/curl", "curl"),
    need("/usr/bin/wget", "wget"),
    need("/usr/bin/python3", "python3"),
    need("/usr/lib/python3/dist-packages/requests/__init__.py", "python3-requests"),
    need("/usr/lib/python3/dist-packages/pip/__init__.py", "python3-pip"),
    need("/usr/lib/python3/dist-packages/dotenv/__init__.py", "python3-dotenv"),
    need("/usr/bin/node", "nodejs"),
    need("npm", "npm"),
    need("/usr/bin/javac", "default-jdk-headless"),
    need("mvn", "maven"),
    need("/bin/nc.openbsd", "netcat-openbsd"),
    need("/usr/bin/redis-cli", "redis-tools"),
    need("/usr/bin/psql", "postgresql-client"),
    need("/usr/bin/ssh", "openssh-client"),
    need("/usr/bin/git", "git"),
    need("/usr/bin/rsync", "rsync"),
    need("/usr/bin/dig", "bind9-dnsutils"),
    need("/usr/bin/microsocks", "microsocks"),
    need("/usr/bin/fusermount3", "fuse3"),
    // What the benches compare with.
    need("/usr/bin/torsocks", "torsocks"),
    need("/usr/bin/proxychains4", "proxychains4"),
    need("/usr/bin/slirp4netns", "slirp4netns"),
    need("/usr/bin/pasta", "passt"),
    need("/usr/bin/sshfs", "sshfs"),
    need("/usr/lib/openssh/sftp-server", "openssh-sftp-server"),
    need("/usr/bin/gcc", "gcc"),
    need("/usr/bin/musl-gcc", "musl-tools"),
    need("/usr/bin/strace", "strace"),
    need("/usr/bin/fakeroot", "fakeroot"),
];

/// Fails unless this process is root.
pub fn require_root() -> Result<(), Error> {
    if nix::unistd::geteuid().is_root() { Ok(()) } else { Err(Error::NotRoot) }
}

/// Where a program is on the PATH, with the system's folders searched too.
pub fn find(program: &str) -> Option<PathBuf> {
    if program.starts_with('/') {
        return Some(PathBuf::from(program)).filter(|path| path.exists());
    }
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/local/go/bin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
}

/// Installs the Debian packages that are missing when it can, else names them.
pub fn require_packages() -> Result<(), Error> {
    let missing = missing();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: BTreeSet<&str> = missing.iter().map(|need| need.package).collect();
    if nix::unistd::geteuid().is_root() && Path::new("/usr/bin/apt-get").exists() {
        eprintln!("installing: {}", packages.iter().copied().collect::<Vec<_>>().join(" "));
        // The first try may fail on an index that is old or absent.
        if !install(&packages) {
            apt_get(&["update"]);
            install(&packages);
        }
    }
    let missing = self::missing();
    if missing.is_empty() {
        return Ok(());
    }
    let join = |words: BTreeSet<&str>| words.into_iter().collect::<Vec<_>>().join(" ");
    Err(Error::Missing {
        programs: join(missing.iter().map(|need| need.file).collect()),
        packages: join(missing.iter().map(|need| need.package).collect()),
    })
}

fn missing() -> Vec<&'static Need> {
    NEEDS.iter().filter(|need| find(need.file).is_none()).collect()
}

fn install(packages: &BTreeSet<&str>) -> bool {
    let mut arguments = vec!["install", "--no-install-recommends"];
    arguments.extend(packages);
    apt_get(&arguments)
}

fn apt_get(arguments: &[&str]) -> bool {
    Command::new("apt-get")
        .args(["-y", "-q", "-o", "DPkg::Lock::Timeout=300"])
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        // stdout belongs to whoever asked for the cluster's kubeconfig or the laptop's program.
        .stdout(std::io::stderr())
        .stdin(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_need_is_a_name_or_an_absolute_path() {
        for need in NEEDS {
            assert!(need.file.starts_with('/') || !need.file.contains('/'), "{}", need.file);
        }
    }

    #[test]
    fn programs_are_found_by_name_and_by_path() {
        assert!(find("sh").is_some());
        assert_eq!(find("/bin/sh"), Some(PathBuf::from("/bin/sh")));
        assert!(find("no-such-program-anywhere").is_none());
    }
}
