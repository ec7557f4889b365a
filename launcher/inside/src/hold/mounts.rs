//! What programs inside see in place of the laptop's own files: the pod's `resolv.conf` and `hosts`, no name service of the
//! laptop (they would answer for it), and copies of what must be root's or the user's own.
//!
//! A user namespace that a user makes has him in it and nobody else, so root's files are those of `nobody`
//! (user_namespaces(7)). ssh does not start if a file is, that the system's ssh_config(5) includes; and distributions and
//! systemd put some there.
//!
//! Everything else is the laptop's, also what is mounted there later: the namespace is a slave of the laptop's
//! (mount_namespaces(7)).

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::unistd::Uid;

/// The pod's files in the run's folder, and where they belong.
const FILES: [(&str, &str); 2] =
    [(tp_abi::env::RESOLV_CONF, "/etc/resolv.conf"), (tp_abi::env::HOSTS, "/etc/hosts")];
/// Where services of the laptop that resolve names have their sockets: as in the shim (`decide::is_name_service`).
const NAME_SERVICES: [&str; 3] = ["/run/nscd", "/run/systemd/resolve", "/run/avahi-daemon"];
/// Where the files are that ssh includes by itself: Debian's and Fedora's, SUSE's, and those to which Fedora's leads.
const OWNED: [&str; 3] =
    ["/etc/ssh/ssh_config.d", "/usr/etc/ssh/ssh_config.d", "/etc/crypto-policies/back-ends"];
const NONE: Option<&str> = None;

/// Makes the mounts of a new namespace, in which this user is alone.
pub(super) fn make(folder: &Path, user: Uid) -> io::Result<()> {
    take_no_part()?;
    owned(user)?;
    for folder in NAME_SERVICES.into_iter().filter(|folder| Path::new(folder).is_dir()) {
        copies(Path::new(folder))?;
    }
    files(folder)
}

/// What is mounted in a new namespace is seen nowhere else; what is mounted on the laptop is seen in it.
pub(super) fn take_no_part() -> io::Result<()> {
    Ok(mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_SLAVE, NONE)?)
}

/// Makes the user's own what would be nobody's.
pub(super) fn owned(user: Uid) -> io::Result<()> {
    let is_nobodys = |folder: &Path| {
        folder.metadata().is_ok_and(|there| there.is_dir() && there.uid() != user.as_raw()) && !user.is_root()
    };
    OWNED.iter().map(Path::new).filter(|folder| is_nobodys(folder)).try_for_each(copies)
}

/// Puts an empty folder over one, with copies of its files (/etc/resolv.conf leads to one of systemd-resolved's), which are
/// the user's own. There is no socket in it, also of a service that starts later.
fn copies(folder: &Path) -> io::Result<()> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)?.flatten().filter(|entry| entry.path().is_file()) {
        // One that this user cannot read is missing, which is as good.
        files.extend(std::fs::read(entry.path()).map(|contents| (entry.path(), contents)));
    }
    mount(Some("tmpfs"), folder, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=0755"))?;
    // Whatever the umask is, nobody else may write to them: ssh looks at that, too.
    let create = |path: &Path| OpenOptions::new().write(true).create_new(true).mode(0o644).open(path);
    files.into_iter().try_for_each(|(path, contents)| create(&path)?.write_all(&contents))
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
