//! One question to the launcher and its answer: connect, send, receive, close.
//!
//! A program may close every descriptor it finds and may fork between any two instructions, so nothing stays open
//! between questions. The socket is `SOCK_SEQPACKET` (unix(7)): one message is one datagram, and the launcher's death
//! shows as end of file, so a question never outlives the launcher.
//!
//! Invariants: the launcher is believed only if it runs as the same user as the program (`SO_PEERCRED`); a message
//! that does not parse is no answer; the descriptor is closed on every way out.

use crate::config::{Config, SOCKET_PATH_MAX};
use crate::sys::{self, Errno, Owned, register};
use core::ffi::{c_int, c_void};
use tp_abi::wire::{Answer, Question};

/// Room for a question about a socket and its answer. Small, because connect() may run on a signal stack.
pub(crate) type Slip = [u8; 128];

/// Room for the answer to a start: a path of the launcher's own.
pub(crate) type Sheet = [u8; 1024];

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unanswered {
    /// Nobody is there, or somebody who is not the launcher, or something that is no answer.
    Gone,
    /// The program is out of descriptors or memory: its own errno, not the network's.
    Exhausted(c_int),
}

/// Asks the launcher. `fd` goes along where the question is about a descriptor. The answer is read into `room`.
pub(crate) fn ask<'r, const N: usize>(
    config: &Config,
    question: &Question<'_>,
    fd: Option<c_int>,
    room: &'r mut [u8; N],
) -> Result<Answer<'r>, Unanswered> {
    let length = question.encode(room).ok_or(Unanswered::Gone)?;
    let length = exchange(config, fd, room, length)?;
    room.get(..length).and_then(Answer::decode).ok_or(Unanswered::Gone)
}

/// Tells the launcher something that it does not answer.
pub(crate) fn tell(config: &Config, question: &Question<'_>) -> Result<(), Unanswered> {
    let mut room: Slip = [0; _];
    let length = question.encode(&mut room).ok_or(Unanswered::Gone)?;
    let message = room.get(..length).ok_or(Unanswered::Gone)?;
    said(config, message, None).map(drop)
}

/// Sends the first `length` bytes of `room`, a question, and reads the answer into it: its length.
pub(crate) fn exchange<const N: usize>(
    config: &Config,
    fd: Option<c_int>,
    room: &mut [u8; N],
    length: usize,
) -> Result<usize, Unanswered> {
    let message = room.get(..length).ok_or(Unanswered::Gone)?;
    let socket = said(config, message, fd)?;
    receive(socket.fd(), room).map_err(|_| Unanswered::Gone)
}

/// Sends a message with a descriptor or none; gives the socket.
fn said(config: &Config, message: &[u8], fd: Option<c_int>) -> Result<Owned, Unanswered> {
    let socket = match sys::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC) {
        Ok(socket) => socket,
        Err(Errno(errno @ (libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS))) => {
            return Err(Unanswered::Exhausted(errno));
        }
        Err(_) => return Err(Unanswered::Gone),
    };
    reach(config, socket.fd()).ok_or(Unanswered::Gone)?;
    send(socket.fd(), message, fd).map_err(|_| Unanswered::Gone)?;
    Ok(socket)
}

/// Connects to the launcher and makes sure that it is one.
fn reach(config: &Config, fd: c_int) -> Option<()> {
    let path = config.socket_path()?;
    let mut address = libc::sockaddr_un {
        sun_family: u16::try_from(libc::AF_UNIX).ok()?,
        sun_path: [0; SOCKET_PATH_MAX + 1],
    };
    for (to, from) in address.sun_path.iter_mut().zip(path) {
        *to = from.cast_signed() as libc::c_char;
    }
    let length = size_of::<libc::sockaddr_un>();
    // SAFETY: the kernel reads `length` bytes of `address`, which ends with a NUL as the path is at most
    // SOCKET_PATH_MAX long.
    again(|| unsafe {
        let address = (&raw const address).expose_provenance();
        sys::call(libc::SYS_connect, [register(fd), address, length, 0, 0, 0])
    })
    .ok()?;
    let peer: Credentials = sys::option(fd, libc::SOL_SOCKET, libc::SO_PEERCRED)?;
    (peer.uid == sys::uid()).then_some(())
}

/// `struct ucred` of unix(7).
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Credentials {
    pid: libc::pid_t,
    uid: libc::uid_t,
    gid: libc::gid_t,
}

/// A control message with one descriptor: `CMSG_LEN(sizeof(int))`, and `CMSG_SPACE` by the alignment.
#[repr(C, align(8))]
struct Rights {
    length: usize,
    level: c_int,
    kind: c_int,
    fd: c_int,
    padding: c_int,
}

