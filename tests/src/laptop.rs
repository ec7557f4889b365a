//! The laptop: a network namespace whose only neighbour is the node, and an unprivileged user in it.
//!
//! [`Laptop::command`] gives an ordinary `Command` whose child, between fork and exec, enters the namespaces and
//! becomes that user; so a case can pipe, kill and wait for it as for any child, and several run side by side. The
//! child gets a mount namespace of its own, in which the files that say who and where one is are the laptop's.

use std::ffi::{CString, OsStr};
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::{AccessFlags, Gid, Uid, access, chdir, setgid, setgroups, setuid};

use crate::layout::{GATEWAY_V4, LAPTOP_NETNS, LAPTOP_V4, netns_file};
use crate::pki::Authority;
use crate::{Error, Layout, methods, netns, node_network, run};

/// The laptop's user and group id: no account of any machine.
pub const UID: u32 = 47001;
/// The laptop's user.
pub const USER: &str = "dev";
/// A name that only the laptop's hosts file knows; its address is the laptop's own on the wire to the node.
pub const NEIGHBOUR: &str = "neighbour.test";
/// Devices that are open to everybody on people's machines, and may be closed here: path, major and minor number.
const DEVICES: [(&str, u64, u64); 2] = [("/dev/net/tun", 10, 200), ("/dev/fuse", 10, 229)];
/// What ssh of the laptop reads for all its users, if it reads this folder: as distributions and systemd have files there.
const SSH_SETTINGS: &str = "/etc/ssh/ssh_config.d";
/// Variables of the caller that the laptop's programs may see: they change how things look, not what they do.
const KEPT: [&str; 6] = ["TERM", "COLORTERM", "NO_COLOR", "RUST_LOG", "RUST_BACKTRACE", "TP_DEBUG"];

/// The laptop of a cluster that is up.
#[derive(Debug, Clone)]
pub struct Laptop {
    layout: Layout,
    prefix: PathBuf,
    network: &'static str,
}

impl Laptop {
    /// The laptop of the running cluster; fails when that is not up.
    pub fn attach(layout: Layout) -> Result<Self, Error> {
        crate::host::require_root()?;
        let missing = |why: &str| Err(Error::NotUp { why: why.to_owned() });
        if !netns::exists(LAPTOP_NETNS) {
            return missing("there is no laptop namespace");
        }
        if !layout.laptop().join("home/.kube/config").exists() {
            return missing("the laptop has no kubeconfig");
        }
        let prefix = layout.dist();
        Ok(Self { layout, prefix, network: LAPTOP_NETNS })
    }

    /// The same laptop with another network: what its programs send is not counted then.
    #[must_use]
    pub fn with_network(mut self, netns: &'static str) -> Self {
        self.network = netns;
        self
    }

    /// Takes `tp` from another installation than the default one.
    #[must_use]
    pub fn with_prefix(mut self, prefix: PathBuf) -> Self {
        self.prefix = prefix;
        self
    }

    /// Where `tp` is installed.
    pub fn prefix(&self) -> &Path {
        &self.prefix
    }

    /// The user's own folder, writable.
    pub fn home(&self) -> PathBuf {
        self.layout.laptop().join("home")
    }

    /// The folder for sockets, as XDG_RUNTIME_DIR names it.
    pub fn runtime_dir(&self) -> PathBuf {
        self.layout.laptop().join("runtime")
    }

