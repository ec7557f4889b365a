//! Holds the private network of a run: makes it, makes sockets in it for the launcher, and ends it.
//!
//! # Theory of operation
//! The launcher has threads and no rights; a user namespace is entered by a process without threads, which has all rights
//! in it. So `tp-inside hold` is started by the launcher, makes one user namespace (uid and gid stay what they are), one
//! mount namespace and two network namespaces ([`links`] shows them): *app*, where programs are, and *gateway*, where
//! everything that they send ends. Then it does what it is [ordered](crate::orders), mostly: makes sockets.
//!
//! | it ends | with |
//! |---|---|
//! | the run in good order | [`Order::End`]: the gateway is nobody's any more, so the kernel takes it and the link away; who is still inside has no network, as with the shim |
//! | the launcher in any other way | the end of the socket: the link goes, programs see errors; soon they are ended, too ([`guardian`]) |
//! | this process, by kill -9 | the launcher closes its sockets, and the gateway is nobody's |
//!
//! Programs keep *app* alive for as long as there is one; nothing is left when the last has ended.
//!
//! Invariants: no packet leaves a network namespace of ours, for none has a link but to the other; the gateway's kernel
//! answers no SYN and no ping.

mod abort;
mod factory;
mod guardian;
mod links;
mod mounts;
mod rules;
pub(crate) mod trial;
pub mod volumes;
mod watch;

use std::ffi::OsString;
use std::fmt::Display;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockProtocol, SockType, recv, sendmsg,
};
use nix::unistd::{getegid, geteuid, setsid};
use tp_netfilter::{netlink, nftables};

use crate::orders::{Answer, Kind, MESSAGE_MAX, Order, Place};
use factory::Factory;
use links::Links;

/// What it is started with: the run's folder, and the pod's addresses.
struct Settings {
    folder: PathBuf,
    own: Vec<IpAddr>,
}

/// A step that the system refused.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {source}")]
struct Refused {
    step: &'static str,
    source: io::Error,
}

impl Refused {
    /// As the launcher is told.
    fn answer(&self) -> Answer {
        let errno = self.source.raw_os_error().unwrap_or(libc::EIO);
        Answer::Refused { errno, step: self.step.to_owned() }
    }
}

/// What an error becomes that was met in this step.
fn refuse(step: &'static str) -> impl Fn(io::Error) -> Refused {
    move |source| Refused { step, source }
}

/// `tp-inside hold FOLDER ADDRESS...`, with the launcher at the other end of standard input. Returns when the network is no
/// more.
///
/// # Errors
/// What is wrong with the arguments or with the launcher's socket; a network that cannot be made is the launcher's to tell.
pub fn hold(arguments: impl Iterator<Item = OsString>) -> Result<(), String> {
    let launcher = io::stdin();
    let settings = settings(arguments).ok_or("usage: tp-inside hold FOLDER ADDRESS...")?;
    leave_terminal()?;
    match Held::make(settings) {
        Ok(held) => held.serve(launcher.as_fd()).map_err(said),
        Err(refused) => send(launcher.as_fd(), &refused.answer(), &[]).map_err(said),
    }
}

/// What a terminal sends means the program. A kill of the terminal's whole group must leave whoever cleans up.
fn leave_terminal() -> Result<(), String> {
    let all = SigSet::all();
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&all), None).map_err(said)?;
    let _ = setsid();
    std::env::set_current_dir("/").map_err(said)
}

fn said(error: impl Display) -> String {
    error.to_string()
}

fn settings(mut arguments: impl Iterator<Item = OsString>) -> Option<Settings> {
    let folder = arguments.next()?.into();
    let own = arguments.map(|address| address.to_str()?.parse().ok()).collect::<Option<_>>()?;
    Some(Settings { folder, own })
}

/// All that there is of a private network.
struct Held {
    settings: Settings,
    v6: bool,
    factory: Factory,
    /// Speaks to the gateway's kernel.
    gateway: OwnedFd,
    /// Speaks to that of the programs' namespace.
    inside: OwnedFd,
    /// Owns the rules of the programs' loopback.
    loopback: OwnedFd,
    /// What the launcher has not been given yet.
    ready: Vec<OwnedFd>,
}

impl Held {
    fn make(settings: Settings) -> Result<Self, Refused> {
        let (uid, gid) = (geteuid(), getegid());
        unshare(CloneFlags::CLONE_NEWUSER).map_err(io::Error::from).map_err(refuse("a user namespace"))?;
        map(uid.as_raw(), gid.as_raw()).map_err(refuse("the mapping of the user"))?;
        let both = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS;
        unshare(both).map_err(io::Error::from).map_err(refuse("network and mount namespaces"))?;
        mounts::make(&settings.folder, uid).map_err(refuse("the pod's files over the laptop's"))?;
        permit(gid.as_raw());
        let open = |name: &str| std::fs::File::open(format!("/proc/self/ns/{name}")).map(OwnedFd::from);
        let user = open("user").map_err(refuse("the user namespace's file"))?;
        let app = open("net").map_err(refuse("the network namespace's file"))?;
        let mounts = open("mnt").map_err(refuse("the mount namespace's file"))?;
        let route = |_| netlink::open(SockProtocol::NetlinkRoute).map_err(refuse("a netlink socket"));
        let inside = route(())?;
        unshare(CloneFlags::CLONE_NEWNET)
            .map_err(io::Error::from)
            .map_err(refuse("a second network namespace"))?;
        // A program may use a port again for the same destination as soon as its own kernel lets it.
        let _ = set("tcp_tw_reuse", "1");
        let gateway = route(())?;
        let here = open("net").map_err(refuse("the network namespace's file"))?;
        let v6 = nix::sys::socket::socket(AddressFamily::Inet6, SockType::Datagram, SockFlag::empty(), None)
            .is_ok();
        let links = Links { own: &settings.own, v6 };
        links.make(&gateway, &app).map_err(refuse("a pair of links (veth)"))?;
        links.furnish(&inside).map_err(refuse("the pod's addresses"))?;
        let ours = app.try_clone().map_err(refuse("a descriptor"))?;
        let factory = Factory::new(app, here);
        let mut ready = vec![user, ours, mounts];
        let mut shared = |place| {
            let receivers =
                Self::shared(&factory, place, v6, &mut ready).map_err(refuse("sockets in the network"))?;
            let rules = nftables::open().map_err(refuse("nf_tables"))?;
            Ok((receivers, rules))
        };
        let (receivers, rules) = shared(Place::Gateway)?;
        rules::install(&rules, &receivers).map_err(refuse("rules of nf_tables (with tproxy)"))?;
        let (receivers, loopback) = shared(Place::App)?;
        rules::install_loopback(&loopback, &receivers)
            .map_err(refuse("rules of nf_tables for loopback (with socket and tproxy)"))?;
        ready.push(factory.socket(Place::App, Kind::Diagnose).map_err(refuse("sockets in the network"))?);
        factory.go(Place::Gateway).map_err(refuse("the second network namespace"))?;
        Ok(Self { settings, v6, factory, gateway, inside, loopback, ready })
    }

