//! The seccomp filter of `--method trap`: which of a program's system calls wait for the launcher (seccomp(2),
//! seccomp_unotify(2)).
//!
//! A filter sees a call's number and arguments and no memory, so it cannot tell where an address leads: every call that
//! names one waits, and the launcher lets go at once what is not its business. Calls that carry data on a socket that is
//! connected (read, write, and send and recv without an address) never wait.
//!
//! | system call table | done |
//! |---|---|
//! | this machine's own | as [`NATIVE`] says |
//! | i386, of a 64-bit x86 machine | as [`I386`] says |
//! | any other, x32 too | `ENOSYS` for each call: such a program does not get far |
//!
//! io_uring makes calls that no filter sees, so there is none: `ENOSYS`, as on a kernel without it.

use std::ffi::c_int;
use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd};

use libc::sock_filter;

/// Why there is no filter.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// Linux has one listener for all filters of a process.
    #[error(
        "a seccomp filter with a listener is on this process already (a sandbox that answers system calls itself): tp's cannot be added"
    )]
    Busy,
    /// The kernel does not know it, or something keeps it from being used.
    #[error(
        "a seccomp filter with a listener cannot be put on ({0}): it takes Linux 5.9 with CONFIG_SECCOMP_FILTER, and a sandbox around this process that allows seccomp(2)"
    )]
    Refused(#[source] io::Error),
}

