//! Starting the cluster's components so that they outlive this process, and finding all that is left of them.
//!
//! A process id in a file is no proof of anything after a crash or a reboot, so what belongs to the cluster is found
//! by marks that the kernel keeps: a variable in the environment (inherited by containerd's shims), the pods' cgroup,
//! and the laptop's network namespace.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::layout::{CGROUP, LAPTOP_NETNS, NODE_NETNS, netns_file};
use crate::{Error, Layout, netns, run};

/// The variable whose value is the state folder of the cluster that a process belongs to.
const MARK: &str = "TP_CLUSTER_MEMBER";

/// A component that was just started.
#[derive(Debug)]
pub struct Daemon {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts `program` in the node's network namespace, in a session of its own, with its output in the log.
    pub fn start<'a>(
        layout: &Layout,
        name: &'static str,
        program: &Path,
        arguments: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, Error> {
        let log = layout.log(name);
        let file = File::create(&log).map_err(Error::file("create", &log))?;
        let copy = file.try_clone().map_err(Error::file("open", &log))?;
        let mut command = netns::command(NODE_NETNS, program);
        command
            .args(arguments)
            .current_dir("/")
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", layout.run(""))
            .env(MARK, layout.state())
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(copy);
        // SAFETY: setsid is one system call, async-signal-safe, and touches no memory of this process.
        unsafe { command.pre_exec(|| nix::unistd::setsid().map(drop).map_err(Into::into)) };
        let child =
            command.spawn().map_err(|source| Error::Start { program: run::shown(&command), source })?;
        run::write(&layout.run(format!("{name}.pid")), child.id().to_string())?;
        Ok(Self { name, child, log })
    }

    /// Fails when the component has ended, which none ever should.
    pub fn check(&mut self) -> Result<(), Error> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            _ => Err(Error::Ended {
                what: self.name.to_owned(),
                log: self.log.clone(),
                tail: run::tail(&self.log, 15),
            }),
        }
    }
}

/// Does the component that `name`.pid names still run?
pub fn is_alive(layout: &Layout, name: &str) -> bool {
    let pid =
        fs::read_to_string(layout.run(format!("{name}.pid"))).ok().and_then(|pid| pid.trim().parse().ok());
    pid.is_some_and(|pid| is_marked(pid, &mark(layout)) && !is_zombie(pid))
}

/// Ends every process of the cluster and of the laptop at once: there is nothing to save.
pub fn kill_all(layout: &Layout) -> Result<(), Error> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let members = members(layout);
        if members.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(Error::Immortal { pids: members.into_iter().collect() });
        }
        for &pid in &members {
            // It may have ended in the meantime.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        // The kernel has no event for "all of these have ended" that works for processes that are not our children.
        thread::sleep(Duration::from_millis(50));
    }
}

/// The processes that belong to the cluster, this one excepted.
fn members(layout: &Layout) -> BTreeSet<i32> {
    let mark = mark(layout);
    let namespaces: Vec<_> =
        [NODE_NETNS, LAPTOP_NETNS].iter().filter_map(|name| netns::inode(&netns_file(name))).collect();
    let own = netns::inode(Path::new("/proc/self/ns/net"));
    let Ok(processes) = fs::read_dir("/proc") else { return BTreeSet::new() };
    processes
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|&pid| pid.unsigned_abs() != std::process::id() && !is_zombie(pid))
        .filter(|&pid| {
            let network = netns::inode(&PathBuf::from(format!("/proc/{pid}/ns/net")));
            let inside =
                network.is_some() && network != own && namespaces.iter().any(|&id| Some(id) == network);
            inside || is_marked(pid, &mark) || is_in_cgroup(pid)
        })
        .collect()
}

fn mark(layout: &Layout) -> Vec<u8> {
    [MARK.as_bytes(), b"=", layout.state().as_os_str().as_bytes()].concat()
}

fn is_marked(pid: i32, mark: &[u8]) -> bool {
    fs::read(format!("/proc/{pid}/environ"))
        .is_ok_and(|block| block.split(|&byte| byte == 0).any(|entry| entry == mark))
}

fn is_in_cgroup(pid: i32) -> bool {
    let below = format!("/{CGROUP}/");
    fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|groups| {
        groups.lines().filter_map(|line| line.splitn(3, ':').nth(2)).any(|path| path.starts_with(&below))
    })
}

/// A process that has ended and waits to be read by its parent: nothing can end it again.
fn is_zombie(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['Z', 'X'])))
}

/// Unmounts everything below `folder`, the last mounted first.
pub fn unmount_below(folder: &Path) -> Result<(), Error> {
    let mounts = Path::new("/proc/self/mountinfo");
    let table = fs::read_to_string(mounts).map_err(Error::file("read", mounts))?;
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape);
    let mut below: Vec<PathBuf> = points.filter(|point| point.starts_with(folder)).collect();
    below.reverse();
    for point in below {
        umount2(&point, MntFlags::MNT_DETACH)
            .map_err(Error::system(format!("unmount {}", point.display())))?;
    }
    Ok(())
}

/// mountinfo writes blanks and backslashes as three octal digits (proc(5)).
fn unescape(field: &str) -> PathBuf {
    let mut path = String::new();
    let mut rest = field;
    while let Some((before, after)) = rest.split_once('\\') {
        path.push_str(before);
        let code = after.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        path.push(code.map_or('\\', char::from));
        rest = after.get(3..).unwrap_or_default();
    }
    path.push_str(rest);
    PathBuf::from(path)
}

/// The folder of every cgroup hierarchy: one in version 2, one a controller in version 1.
fn hierarchies() -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    if root.join("cgroup.controllers").exists() {
        return vec![root.to_owned()];
    }
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir() && !path.is_symlink()).collect()
}

/// Makes the cgroup of all pods, which kubelet wants to find.
pub fn create_cgroups() -> Result<(), Error> {
    for hierarchy in hierarchies() {
        // In version 2 a group has the controllers that its parent hands down. A root that may not hand one down (in
        // a container) says so by EBUSY, and kubelet then names the controller that it misses.
        for controller in
            fs::read_to_string(hierarchy.join("cgroup.controllers")).unwrap_or_default().split_whitespace()
        {
            let _ = fs::write(hierarchy.join("cgroup.subtree_control"), format!("+{controller}"));
        }
        let group = hierarchy.join(CGROUP);
        run::folder(&group)?;
        // In version 1 a new cpuset is empty, and nothing can run in it.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if let (Ok(value), true) = (fs::read(hierarchy.join(file)), group.join(file).exists()) {
                fs::write(group.join(file), value).map_err(Error::file("write", group.join(file)))?;
            }
        }
    }
    Ok(())
}

/// Removes the cgroups of all pods, the deepest first; they must be empty.
pub fn remove_cgroups() {
    fn remove(folder: &Path) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                remove(&entry.path());
            }
        }
        // A group that is still busy is found again by the next `up`, which can live with it.
        let _ = fs::remove_dir(folder);
    }
    for hierarchy in hierarchies() {
        remove(&hierarchy.join(CGROUP));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_with_blanks_are_read() {
        assert_eq!(unescape("/a\\040b\\134c"), PathBuf::from("/a b\\c"));
        assert_eq!(unescape("/plain"), PathBuf::from("/plain"));
    }

    #[test]
    fn this_process_is_no_zombie_and_no_member() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(!is_zombie(own));
        assert!(!is_in_cgroup(own));
        assert!(!is_marked(own, b"TP_CLUSTER_MEMBER=/nowhere"));
    }
}