fn send(socket: c_int, message: &[u8], fd: Option<c_int>) -> Result<(), Errno> {
    let mut rights = Rights {
        length: core::mem::offset_of!(Rights, padding),
        level: libc::SOL_SOCKET,
        kind: libc::SCM_RIGHTS,
        fd: fd.unwrap_or(-1),
        padding: 0,
    };
    let mut part = libc::iovec { iov_base: message.as_ptr().cast_mut().cast(), iov_len: message.len() };
    let mut header = header(&mut part);
    if fd.is_some() {
        header.msg_control = (&raw mut rights).cast::<c_void>();
        header.msg_controllen = size_of::<Rights>() as _;
    }
    let at = (&raw const header).expose_provenance();
    // MSG_NOSIGNAL: a launcher that just died must not kill the program by SIGPIPE.
    let flags = register(libc::MSG_NOSIGNAL);
    // SAFETY: `header` points at one part and one control message, both alive; the kernel only reads them.
    again(|| unsafe { sys::call(libc::SYS_sendmsg, [register(socket), at, flags, 0, 0, 0]) })?;
    Ok(())
}

fn receive(socket: c_int, room: &mut [u8]) -> Result<usize, Errno> {
    let mut part = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
    let mut header = header(&mut part);
    let at = (&raw mut header).expose_provenance();
    // SAFETY: `header` points at one part of `room.len()` writable bytes and at no control buffer.
    let length = again(|| unsafe { sys::call(libc::SYS_recvmsg, [register(socket), at, 0, 0, 0, 0]) })?;
    if header.msg_flags & libc::MSG_TRUNC != 0 {
        return Err(Errno(libc::EMSGSIZE));
    }
    Ok(length)
}

fn header(part: &mut libc::iovec) -> libc::msghdr {
    // SAFETY: `msghdr` is integers and pointers, for which zero is a value.
    let mut header: libc::msghdr = unsafe { core::mem::zeroed() };
    header.msg_iov = part;
    header.msg_iovlen = 1;
    header
}

/// The exchange takes microseconds or waits for the network's own answer; a signal does not end it, and the
/// program's call that follows shows EINTR where it must.
fn again(mut call: impl FnMut() -> Result<usize, Errno>) -> Result<usize, Errno> {
    loop {
        match call() {
            Err(Errno(libc::EINTR)) => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_control_message_is_laid_out_as_cmsg_says() {
        // SAFETY: both are pure arithmetic.
        unsafe {
            assert_eq!(core::mem::offset_of!(Rights, padding), libc::CMSG_LEN(4) as usize);
            assert_eq!(size_of::<Rights>(), libc::CMSG_SPACE(4) as usize);
        }
        assert_eq!(core::mem::offset_of!(Rights, level), core::mem::offset_of!(libc::cmsghdr, cmsg_level));
        assert_eq!(core::mem::offset_of!(Rights, kind), core::mem::offset_of!(libc::cmsghdr, cmsg_type));
    }

    #[test]
    fn the_credentials_are_the_kernels() {
        assert_eq!(size_of::<Credentials>(), size_of::<libc::ucred>());
        assert_eq!(core::mem::offset_of!(Credentials, uid), core::mem::offset_of!(libc::ucred, uid));
    }

    #[test]
    fn the_numbers_of_the_shared_table_are_libcs() {
        use tp_abi::errno::{code, eai, host};
        for (ours, libcs) in [
            (code::EPERM, libc::EPERM),
            (code::EACCES, libc::EACCES),
            (code::ENFILE, libc::ENFILE),
            (code::ENETDOWN, libc::ENETDOWN),
            (code::ENETUNREACH, libc::ENETUNREACH),
            (code::ECONNABORTED, libc::ECONNABORTED),
            (code::ECONNRESET, libc::ECONNRESET),
            (code::ENOBUFS, libc::ENOBUFS),
            (code::ETIMEDOUT, libc::ETIMEDOUT),
            (code::ECONNREFUSED, libc::ECONNREFUSED),
            (code::EHOSTUNREACH, libc::EHOSTUNREACH),
            (eai::NONAME, libc::EAI_NONAME),
            (eai::AGAIN, libc::EAI_AGAIN),
            (eai::FAIL, libc::EAI_FAIL),
            (eai::NODATA, libc::EAI_NODATA),
            (eai::MEMORY, libc::EAI_MEMORY),
            // netdb.h; the libc crate has none of these.
            (host::INTERNAL, -1),
            (host::NOT_FOUND, 1),
            (host::TRY_AGAIN, 2),
            (host::NO_RECOVERY, 3),
            (host::NO_DATA, 4),
        ] {
            assert_eq!(ours, libcs);
        }
    }

    #[test]
    fn the_kernels_numbers_are_libcs() {
        macro_rules! same {
            ($($name:ident)*) => { $(assert_eq!(tp_abi::number::$name, libc::$name);)* };
        }
        same! {
            AF_UNSPEC AF_UNIX AF_INET AF_INET6 SOCK_STREAM SOCK_DGRAM SOCK_RAW IPPROTO_IP IPPROTO_ICMP IPPROTO_TCP
            IPPROTO_UDP IPPROTO_IPV6 IPPROTO_SCTP IPPROTO_UDPLITE IPPROTO_MPTCP SOL_SOCKET SO_BINDTODEVICE
            SO_BINDTOIFINDEX TCP_FASTOPEN_CONNECT IP_PKTINFO IP_UNICAST_IF IPV6_PKTINFO IPV6_UNICAST_IF
        }
        assert_eq!(size_of::<libc::sockaddr_in6>(), tp_abi::sockaddr::ROOM);
    }
}
