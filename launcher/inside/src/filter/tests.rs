use super::*;

/// What the kernel would do: runs the filter over a call (linux/filter.h, as much of it as the filter uses).
fn judge(arch: u32, number: u32, arguments: [u64; 6]) -> u32 {
    let program = program();
    let word = |at: u32| match at {
        NUMBER => number,
        ARCH => arch,
        at => {
            let argument = arguments[(at as usize - 16) / 8];
            if at % 8 == 0 { argument as u32 } else { (argument >> 32) as u32 }
        }
    };
    let (mut at, mut loaded) = (0, 0);
    loop {
        let statement = program[at];
        at += 1;
        let (k, code) = (statement.k, u32::from(statement.code));
        let jump = |so: bool| usize::from(if so { statement.jt } else { statement.jf });
        match code & 0x07 {
            libc::BPF_LD => loaded = word(k),
            libc::BPF_ALU => loaded &= k,
            libc::BPF_RET => return k,
            libc::BPF_JMP => match code & 0xf0 {
                libc::BPF_JA => at += k as usize,
                libc::BPF_JEQ => at += jump(loaded == k),
                libc::BPF_JGE => at += jump(loaded >= k),
                other => panic!("jump {other}"),
            },
            other => panic!("class {other}"),
        }
    }
}

const WAITS: u32 = libc::SECCOMP_RET_USER_NOTIF;
const GOES: u32 = libc::SECCOMP_RET_ALLOW;
const MISSING: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

const OWN: u32 = ARCHES[0].0;

#[test]
fn what_names_an_address_waits_and_nothing_else() {
    let null = [0; 6];
    let sends_to = [3, 0x1000, 5, 0, 0x2000, 16];
    // An address above 4 GiB whose lower half is 0.
    let sends_high = [3, 0x1000, 5, 0, 0x7fff_0000_0000, 16];
    for (call, arguments, verdict) in [
        (libc::SYS_connect, null, WAITS),
        (libc::SYS_sendmsg, null, WAITS),
        (libc::SYS_recvmmsg, null, WAITS),
        (libc::SYS_getpeername, null, WAITS),
        (libc::SYS_sendto, null, GOES),
        (libc::SYS_sendto, sends_to, WAITS),
        (libc::SYS_sendto, sends_high, WAITS),
        (libc::SYS_recvfrom, null, GOES),
        (libc::SYS_recvfrom, sends_high, WAITS),
        (libc::SYS_read, null, GOES),
        (libc::SYS_write, null, GOES),
        (libc::SYS_bind, null, GOES),
        (libc::SYS_accept4, null, GOES),
        (libc::SYS_execve, null, GOES),
        (libc::SYS_io_uring_setup, null, MISSING),
    ] {
        assert_eq!(judge(OWN, call as u32, arguments), verdict, "{call} {arguments:?}");
    }
}

#[test]
fn of_sockets_and_options_only_those_wait_that_matter() {
    let three = |a: c_int, b: c_int, c: c_int| [a as u64, b as u64, c as u64, 0, 0, 0];
    for (call, arguments, verdict) in [
        (libc::SYS_socket, three(libc::AF_INET, libc::SOCK_STREAM, 0), GOES),
        (libc::SYS_socket, three(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_MPTCP), WAITS),
        (libc::SYS_getsockopt, three(3, libc::SOL_SOCKET, libc::SO_ERROR), WAITS),
        (libc::SYS_getsockopt, three(3, libc::SOL_SOCKET, libc::SO_TYPE), GOES),
        (libc::SYS_setsockopt, three(3, libc::SOL_SOCKET, libc::SO_BINDTODEVICE), WAITS),
        (libc::SYS_setsockopt, three(3, libc::SOL_SOCKET, libc::SO_BINDTOIFINDEX), WAITS),
        (libc::SYS_setsockopt, three(3, libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT), WAITS),
        (libc::SYS_setsockopt, three(3, libc::SOL_SOCKET, libc::TCP_FASTOPEN_CONNECT), GOES),
        (libc::SYS_setsockopt, three(3, libc::IPPROTO_TCP, libc::TCP_NODELAY), GOES),
        (libc::SYS_openat, three(libc::AT_FDCWD, 0, libc::O_RDONLY | libc::O_CLOEXEC), WAITS),
        (libc::SYS_openat, three(libc::AT_FDCWD, 0, libc::O_WRONLY), GOES),
        (libc::SYS_openat, three(libc::AT_FDCWD, 0, libc::O_RDONLY | libc::O_DIRECTORY), GOES),
    ] {
        assert_eq!(judge(OWN, call as u32, arguments), verdict, "{call} {arguments:?}");
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn other_tables_of_an_x86_machine_are_known_or_there_is_nothing_in_them() {
    const I386: u32 = ARCHES[1].0;
    let socketcall = |call| [call, 0x1000, 0, 0, 0, 0];
    for (arch, call, arguments, verdict) in [
        (I386, 362, [0; 6], WAITS),
        (I386, 102, socketcall(3), WAITS),
        (I386, 102, socketcall(16), WAITS),
        (I386, 102, socketcall(2), GOES),
        (I386, 102, socketcall(9), GOES),
        (I386, 4, [0; 6], GOES),
        (I386, 425, [0; 6], MISSING),
        // x32's own connect(), and its write().
        (OWN, X32 | 42, [0; 6], MISSING),
        (OWN, X32 | 1, [0; 6], MISSING),
        (0xc000_00b7, 203, [0; 6], MISSING),
    ] {
        assert_eq!(judge(arch, call, arguments), verdict, "{arch:x} {call}");
    }
}

#[test]
fn the_kernel_takes_it() {
    // Linux takes at most 4096 statements (BPF_MAXINSNS).
    assert!(program().len() < 4096);
}
