//! What programs inside see in place of the laptop's own files: the pod's `resolv.conf` and `hosts`, and no name service
//! of the laptop (they would answer for it).
//!
//! Everything else is the laptop's, also what is mounted there later: the namespace is a slave of the laptop's
//! (mount_namespaces(7)).

use std::io;
use std::path::Path;

use nix::mount::{MsFlags, mount};

/// The pod's files in the run's folder, and where they belong.
const FILES: [(&str, &str); 2] =
    [(tp_abi::env::RESOLV_CONF, "/etc/resolv.conf"), (tp_abi::env::HOSTS, "/etc/hosts")];
/// As in the shim (`decide::is_name_service`).
const NAME_SERVICES: [&str; 4] = [
    "/run/nscd/socket",
    "/run/systemd/resolve/io.systemd.Resolve",
    "/run/systemd/resolve/io.systemd.Resolve.Monitor",
    "/run/avahi-daemon/socket",
];
const NONE: Option<&str> = None;

/// Makes the mounts of a new namespace.
pub(super) fn make(folder: &Path) -> io::Result<()> {
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_SLAVE, NONE)?;
    for path in NAME_SERVICES.into_iter().filter(|path| Path::new(path).exists()) {
        bind(Path::new("/dev/null"), path)?;
    }
    files(folder)
}

/// Puts the pod's files over the laptop's, or over the ones that were the pod's until now. A run without a pod has none.
pub(super) fn files(folder: &Path) -> io::Result<()> {
    for (name, target) in FILES {
        let file = folder.join(name);
        if file.exists() && Path::new(target).exists() {
            bind(&file, target)?;
        }
    }
    Ok(())
}

/// `target` may be a symbolic link; then it is what that leads to.
fn bind(file: &Path, target: &str) -> io::Result<()> {
    Ok(mount(Some(file), target, NONE, MsFlags::MS_BIND, NONE)?)
}
