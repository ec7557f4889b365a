//! A system call's number and arguments as what it is.
//!
//! Each machine has tables of its own, and a 64-bit x86 one runs programs of two (syscalls(2)). The tables here are those of the
//! filter (`launcher/inside/src/filter.rs`): what it does not know it does not have wait. Pure.

use super::layout::{Block, Width};
use crate::sys::seccomp::Notification;

/// A call that the filter caught.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    /// connect(2).
    Connect { fd: i32, to: Block },
    /// sendto(2) with an address.
    Send { fd: i32, data: Block, flags: i32, to: Block },
    /// sendmsg(2).
    SendMessage { fd: i32, header: u64, flags: i32 },
    /// sendmmsg(2).
    SendMessages { fd: i32, headers: u64, count: u64, flags: i32 },
    /// recvfrom(2) with room for an address; `length` is where its length is.
    Receive { fd: i32, data: Block, flags: i32, from: u64, length: u64 },
    /// recvmsg(2).
    ReceiveMessage { fd: i32, header: u64, flags: i32 },
    /// recvmmsg(2); `timeout` is null or a timespec of `wide_time` or of the program's width.
    ReceiveMessages { fd: i32, headers: u64, count: u64, flags: i32, timeout: u64, wide_time: bool },
    /// getpeername(2).
    PeerName { fd: i32, name: u64, length: u64 },
    /// getsockname(2).
    OwnName { fd: i32, name: u64, length: u64 },
    /// getsockopt(2) of `SO_ERROR`.
    Error { fd: i32, value: u64, length: u64 },
    /// setsockopt(2).
    SetOption { fd: i32, level: i32, name: i32, value: Block },
    /// socket(2) of a protocol that has to be another.
    Socket { domain: i32, kind: i32 },
    /// open(2) or openat(2) for reading.
    Open { path: u64, flags: i32 },
    /// openat2(2).
    OpenHow { path: u64, how: Block },
    /// socketcall(2): one of the above whose arguments are in memory.
    Several { which: u64, arguments: u64 },
}

/// `AUDIT_ARCH_I386` (linux/audit.h).
const I386: u32 = 0x4000_0003;

/// The call, and how wide its program is; [`None`] for one that the filter should have let go.
pub(super) fn read(caught: &Notification) -> Option<(Width, Call)> {
    if cfg!(target_arch = "x86_64") && caught.arch == I386 {
        return Some((Width::W32, i386(caught.number, caught.arguments)?));
    }
    Some((Width::W64, native(i64::from(caught.number), caught.arguments)?))
}

fn native(number: i64, arguments: [u64; 6]) -> Option<Call> {
    let [first, second, third, ..] = arguments;
    let which = match number {
        libc::SYS_socket => 1,
        libc::SYS_connect => 3,
        libc::SYS_getsockname => 6,
        libc::SYS_getpeername => 7,
        libc::SYS_sendto => 11,
        libc::SYS_recvfrom => 12,
        libc::SYS_setsockopt => 14,
        libc::SYS_getsockopt => 15,
        libc::SYS_sendmsg => 16,
        libc::SYS_recvmsg => 17,
        libc::SYS_recvmmsg => 19,
        libc::SYS_sendmmsg => 20,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_open => return Some(Call::Open { path: first, flags: int(second) }),
        libc::SYS_openat => return Some(Call::Open { path: second, flags: int(third) }),
        libc::SYS_openat2 => return Some(open_how(arguments)),
        _ => return None,
    };
    socketcall(which, arguments)
}

fn i386(number: i32, arguments: [u64; 6]) -> Option<Call> {
    // Its registers have 32 bits, of which the kernel tells no more.
    let arguments = arguments.map(|argument| argument & 0xffff_ffff);
    let [first, second, third, ..] = arguments;
    let which = match number {
        359 => 1,
        362 => 3,
        367 => 6,
        368 => 7,
        369 => 11,
        371 => 12,
        366 => 14,
        365 => 15,
        370 => 16,
        372 => 17,
        337 => 19,
        345 => 20,
        417 => return socketcall(19, arguments).map(with_wide_time),
        102 => return Some(Call::Several { which: first, arguments: second }),
        5 => return Some(Call::Open { path: first, flags: int(second) }),
        295 => return Some(Call::Open { path: second, flags: int(third) }),
        437 => return Some(open_how(arguments)),
        _ => return None,
    };
    socketcall(which, arguments)
}

