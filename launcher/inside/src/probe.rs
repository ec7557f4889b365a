//! What this machine lets a user without rights do, found out by doing it: for `tp doctor`, and for the message when there is
//! nothing to enter.
//!
//! Settings tell only half of it: whether a namespace may be made is up to sysctls, AppArmor, SELinux, a container's
//! seccomp profile and the kernel's modules, of which most cannot be asked. So each step is made in a process of its own,
//! with the code that a run uses, and goes with it.
//!
//! One line of standard output a step: the [`Need`]'s name and an errno, 0 if it was done. What cannot be tried, because a
//! step before it failed, has none.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;

use nix::mount::{MsFlags, mount};
use nix::unistd::{Gid, Uid, getegid, geteuid};

use crate::filter::{self, FilterError};
use crate::hold::trial;

/// Something that a method needs of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// A user namespace, with this user in it.
    Users,
    /// A network namespace.
    Networks,
    /// A mount namespace, and a file over another in it.
    Mounts,
    /// A pair of links between two network namespaces.
    Link,
    /// A packet socket with a filter.
    Packets,
    /// Rules of nf_tables.
    Rules,
    /// The rule that has one socket take all datagrams.
    Tproxy,
    /// Rules that ask whether a socket takes a packet, and go with their owner.
    Sockets,
    /// A seccomp filter with a listener.
    Filter,
    /// The launcher takes a descriptor out of another process of this user.
    Reach,
    /// The launcher reads and writes memory of another process of this user.
    Memory,
    /// A network device whose packets a program reads.
    Tun,
    /// A file system that a program serves.
    Fuse,
}

impl Need {
    /// All, in the order in which they are tried.
    pub const ALL: [Self; 13] = [
        Self::Users,
        Self::Networks,
        Self::Mounts,
        Self::Link,
        Self::Packets,
        Self::Rules,
        Self::Tproxy,
        Self::Sockets,
        Self::Filter,
        Self::Reach,
        Self::Memory,
        Self::Tun,
        Self::Fuse,
    ];

    /// Its name in a line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Users => "users",
            Self::Networks => "networks",
            Self::Mounts => "mounts",
            Self::Link => "link",
            Self::Packets => "packets",
            Self::Rules => "rules",
            Self::Tproxy => "tproxy",
            Self::Sockets => "sockets",
            Self::Filter => "filter",
            Self::Reach => "reach",
            Self::Memory => "memory",
            Self::Tun => "tun",
            Self::Fuse => "fuse",
        }
    }
}

/// What is tried by `tp-inside probe`: what a private network takes, and what else needs its rights.
pub const NAMESPACES: &str = "namespaces";
/// The rights that it takes, which are what most machines lack that lack anything. This is quick.
pub const RIGHTS: &str = "rights";
/// A filter; it stays on until standard input ends, and its listener's number is in the line behind the errno.
pub const FILTER: &str = "filter";

/// `tp-inside probe SUBJECT`.
///
/// # Errors
/// If there is no such subject, or nobody reads.
pub fn probe(mut arguments: impl Iterator<Item = OsString>) -> Result<(), String> {
    let subject = arguments.next().unwrap_or_default();
    let told = match subject.to_str() {
        Some(NAMESPACES) => namespaces(),
        Some(RIGHTS) => rights(),
        Some(FILTER) => filter(),
        _ => return Err(format!("usage: tp-inside probe {NAMESPACES}|{RIGHTS}|{FILTER}")),
    };
    told.map_err(|error| error.to_string())
}

fn tell(need: Need, errno: i32, more: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{} {errno}{more}", need.name())?;
    out.flush()
}

/// Tells of a step; [`None`] if it was not done.
fn step<T>(need: Need, done: io::Result<T>) -> io::Result<Option<T>> {
    let errno = done.as_ref().err().map_or(0, |error| error.raw_os_error().unwrap_or(libc::EIO));
    tell(need, errno, "")?;
    Ok(done.ok())
}

fn rights() -> io::Result<()> {
    if step(Need::Users, trial::users())?.is_some() {
        step(Need::Networks, trial::network())?;
        step(Need::Mounts, trial::mounts())?;
    }
    Ok(())
}

fn namespaces() -> io::Result<()> {
    let (uid, gid) = (geteuid(), getegid());
    if step(Need::Users, trial::users())?.is_none() {
        return Ok(());
    }
    if let Some(app) = step(Need::Networks, trial::networks())? {
        step(Need::Link, trial::link(&app))?;
        step(Need::Packets, trial::packets())?;
        if step(Need::Rules, trial::rules())?.is_some() {
            step(Need::Tproxy, trial::tproxy())?;
            step(Need::Sockets, trial::sockets())?;
        }
        step(Need::Tun, tun())?;
    }
    if step(Need::Mounts, trial::mounts())?.is_some() {
        step(Need::Fuse, fuse(uid, gid))?;
    }
    Ok(())
}

fn tun() -> io::Result<()> {
    let device = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: ifreq is plain data for which all zeroes is a value: a device without a name is given one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the kernel reads and writes one ifreq, which outlives the call.
    let made = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if made < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Nobody serves it: it is never looked into.
fn fuse(uid: Uid, gid: Gid) -> io::Result<()> {
    let device = OpenOptions::new().read(true).write(true).open("/dev/fuse")?;
    let options = format!("fd={},rootmode=40000,user_id={uid},group_id={gid}", device.as_raw_fd());
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    Ok(mount(Some("tp"), "/tmp", Some("fuse"), flags, Some(options.as_str()))?)
}

fn filter() -> io::Result<()> {
    let listener = match filter::install() {
        Ok(listener) => listener,
        Err(FilterError::Busy) => return tell(Need::Filter, libc::EBUSY, ""),
        Err(FilterError::Refused(error)) => {
            return tell(Need::Filter, error.raw_os_error().unwrap_or(libc::EIO), "");
        }
    };
    tell(Need::Filter, 0, &format!(" {}", listener.as_raw_fd()))?;
    // No filter of ours waits for read(2).
    io::stdin().read(&mut [0]).map(drop)
}
