//! Does anybody still hold the app's socket, besides us?
//!
//! # Theory of operation
//! A close() reaches the kernel's socket only with the last descriptor, and while the pod dials the launcher holds one
//! too, to be able to refuse. So an app that closes its socket, or ends, tells nobody: the dial would go on, and the app's
//! port would stay taken. proc(5) tells: a descriptor of the socket is a link to `socket:[INODE]` in some process'
//! `fd` folder. The process that asked is looked at first; only if it has the socket no more all others are, since a
//! socket outlives its first process by dup, fork, exec and `SCM_RIGHTS`.
//!
//! Invariant: a socket counts as held unless it is sure that it is not. There is doubt where a process of the run
//! cannot be looked into, where descriptors are on their way between processes (`scm_fds` in fdinfo), and where an
//! io_uring keeps files of its own. A socket in transit between two looks is met by looking twice ([`super::watch`]).

use std::collections::HashSet;
use std::fs::{read_dir, read_link, read_to_string};
use std::io;
use std::path::Path;

use nix::sys::signal::kill;
use nix::unistd::Pid;

/// A socket as this module knows it: the inode number of its descriptors (fstat(2)), and who had it last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) inode: u64,
    pub(super) by: Pid,
}

/// The inodes of those sockets that no other process holds.
pub(super) fn unheld(sockets: &[Held]) -> HashSet<u64> {
    look(sockets).unwrap_or_default()
}

/// [`None`] in doubt.
fn look(sockets: &[Held]) -> Option<HashSet<u64>> {
    let own = Pid::this();
    // Another process namespace's /proc has other numbers than the kernel told us.
    if read_link("/proc/self").ok()? != Path::new(&own.to_string()) {
        return None;
    }
    let mut unheld: HashSet<u64> = sockets.iter().map(|held| held.inode).collect();
    let askers: HashSet<Pid> = sockets.iter().map(|held| held.by).collect();
    for asker in askers {
        match files_of(asker, |_, inode| _ = unheld.remove(&inode)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return None,
            // Hidden, or of another namespace (0, which is our own process group to kill(2)).
            Err(_) if asker.as_raw() == 0 || kill(asker, None).is_ok() => return None,
            _ => {}
        }
    }
    if unheld.is_empty() {
        return Some(unheld);
    }
    for process in read_dir("/proc").ok()?.flatten() {
        let Some(process) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let process = Pid::from_raw(process);
        if process == own {
            continue;
        }
        let mut doubt = false;
        let looked = files_of(process, |number, inode| {
            doubt |= !unheld.remove(&inode) && keeps_files(process, number);
        });
        let hidden = looked.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied);
        if doubt || (hidden && descends_from(process, own)) {
            return None;
        }
    }
    Some(unheld)
}

/// Calls `see` with the number and the inode of each socket and io_uring that a process has open.
fn files_of(process: Pid, mut see: impl FnMut(&str, u64)) -> io::Result<()> {
    for file in read_dir(format!("/proc/{process}/fd"))? {
        let file = file?;
        let Ok(link) = read_link(file.path()) else { continue };
        let link = link.as_os_str().as_encoded_bytes();
        let inode = link.strip_prefix(b"socket:[").and_then(|rest| rest.strip_suffix(b"]"));
        let inode = inode.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
        // An io_uring is no socket, and no socket's inode is 0.
        let inode = inode.or_else(|| (link == b"anon_inode:[io_uring]").then_some(0));
        if let (Some(inode), Some(number)) = (inode, file.file_name().to_str()) {
            see(number, inode);
        }
    }
    Ok(())
}

/// Whether there are files behind this one that no descriptor shows: in messages that nobody has received yet (unix(7)
/// sockets, Linux 5.10 on), or registered with an io_uring.
fn keeps_files(process: Pid, number: &str) -> bool {
    let info = read_to_string(format!("/proc/{process}/fdinfo/{number}")).unwrap_or_default();
    info.lines()
        .filter_map(|line| line.split_once(':'))
        .any(|(name, value)| matches!(name, "scm_fds" | "UserFiles") && !matches!(value.trim(), "0" | ""))
}

/// Whether `process` was started by `ancestor`, or by one that was.
fn descends_from(process: Pid, ancestor: Pid) -> bool {
    let parent = |process: Pid| {
        let status = read_to_string(format!("/proc/{process}/status")).ok()?;
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
        parent.trim().parse().ok().map(Pid::from_raw)
    };
    // No tree is that deep; numbers that are used anew could make a circle of it.
    std::iter::successors(Some(process), |process| parent(*process))
        .take(4096)
        .any(|process| process == ancestor)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::{AsFd, OwnedFd};
    use std::process::{Child, Command, Stdio};
    use std::time::{Duration, Instant};

    use super::*;

    fn inode(file: impl AsFd) -> u64 {
        nix::sys::stat::fstat(file).unwrap().st_ino
    }

    /// A process that has `socket` as its standard input and stays until it is killed.
    fn holder(socket: &TcpListener) -> Child {
        let copy = OwnedFd::from(socket.try_clone().unwrap());
        Command::new("sleep").arg("60").stdin(Stdio::from(copy)).spawn().unwrap()
    }

    fn pid(child: &Child) -> Pid {
        Pid::from_raw(child.id().cast_signed())
    }

    /// Another test's child has a copy of everything for a moment, and one's is a doubt for everybody.
    fn is_unheld_at_last(asked: Held) -> bool {
        let give_up = Instant::now() + Duration::from_secs(20);
        while Instant::now() < give_up {
            if unheld(&[asked]) == HashSet::from([asked.inode]) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }

    #[test]
    fn a_socket_is_held_by_whoever_asked_for_it_or_by_another() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let held = |by| Held { inode: inode(&socket), by };
        let (mut asker, mut other) = (holder(&socket), holder(&socket));
        assert!(unheld(&[held(pid(&asker))]).is_empty());
        let asked = held(pid(&asker));
        asker.kill().unwrap();
        asker.wait().unwrap();
        assert!(unheld(&[asked]).is_empty(), "the other one has it");
        other.kill().unwrap();
        other.wait().unwrap();
        // Nobody has it but this process.
        assert!(is_unheld_at_last(asked));
    }

    #[test]
    fn a_process_that_cannot_be_named_is_a_doubt() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(unheld(&[Held { inode: inode(&socket), by: Pid::from_raw(0) }]).is_empty());
    }

    #[test]
    fn a_socket_in_a_message_is_a_doubt() {
        use std::os::fd::AsRawFd as _;
        use std::os::unix::net::UnixStream;
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut other =
            Command::new("sleep").arg("60").stdin(Stdio::from(OwnedFd::from(theirs))).spawn().unwrap();
        let asked = Held { inode: inode(&socket), by: pid(&other) };
        assert!(is_unheld_at_last(asked));
        let rights = [socket.as_raw_fd()];
        let rights = [nix::sys::socket::ControlMessage::ScmRights(&rights)];
        let parts = [io::IoSlice::new(b"x")];
        let flags = nix::sys::socket::MsgFlags::empty();
        nix::sys::socket::sendmsg::<()>(ours.as_raw_fd(), &parts, &rights, flags, None).unwrap();
        assert!(unheld(&[asked]).is_empty());
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn a_child_descends_from_us_and_we_do_not_from_it() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        assert!(descends_from(pid(&child), Pid::this()));
        assert!(!descends_from(Pid::this(), pid(&child)));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
