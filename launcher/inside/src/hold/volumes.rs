//! Holds the place where a pod's volumes lie over the laptop's files, for the programs of one run alone.
//!
//! A mount namespace takes rights that a user has in a user namespace of his own, which a process without threads can make.
//! So `tp-inside volumes` makes both, mounts a file system in there that the launcher serves (fuse(4)), hands its device
//! and the namespaces over, and is told one path after the other: each is a mount of the pod's, and [`place`] puts that
//! folder or file of the file system over the laptop's. Everything else is the laptop's, also what is mounted there later;
//! but for a folder that has a [`cover`], which has in it what was there when the run began.
//!
//! | it ends | with |
//! |---|---|
//! | the run, or the launcher, in whatever way | the end of the socket: the folders that were made for mounts are removed |
//! | this process, by kill -9 | the next run, which finds in the run's folder what was made |
//!
//! The namespaces live as long as a program is in them. With the launcher its end of the device is gone, and what is read
//! from a volume then fails at once (`ENOTCONN`).
//!
//! Invariants: uid and gid stay what they are; nothing is mounted for anybody else; no file of the laptop's is changed.

mod cover;
mod kept;
mod place;

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{MsgFlags, recv};
use nix::unistd::{getegid, geteuid};

use super::{Refused, leave_terminal, map, mounts, refuse, said, send};
use crate::orders::{Answer, PATH_MAX};
pub use kept::{made_by, remove_empty};
use place::Places;

/// `tp-inside volumes FOLDER`, with the launcher at the other end of standard input. `FOLDER` is the run's, and has a folder
/// [`tp_abi::env::VOLUMES`] in it. Returns when the launcher wants no more.
///
/// # Errors
/// What is wrong with the arguments or with the launcher's socket; what cannot be mounted is the launcher's to tell.
pub fn hold(mut arguments: impl Iterator<Item = OsString>) -> Result<(), String> {
    let launcher = io::stdin();
    let folder: PathBuf = arguments.next().ok_or("usage: tp-inside volumes FOLDER")?.into();
    leave_terminal()?;
    let root = folder.join(tp_abi::env::VOLUMES);
    let made = make(&root).and_then(|ready| {
        let places = Places::new(&root, folder).map_err(refuse("the file system of the volumes"))?;
        Ok((ready, places))
    });
    match made {
        Ok((ready, mut places)) => {
            send(launcher.as_fd(), &Answer::Done, &ready).map_err(said)?;
            drop(ready);
            let served = serve(launcher.as_fd().as_raw_fd(), &mut places);
            places.remove();
            // Nobody may be there to hear it.
            let _ = send(launcher.as_fd(), &Answer::Done, &[]);
            served.map_err(said)
        }
        Err(refused) => send(launcher.as_fd(), &refused.answer(), &[]).map_err(said),
    }
}

/// Makes the namespaces, with the file system at `root`. Gives its device, the mount namespace, and the user namespace
/// unless none was needed: whoever may have mounts without one keeps all that his programs may do.
fn make(root: &Path) -> Result<Vec<OwnedFd>, Refused> {
    let (uid, gid) = (geteuid(), getegid());
    let open = |name: &str| std::fs::File::open(format!("/proc/self/ns/{name}")).map(OwnedFd::from);
    let mut user = None;
    if unshare(CloneFlags::CLONE_NEWNS).is_err() {
        unshare(CloneFlags::CLONE_NEWUSER).map_err(io::Error::from).map_err(refuse("a user namespace"))?;
        map(uid.as_raw(), gid.as_raw()).map_err(refuse("the mapping of the user"))?;
        unshare(CloneFlags::CLONE_NEWNS).map_err(io::Error::from).map_err(refuse("a mount namespace"))?;
        user = Some(open("user").map_err(refuse("the user namespace's file"))?);
    }
    mounts::take_no_part().map_err(refuse("mounts that are nobody else's"))?;
    if user.is_some() {
        mounts::owned(uid).map_err(refuse("copies of ssh's settings"))?;
    }
    let device = OpenOptions::new().read(true).write(true).open("/dev/fuse").map_err(refuse("/dev/fuse"))?;
    // Servers that root starts become other users.
    let others = if user.is_none() { ",allow_other" } else { "" };
    let fd = device.as_raw_fd();
    let options = format!("fd={fd},rootmode=40000,user_id={uid},group_id={gid}{others}");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tp"), root, Some("fuse.tp"), flags, Some(options.as_str()))
        .map_err(io::Error::from)
        .map_err(refuse("a file system of a program (fuse)"))?;
    let mounts = open("mnt").map_err(refuse("the mount namespace's file"))?;
    Ok([device.into(), mounts].into_iter().chain(user).collect())
}

/// Puts each path that the launcher sends in its place, until there are no more.
fn serve(launcher: i32, places: &mut Places) -> io::Result<()> {
    let mut message = [0; PATH_MAX];
    loop {
        let length = recv(launcher, &mut message, MsgFlags::empty()).unwrap_or_default();
        let Some(path @ [_, ..]) = message.get(..length) else { return Ok(()) };
        let path: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(path);
        let answer = places.put(Path::new(path)).map_or_else(|refused| refused.answer(), |()| Answer::Done);
        send(io::stdin().as_fd(), &answer, &[])?;
    }
}