/// When a call waits.
#[derive(Clone, Copy)]
enum When {
    Always,
    /// It fails with `ENOSYS`.
    Never,
    /// This argument is not null.
    Given(usize),
    /// This argument is one of these.
    Is(usize, &'static [u32]),
    /// The second and third argument are one of these pairs.
    Option(&'static [(c_int, c_int)]),
    /// This argument has no flag but those of reading a file.
    Reads(usize),
}

const PROTOCOL: usize = 2;
const TO: usize = 4;

/// `SO_ERROR` is the launcher's word where a connection failed.
const ASKED: &[(c_int, c_int)] = &[(libc::SOL_SOCKET, libc::SO_ERROR)];

/// Those that can keep a socket from loopback: `tp_abi::decide::option` judges them.
const SET: &[(c_int, c_int)] = &[
    (libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT),
    (libc::IPPROTO_IP, libc::IP_UNICAST_IF),
    (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_IF),
    (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO),
    (libc::SOL_SOCKET, libc::SO_BINDTODEVICE),
    (libc::SOL_SOCKET, libc::SO_BINDTOIFINDEX),
];

const MPTCP: &[u32] = &[libc::IPPROTO_MPTCP as u32];

/// An open with none of these reads a file: `/etc/resolv.conf` and `/etc/hosts` are the pod's.
const NOT_READING: u32 =
    (libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC | libc::O_PATH | libc::O_DIRECTORY) as u32;

/// This machine's own calls.
#[rustfmt::skip]
const NATIVE: &[(u32, When)] = &[
    (libc::SYS_connect as u32, When::Always),
    (libc::SYS_sendto as u32, When::Given(TO)),
    (libc::SYS_sendmsg as u32, When::Always),
    (libc::SYS_sendmmsg as u32, When::Always),
    (libc::SYS_recvfrom as u32, When::Given(TO)),
    (libc::SYS_recvmsg as u32, When::Always),
    (libc::SYS_recvmmsg as u32, When::Always),
    (libc::SYS_getpeername as u32, When::Always),
    (libc::SYS_getsockname as u32, When::Always),
    (libc::SYS_getsockopt as u32, When::Option(ASKED)),
    (libc::SYS_setsockopt as u32, When::Option(SET)),
    (libc::SYS_socket as u32, When::Is(PROTOCOL, MPTCP)),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_open as u32, When::Reads(1)),
    (libc::SYS_openat as u32, When::Reads(2)),
    (libc::SYS_openat2 as u32, When::Always),
    (libc::SYS_io_uring_setup as u32, When::Never),
];

/// Those of i386 (arch/x86/entry/syscalls/syscall_32.tbl).
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const I386: &[(u32, When)] = &[
    (102, When::Is(0, SOCKETCALLS)),
    (362, When::Always),            // connect
    (369, When::Given(TO)),         // sendto
    (370, When::Always),            // sendmsg
    (345, When::Always),            // sendmmsg
    (371, When::Given(TO)),         // recvfrom
    (372, When::Always),            // recvmsg
    (337, When::Always),            // recvmmsg
    (417, When::Always),            // recvmmsg_time64
    (368, When::Always),            // getpeername
    (367, When::Always),            // getsockname
    (365, When::Option(ASKED)),     // getsockopt
    (366, When::Option(SET)),       // setsockopt
    (359, When::Is(PROTOCOL, MPTCP)), // socket
    (5, When::Reads(1)),            // open
    (295, When::Reads(2)),          // openat
    (437, When::Always),            // openat2
    (425, When::Never),             // io_uring_setup
];

/// What socketcall(2) can be that may name an address: socket, connect, getsockname, getpeername, sendto, recvfrom,
/// setsockopt, getsockopt, sendmsg, recvmsg, recvmmsg and sendmmsg (linux/net.h). Its arguments are in memory.
#[cfg(target_arch = "x86_64")]
const SOCKETCALLS: &[u32] = &[1, 3, 6, 7, 11, 12, 14, 15, 16, 17, 19, 20];

/// `AUDIT_ARCH_*` (linux/audit.h).
#[cfg(target_arch = "x86_64")]
const ARCHES: &[(u32, &[(u32, When)])] = &[(0xc000_003e, NATIVE), (0x4000_0003, I386)];
#[cfg(target_arch = "aarch64")]
const ARCHES: &[(u32, &[(u32, When)])] = &[(0xc000_00b7, NATIVE)];

/// Numbers from here on are x32's (`__X32_SYSCALL_BIT`); no other table has so many.
const X32: u32 = 0x4000_0000;

/// Places in `struct seccomp_data`, which is little endian on all machines here.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;

const fn argument(number: usize) -> u32 {
    16 + 8 * number as u32
}

const WAIT: sock_filter = statement(libc::BPF_RET, libc::SECCOMP_RET_USER_NOTIF);
const ALLOW: sock_filter = statement(libc::BPF_RET, libc::SECCOMP_RET_ALLOW);
const NO_SUCH_CALL: sock_filter = statement(libc::BPF_RET, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32);

const fn statement(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

const fn load(at: u32) -> sock_filter {
    statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, at)
}

/// Skips so many statements if what was loaded is `k`, or if it is not.
const fn equals(k: u32, if_so: u8, if_not: u8) -> sock_filter {
    sock_filter { code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, jt: if_so, jf: if_not, k }
}

/// Skips `many` statements unless what was loaded is `k`.
fn unless(k: u32, many: usize) -> [sock_filter; 2] {
    // A conditional jump goes no further than 255 statements.
    [equals(k, 1, 0), statement(libc::BPF_JMP | libc::BPF_JA, many as u32)]
}

/// The whole filter.
fn program() -> Vec<sock_filter> {
    let mut program = vec![load(ARCH)];
    for (arch, calls) in ARCHES {
        let table = table(calls);
        program.extend(unless(*arch, table.len()));
        program.extend(table);
    }
    program.push(NO_SUCH_CALL);
    program
}

fn table(calls: &[(u32, When)]) -> Vec<sock_filter> {
    let at_least = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
    let mut table = vec![load(NUMBER), sock_filter { code: at_least, jt: 0, jf: 1, k: X32 }, NO_SUCH_CALL];
    for (number, when) in calls {
        let rule = rule(*when);
        table.extend(unless(*number, rule.len()));
        table.extend(rule);
    }
    table.push(ALLOW);
    table
}

/// What is done with a call; it ends in a verdict.
fn rule(when: When) -> Vec<sock_filter> {
    match when {
        When::Always => vec![WAIT],
        When::Never => vec![NO_SUCH_CALL],
        When::Given(number) => {
            let at = argument(number);
            vec![load(at), equals(0, 0, 2), load(at + 4), equals(0, 1, 0), WAIT, ALLOW]
        }
        When::Is(number, values) => {
            let tests = values.iter().flat_map(|value| [equals(*value, 0, 1), WAIT]);
            [load(argument(number))].into_iter().chain(tests).chain([ALLOW]).collect()
        }
        When::Option(options) => {
            let test = |(level, name): &(c_int, c_int)| {
                let (level, name) = (level.cast_unsigned(), name.cast_unsigned());
                [load(argument(1)), equals(level, 0, 3), load(argument(2)), equals(name, 0, 1), WAIT]
            };
            options.iter().flat_map(test).chain([ALLOW]).collect()
        }
        When::Reads(number) => {
            let and = statement(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, NOT_READING);
            vec![load(argument(number)), and, equals(0, 0, 1), WAIT, ALLOW]
        }
    }
}

/// Puts the filter on this thread and all that comes of it, for good; gives its listener.
///
/// # Errors
/// If that cannot be done.
pub fn install() -> Result<OwnedFd, FilterError> {
    let mut program = program();
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    let refused = || FilterError::Refused(io::Error::last_os_error());
    // Without it a filter takes privileges (seccomp(2)): a set-user-ID program must not be deceived.
    // SAFETY: prctl takes numbers here.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Err(refused());
    }
    let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    // SAFETY: the filter points to `len` statements that outlive the call, which copies them.
    let listener =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const filter) };
    match c_int::try_from(listener) {
        // SAFETY: the kernel has just made this descriptor, and nobody else has it.
        Ok(listener @ 0..) => Ok(unsafe { OwnedFd::from_raw_fd(listener) }),
        _ if io::Error::last_os_error().raw_os_error() == Some(libc::EBUSY) => Err(FilterError::Busy),
        _ => Err(refused()),
    }
}

/// Which setting keeps a launcher from a process of its own: it takes pidfd_getfd(2), which asks for the rights of
/// ptrace(2).
#[must_use]
pub fn what_forbids_looking() -> &'static str {
    // Yama is not in every kernel; 1 lets a parent in (Documentation/admin-guide/LSM/Yama.rst).
    match std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").as_deref().map(str::trim) {
        Ok("2" | "3") => "the sysctl kernel.yama.ptrace_scope is above 1, which keeps it from that",
        _ => {
            "a sandbox's seccomp profile forbids pidfd_getfd(2); in Docker, start the container with --cap-add SYS_PTRACE or a profile that allows it"
        }
    }
}

#[cfg(test)]
mod tests;