    /// The files of /etc that are the laptop's own: where each lies, and whose place it takes.
    pub(crate) fn files(&self) -> [(PathBuf, &'static str); 4] {
        ["/etc/passwd", "/etc/group", "/etc/resolv.conf", "/etc/hosts"]
            .map(|path| (shadow(&self.layout, path), path))
    }

    /// Packets that tried to leave the laptop for elsewhere than the API server, since the last reset.
    pub fn leaks(&self) -> Result<u64, Error> {
        node_network::leaks()
    }

    /// Sets that count to zero.
    pub fn reset_leaks(&self) -> Result<(), Error> {
        node_network::reset_leaks()
    }

    /// Ends what its kernel keeps of closed connections, as [`netns::forget_closed`] has it.
    pub fn forget_closed(&self) -> Result<(), Error> {
        netns::forget_closed(&netns_file(self.network))
    }

    /// A command that will run on the laptop: its namespaces, user, environment and files.
    ///
    /// The working folder is the caller's where the user may read it, else home. (`Command::current_dir` has no
    /// effect: it would be judged as root. Use `env -C` or a shell.)
    pub fn command(&self, program: impl AsRef<OsStr>) -> Result<Command, Error> {
        self.command_in(&self.place(), program)
    }

    /// Its own network.
    pub(crate) fn place(&self) -> Place {
        Place {
            network: netns_file(self.network),
            resolv_conf: shadow(&self.layout, "/etc/resolv.conf"),
            hosts: shadow(&self.layout, "/etc/hosts"),
        }
    }

    /// The same user and files, with the network of another place.
    pub(crate) fn command_in(&self, place: &Place, program: impl AsRef<OsStr>) -> Result<Command, Error> {
        let mut command = Command::new(program);
        command.env_clear().envs(self.environment());
        let entry = Entry::new(&self.layout, place)?;
        // SAFETY: `enter` makes system calls only, on values made before the fork; it allocates nothing and takes no
        // lock, so it is fit for the child of a process with threads.
        unsafe { command.pre_exec(move || entry.enter()) };
        Ok(command)
    }

    fn environment(&self) -> Vec<(String, std::ffi::OsString)> {
        let bin = self.layout.bin();
        let mut path = self.prefix.join("bin").into_os_string();
        path.push(":/usr/local/bin:/usr/bin:/bin:");
        path.push(bin);
        let home = self.home();
        let mut environment: Vec<(String, std::ffi::OsString)> = vec![
            ("HOME".into(), home.clone().into()),
            ("KUBECONFIG".into(), home.join(".kube/config").into()),
            ("LANG".into(), "C.UTF-8".into()),
            ("LOGNAME".into(), USER.into()),
            ("PATH".into(), path),
            ("SHELL".into(), "/bin/bash".into()),
            ("USER".into(), USER.into()),
            ("XDG_RUNTIME_DIR".into(), self.runtime_dir().into()),
        ];
        let kept = KEPT.iter().filter_map(|&name| Some((name.to_owned(), std::env::var_os(name)?)));
        environment.extend(kept);
        if let Some(method) = std::env::var_os(methods::VARIABLE) {
            environment.push(("TP_METHOD".into(), method));
        }
        environment
    }

    /// Makes the laptop's files: home, kubeconfig, and what is mounted over /etc and /dev. Keeps what the user wrote.
    pub fn furnish(layout: &Layout) -> Result<(), Error> {
        let folder = layout.laptop();
        run::folder(&folder.join("etc"))?;
        let etc = |name: &str, contents: String| run::write(&folder.join("etc").join(name), contents);
        etc("resolv.conf", format!("nameserver {GATEWAY_V4}\noptions timeout:1 attempts:1\n"))?;
        etc(
            "hosts",
            format!(
                "127.0.0.1 localhost laptop\n::1 localhost ip6-localhost ip6-loopback\n{LAPTOP_V4} {NEIGHBOUR}\n"
            ),
        )?;
        let home = folder.join("home");
        etc(
            "passwd",
            format!(
                "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n\
                 {USER}:x:{UID}:{UID}:{USER}:{}:/bin/bash\n",
                home.display()
            ),
        )?;
        etc("group", format!("root:x:0:\nnogroup:x:65534:\n{USER}:x:{UID}:\n"))?;
        for owned in [home.clone(), home.join(".kube"), folder.join("runtime")] {
            run::folder(&owned)?;
            give(&owned, 0o700)?;
        }
        run::folder(&shadow(layout, SSH_SETTINGS))?;
        etc(
            "ssh/ssh_config.d/laptop.conf",
            "StrictHostKeyChecking no\nUserKnownHostsFile /dev/null\n".to_owned(),
        )?;
        for (path, major, minor) in DEVICES {
            device(&shadow(layout, path), major, minor)?;
        }
        let authority = Authority::load(&layout.run("pki"))?;
        let kubeconfig =
            authority.kubeconfig(&authority.issue("tp-admin", "system:masters", &[])?, "default");
        let config = home.join(".kube/config");
        run::write_mode(&config, kubeconfig, 0o600)?;
        give(&config, 0o600)
    }
}

/// Makes a file or folder the laptop user's.
fn give(path: &Path, mode: u32) -> Result<(), Error> {
    chown(path, Some(UID), Some(UID)).map_err(Error::file("give to the laptop's user", path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(Error::file("set the mode of", path))
}

/// Where the laptop's own version of a file of /etc or /dev lies.
fn shadow(layout: &Layout, path: &str) -> PathBuf {
    layout.laptop().join(path.trim_start_matches('/'))
}

fn device(path: &Path, major: u64, minor: u64) -> Result<(), Error> {
    if path.exists() {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        run::folder(folder)?;
    }
    mknod(path, SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(major, minor))
        .map_err(Error::system(format!("make the device {}", path.display())))?;
    // The mode given to mknod passes through the umask.
    fs::set_permissions(path, fs::Permissions::from_mode(0o666)).map_err(Error::file("set the mode of", path))
}

/// A network and what goes with it.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// The file of the network namespace.
    pub(crate) network: PathBuf,
    /// Its resolv.conf.
    pub(crate) resolv_conf: PathBuf,
    /// Its hosts file.
    pub(crate) hosts: PathBuf,
}

/// All that the child needs between fork and exec, made before the fork.
struct Entry {
    network: OwnedFd,
    mounts: Vec<(CString, CString)>,
    home: CString,
    here: Option<CString>,
}

impl Entry {
    fn new(layout: &Layout, place: &Place) -> Result<Self, Error> {
        let network = fs::File::open(&place.network).map_err(Error::file("open", &place.network))?.into();
        // A kernel without tun or fuse has no such device to open up: then a program finds none here either.
        let devices = DEVICES.iter().map(|(path, ..)| *path).filter(|path| Path::new(path).exists());
        let settings = Some(SSH_SETTINGS).filter(|path| Path::new(path).exists());
        let own = ["/etc/passwd", "/etc/group"].into_iter().chain(settings).chain(devices);
        let own = own.map(|path| (shadow(layout, path), path));
        let of_place = [(place.resolv_conf.clone(), "/etc/resolv.conf"), (place.hosts.clone(), "/etc/hosts")];
        let mounts =
            own.chain(of_place).map(|(source, path)| Ok((c_path(&source)?, c_path(Path::new(path))?)));
        Ok(Self {
            network,
            mounts: mounts.collect::<Result<_, Error>>()?,
            home: c_path(&layout.laptop().join("home"))?,
            here: std::env::current_dir().ok().and_then(|here| c_path(&here).ok()),
        })
    }

    /// Runs in the child. The order matters: mounts need root, and the working folder is judged as the user.
    fn enter(&self) -> io::Result<()> {
        const NOTHING: Option<&str> = None;
        setns(self.network.as_fd(), CloneFlags::CLONE_NEWNET)?;
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC)?;
        mount(NOTHING, c"/", NOTHING, MsFlags::MS_REC | MsFlags::MS_SLAVE, NOTHING)?;
        for (source, target) in &self.mounts {
            mount(Some(source.as_c_str()), target.as_c_str(), NOTHING, MsFlags::MS_BIND, NOTHING)?;
        }
        setgroups(&[])?;
        setgid(Gid::from_raw(UID))?;
        setuid(Uid::from_raw(UID))?;
        // By its name, as every program will: an open folder below a closed one is of no use.
        let usable = self.here.as_ref().is_some_and(|here| {
            chdir(here.as_c_str()).is_ok() && access(c".", AccessFlags::R_OK | AccessFlags::X_OK).is_ok()
        });
        if !usable {
            chdir(self.home.as_c_str())?;
        }
        Ok(())
    }
}

fn c_path(path: &Path) -> Result<CString, Error> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|error| Error::file("name", path)(io::Error::new(io::ErrorKind::InvalidInput, error)))
}