    /// The sockets that all connections share; where the datagrams go.
    fn shared(
        factory: &Factory,
        place: Place,
        v6: bool,
        ready: &mut Vec<OwnedFd>,
    ) -> io::Result<Vec<std::net::SocketAddr>> {
        let mut receivers = Vec::new();
        let v4 = [Kind::Watch4, Kind::Receive4, Kind::Raw4];
        let kinds =
            v4.into_iter().chain([Kind::Watch6, Kind::Receive6, Kind::Raw6].into_iter().filter(|_| v6));
        for kind in kinds {
            let made = factory.socket(place, kind)?;
            if matches!(kind, Kind::Receive4 | Kind::Receive6) {
                receivers.push(factory::bound(&made)?);
            }
            ready.push(made);
        }
        Ok(receivers)
    }

    /// Does what the launcher orders, until the end.
    fn serve(mut self, launcher: BorrowedFd<'_>) -> io::Result<()> {
        let ready = std::mem::take(&mut self.ready);
        let mut served = send(launcher, &Answer::Ready { v6: self.v6 }, &ready);
        drop(ready);
        let mut message = [0; MESSAGE_MAX];
        while served.is_ok() {
            let length = recv(launcher.as_raw_fd(), &mut message, MsgFlags::empty()).unwrap_or_default();
            match Order::decode(message.get(..length).unwrap_or_default()) {
                Some(Order::Sockets { place, kind, count }) => {
                    let made: io::Result<Vec<_>> =
                        (0..count).map(|_| self.factory.socket(place, kind)).collect();
                    served = answer(launcher, "sockets", made);
                }
                Some(Order::Files) => {
                    let bound = mounts::files(&self.settings.folder).map(|()| Vec::new());
                    served = answer(launcher, "the pod's files over the laptop's", bound);
                }
                Some(Order::End) => {
                    self.cut();
                    return Ok(());
                }
                None => break,
            }
        }
        self.cut();
        let _ = links::remove(&self.gateway);
        drop(self.loopback);
        guardian::end_all(self.factory.app());
        Ok(())
    }

    /// Takes the network away from whoever is inside. There is nobody left who could be told of what fails.
    fn cut(&self) {
        let _ = links::cut(&self.inside, &self.settings.own);
        let diagnose = self.factory.socket(Place::App, Kind::Diagnose);
        let _ = diagnose.and_then(|socket| abort::all(&socket));
        // The guardian ends all who are in there.
        let _ = self.factory.go(Place::Gateway);
    }
}

/// The user and the group are inside what they are outside (user_namespaces(7)).
fn map(uid: u32, gid: u32) -> io::Result<()> {
    let write = |name: &str, text: &str| std::fs::write(format!("/proc/self/{name}"), text);
    write("setgroups", "deny")?;
    write("uid_map", &format!("{uid} {uid} 1"))?;
    write("gid_map", &format!("{gid} {gid} 1"))
}

/// What programs may do in a container without rights: ping, and listen on low ports. Where /proc cannot be written, they
/// may not.
fn permit(gid: u32) {
    let _ = set("ping_group_range", &format!("{gid} {gid}"));
    let _ = set("ip_unprivileged_port_start", "0");
}

/// A setting of the network namespace in which this process is (ip-sysctl of the kernel's documentation).
fn set(name: &str, value: &str) -> io::Result<()> {
    std::fs::write(format!("/proc/sys/net/ipv4/{name}"), value)
}

fn answer(launcher: BorrowedFd<'_>, step: &str, made: io::Result<Vec<OwnedFd>>) -> io::Result<()> {
    match made {
        Ok(sockets) => send(launcher, &Answer::Done, &sockets),
        Err(error) => {
            let errno = error.raw_os_error().unwrap_or(libc::EIO);
            send(launcher, &Answer::Refused { errno, step: step.to_owned() }, &[])
        }
    }
}

fn send(launcher: BorrowedFd<'_>, answer: &Answer, descriptors: &[OwnedFd]) -> io::Result<()> {
    let descriptors: Vec<_> = descriptors.iter().map(OwnedFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let control = if descriptors.is_empty() { &[][..] } else { &rights };
    let message = answer.encode();
    sendmsg::<()>(
        launcher.as_raw_fd(),
        &[io::IoSlice::new(&message)],
        control,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    Ok(())
}
