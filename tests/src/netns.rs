//! Named network namespaces, and running programs in them.
//!
//! `nsenter --net` is used and not `ip netns exec`: the latter mounts a new /sys, which hides the cgroups from
//! containerd and kubelet.

use std::path::Path;
use std::process::Command;

use crate::layout::netns_file;
use crate::{Error, run};

/// A command that will run in the named network namespace, with this process's other namespaces.
pub fn command(netns: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", netns_file(netns).display())).arg("--").arg(program);
    command
}

/// Does the named namespace exist?
pub fn exists(netns: &str) -> bool {
    // A crash between the two steps of `ip netns add` leaves a plain file, which is no namespace.
    inode(&netns_file(netns)).is_some_and(|_| is_namespace(&netns_file(netns)))
}

/// The identity of the namespace behind a file such as /run/netns/NAME or /proc/PID/ns/net.
pub fn inode(file: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(file).ok().map(|meta| (meta.dev(), meta.ino()))
}

fn is_namespace(file: &Path) -> bool {
    let ours = inode(Path::new("/proc/self/ns/net"));
    // All namespaces are files of the one nsfs.
    matches!((inode(file), ours), (Some((device, _)), Some((nsfs, _))) if device == nsfs)
}

/// Makes a new, empty namespace with its loopback up.
pub fn create(netns: &str) -> Result<(), Error> {
    run::output(&mut run::command("ip", ["netns", "add", netns]))?;
    ip(netns, &["link set lo up"])
}

/// Ends a named namespace; one that is not there is fine.
pub fn delete(netns: &str) -> Result<(), Error> {
    let file = netns_file(netns);
    if !file.exists() {
        return Ok(());
    }
    if run::output(&mut run::command("ip", ["netns", "del", netns])).is_ok() {
        return Ok(());
    }
    std::fs::remove_file(&file).map_err(Error::file("remove", file))
}

/// Runs `ip` with each of `lines` in the namespace.
pub fn ip(netns: &str, lines: &[&str]) -> Result<(), Error> {
    let batch = lines.join("\n");
    let mut command = run::command("ip", ["-n", netns, "-batch", "-"]);
    run::with_input(&mut command, batch.as_bytes()).map(drop)
}

/// Loads a ruleset in the namespace.
pub fn nft(netns: &str, rules: &str) -> Result<(), Error> {
    run::with_input(command(netns, "nft").args(["-f", "-"]), rules.as_bytes()).map(drop)
}

/// Sets kernel parameters of the namespace; `name` as below /proc/sys.
pub fn sysctl(netns: &str, settings: &[(&str, &str)]) -> Result<(), Error> {
    let script: String =
        settings.iter().map(|(name, value)| format!("echo {value} > /proc/sys/{name}\n")).collect();
    run::with_input(command(netns, "sh").arg("-e"), script.as_bytes()).map(drop)
}

/// Ends what the kernel still keeps of connections that were closed (TIME_WAIT, a minute each): to one address there are
/// only 28,000 ports to connect from, and the more of them are kept, the longer the next connect() looks for one.
/// `network` is the file of a namespace.
pub fn forget_closed(network: &Path) -> Result<(), Error> {
    let enter = format!("--net={}", network.display());
    let end = ["ss", "--kill", "--no-header", "--oneline", "--tcp", "state", "time-wait"];
    run::output(run::command("nsenter", [&enter, "--"]).args(end)).map(drop)
}