/// A call by its number in socketcall(2) (linux/net.h), which is used here for all of them.
pub(super) fn socketcall(which: u64, [first, second, third, fourth, fifth, sixth]: [u64; 6]) -> Option<Call> {
    let fd = int(first);
    Some(match which {
        1 => Call::Socket { domain: int(first), kind: int(second) },
        3 => Call::Connect { fd, to: Block { at: second, length: third } },
        6 => Call::OwnName { fd, name: second, length: third },
        7 => Call::PeerName { fd, name: second, length: third },
        11 => Call::Send {
            fd,
            data: Block { at: second, length: third },
            flags: int(fourth),
            to: Block { at: fifth, length: sixth },
        },
        12 => Call::Receive {
            fd,
            data: Block { at: second, length: third },
            flags: int(fourth),
            from: fifth,
            length: sixth,
        },
        14 => Call::SetOption {
            fd,
            level: int(second),
            name: int(third),
            value: Block { at: fourth, length: fifth },
        },
        15 if (int(second), int(third)) == (libc::SOL_SOCKET, libc::SO_ERROR) => {
            Call::Error { fd, value: fourth, length: fifth }
        }
        16 => Call::SendMessage { fd, header: second, flags: int(third) },
        17 => Call::ReceiveMessage { fd, header: second, flags: int(third) },
        19 => Call::ReceiveMessages {
            fd,
            headers: second,
            count: third & 0xffff_ffff,
            flags: int(fourth),
            timeout: fifth,
            wide_time: false,
        },
        20 => Call::SendMessages { fd, headers: second, count: third & 0xffff_ffff, flags: int(fourth) },
        _ => return None,
    })
}

/// How many arguments a call of socketcall(2) has in memory.
pub(super) const fn socketcall_arguments(which: u64) -> usize {
    match which {
        11 | 12 => 6,
        14 | 15 | 19 => 5,
        20 => 4,
        _ => 3,
    }
}

const fn with_wide_time(call: Call) -> Call {
    match call {
        Call::ReceiveMessages { fd, headers, count, flags, timeout, .. } => {
            Call::ReceiveMessages { fd, headers, count, flags, timeout, wide_time: true }
        }
        other => other,
    }
}

const fn open_how([_, path, how, length, ..]: [u64; 6]) -> Call {
    Call::OpenHow { path, how: Block { at: how, length } }
}

/// The kernel takes an `int` from a register's lower half.
const fn int(argument: u64) -> i32 {
    (argument as u32).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caught(arch: u32, number: i64, arguments: [u64; 6]) -> Notification {
        Notification { id: 1, thread: 1, arch, number: number as i32, instruction: 0, arguments }
    }

    const OWN: u32 = 0;

    #[test]
    fn a_descriptor_is_an_int_and_a_length_is_not() {
        let arguments = [0xffff_ffff_ffff_ffff, 0x7fff_0000_1000, 16, 0, 0, 0];
        let to = Block { at: 0x7fff_0000_1000, length: 16 };
        assert_eq!(
            read(&caught(OWN, libc::SYS_connect, arguments)),
            Some((Width::W64, Call::Connect { fd: -1, to }))
        );
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn i386_has_numbers_of_its_own() {
        let connect = Call::Connect { fd: 3, to: Block { at: 0xfff0_1000, length: 16 } };
        let arguments = [3, 0xfff0_1000, 16, 0, 0, 0];
        assert_eq!(read(&caught(I386, 362, arguments)), Some((Width::W32, connect)));
        assert_eq!(socketcall(3, arguments), Some(connect));
        let several = Call::Several { which: 3, arguments: 0xfff0_2000 };
        assert_eq!(read(&caught(I386, 102, [3, 0xfff0_2000, 0, 0, 0, 0])), Some((Width::W32, several)));
        // In the other table this is the number of connect.
        assert_eq!(read(&caught(I386, 42, arguments)), None);
    }

    #[test]
    fn other_options_than_the_error_are_the_kernels() {
        let error = [3, libc::SOL_SOCKET as u64, libc::SO_ERROR as u64, 8, 9, 0];
        assert_eq!(socketcall(15, error), Some(Call::Error { fd: 3, value: 8, length: 9 }));
        assert_eq!(socketcall(15, [3, 6, libc::SO_ERROR as u64, 8, 9, 0]), None);
    }
}
