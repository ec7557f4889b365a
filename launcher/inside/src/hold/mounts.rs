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
/// Where services of the laptop that resolve names have their sockets: as in the shim (`decide::is_name_service`).
const NAME_SERVICES: [&str; 3] = ["/run/nscd", "/run/systemd/resolve", "/run/avahi-daemon"];
const NONE: Option<&str> = None;

/// Makes the mounts of a new namespace.
pub(super) fn make(folder: &Path) -> io::Result<()> {
    take_no_part()?;
    for folder in NAME_SERVICES.into_iter().filter(|folder| Path::new(folder).is_dir()) {
        without_sockets(Path::new(folder))?;
    }
    files(folder)
}

/// What is mounted in a new namespace is seen nowhere else; what is mounted on the laptop is seen in it.
pub(super) fn take_no_part() -> io::Result<()> {
    Ok(mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_SLAVE, NONE)?)
}

/// Puts an empty folder over one, with copies of its files (/etc/resolv.conf leads to one of systemd-resolved's), so that
/// there is no socket in it, also of a service that starts later.
fn without_sockets(folder: &Path) -> io::Result<()> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)?.flatten().filter(|entry| entry.path().is_file()) {
        // One that this user cannot read is missing, which is as good.
        files.extend(std::fs::read(entry.path()).map(|contents| (entry.path(), contents)));
    }
    mount(Some("tmpfs"), folder, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=0755"))?;
    files.into_iter().try_for_each(|(path, contents)| std::fs::write(path, contents))
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
