//! System calls made without libc.
//!
//! The shim's own conversation with the launcher must not come back into its own hooks, must not be a cancellation
//! point in the middle of a program's call, and must not touch `errno`. libc's wrappers are and do all three, so the
//! instruction is issued here. Numbers and registers: syscall(2), "Architecture calling conventions".
//!
//! This is the only file with assembler apart from the variadic entry points (hooks/exec/variadic.rs).

use core::sync::atomic::AtomicU32;
use libc::{c_int, c_long, c_void};

/// A failed system call's errno.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Errno(pub(crate) c_int);

#[cfg(target_arch = "x86_64")]
unsafe fn raw(number: c_long, a: [usize; 6]) -> isize {
    let [a0, a1, a2, a3, a4, a5] = a;
    let result;
    // SAFETY: the kernel reads the six registers and clobbers rcx and r11; what it does with the arguments is the
    // caller's promise.
    unsafe {
        core::arch::asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") a0, in("rsi") a1, in("rdx") a2, in("r10") a3, in("r8") a4, in("r9") a5,
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    result
}

#[cfg(target_arch = "aarch64")]
unsafe fn raw(number: c_long, a: [usize; 6]) -> isize {
    let [a0, a1, a2, a3, a4, a5] = a;
    let result;
    // SAFETY: the kernel reads x8 and x0 to x5 and writes x0 only; what it does with the arguments is the caller's
    // promise.
    unsafe {
        core::arch::asm!(
            "svc 0",
            in("x8") number,
            inlateout("x0") a0 => result,
            in("x1") a1, in("x2") a2, in("x3") a3, in("x4") a4, in("x5") a5,
            options(nostack),
        );
    }
    result
}

/// Issues a system call and sorts its result.
///
/// # Safety
/// The arguments must be what the call of that number takes: pointers must be valid for what the kernel does.
pub(crate) unsafe fn call(number: c_long, args: [usize; 6]) -> Result<usize, Errno> {
    // SAFETY: the caller's promise.
    let result = unsafe { raw(number, args) };
    // The kernel gives an error as -errno, and no errno is beyond 4095.
    match c_int::try_from(result) {
        Ok(error @ -4095..=-1) => Err(Errno(error.wrapping_neg())),
        _ => Ok(result.cast_unsigned()),
    }
}

/// A descriptor as a register's content; negative ones (`AT_FDCWD`) keep their sign.
pub(crate) const fn register(value: c_int) -> usize {
    (value as isize).cast_unsigned()
}

/// A descriptor of the shim's own, closed when it goes.
pub(crate) struct Owned(c_int);

impl Owned {
    /// Takes a system call's result as a new descriptor.
    fn new(result: Result<usize, Errno>) -> Result<Self, Errno> {
        let fd = c_int::try_from(result?).map_err(|_| Errno(libc::EBADF))?;
        Ok(Self(fd))
    }

    /// The number, for as long as `self` lives.
    pub(crate) const fn fd(&self) -> c_int {
        self.0
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: close takes one descriptor, and this one is ours. On Linux it is gone even if close says EINTR.
        let _ = unsafe { call(libc::SYS_close, [register(self.0), 0, 0, 0, 0, 0]) };
    }
}

/// `socket(2)`.
pub(crate) fn socket(domain: c_int, kind: c_int) -> Result<Owned, Errno> {
    // SAFETY: socket takes three numbers.
    Owned::new(unsafe { call(libc::SYS_socket, [register(domain), register(kind), 0, 0, 0, 0]) })
}

/// `openat(2)` with `O_CLOEXEC`; `path` ends with NUL.
///
/// # Safety
/// `path` must be a string that ends with NUL.
pub(crate) unsafe fn open(directory: c_int, path: *const u8, flags: c_int) -> Result<Owned, Errno> {
    let flags = register(flags | libc::O_CLOEXEC);
    // SAFETY: the caller's promise about `path`; nothing is created, so no mode is needed.
    Owned::new(unsafe { call(libc::SYS_openat, [register(directory), path.addr(), flags, 0, 0, 0]) })
}

/// `dup(2)`: a copy that stays open over exec.
pub(crate) fn duplicate(fd: c_int) -> Result<Owned, Errno> {
    // SAFETY: dup takes one number.
    Owned::new(unsafe { call(libc::SYS_dup, [register(fd), 0, 0, 0, 0, 0]) })
}

/// A socket option of fixed size; [`None`] where the descriptor has none such.
pub(crate) fn option<T: Copy + Default>(fd: c_int, level: c_int, name: c_int) -> Option<T> {
    let mut value = T::default();
    let mut length = size_of::<T>() as libc::socklen_t;
    let value_at = (&raw mut value).expose_provenance();
    let length_at = (&raw mut length).expose_provenance();
    // SAFETY: the kernel writes at most `length` bytes, the size of `value`. Callers use plain integers and structs
    // of integers, for which all bit patterns are good.
    unsafe {
        call(libc::SYS_getsockopt, [register(fd), register(level), register(name), value_at, length_at, 0])
    }
    .ok()?;
    (length as usize == size_of::<T>()).then_some(value)
}

/// The socket's name in questions: it survives dup, fork, exec and being passed on (`SO_COOKIE`, socket(7)).
pub(crate) fn cookie(fd: c_int) -> Option<u64> {
    option(fd, libc::SOL_SOCKET, libc::SO_COOKIE)
}

/// A limit of time as socket options have it: `struct timeval`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Time {
    seconds: libc::time_t,
    microseconds: libc::suseconds_t,
}

/// Sets a socket option of fixed size. `T` is a struct of integers without padding.
pub(crate) fn set_option<T: Copy>(fd: c_int, level: c_int, name: c_int, value: &T) {
    let at = core::ptr::from_ref(value).expose_provenance();
    let args = [register(fd), register(level), register(name), at, size_of::<T>(), 0];
    // SAFETY: the kernel reads one `T`.
    let _ = unsafe { call(libc::SYS_setsockopt, args) };
}

/// Does the descriptor wait, as it does unless it has `O_NONBLOCK`?
pub(crate) fn is_blocking(fd: c_int) -> bool {
    flags(fd).is_some_and(|flags| flags & libc::O_NONBLOCK == 0)
}

fn flags(fd: c_int) -> Option<c_int> {
    // SAFETY: F_GETFL takes no argument.
    let flags = unsafe { call(libc::SYS_fcntl, [register(fd), register(libc::F_GETFL), 0, 0, 0, 0]) };
    c_int::try_from(flags.ok()?).ok()
}

fn set_flags(fd: c_int, flags: c_int) {
    // SAFETY: F_SETFL takes one number.
    let _ =
        unsafe { call(libc::SYS_fcntl, [register(fd), register(libc::F_SETFL), register(flags), 0, 0, 0]) };
}

/// `connect(2)` to a socket address.
pub(crate) fn connect(fd: c_int, address: &[u8]) -> Result<(), Errno> {
    let args = [register(fd), address.as_ptr().expose_provenance(), address.len(), 0, 0, 0];
    // SAFETY: the kernel reads `address.len()` bytes.
    unsafe { call(libc::SYS_connect, args) }.map(|_| ())
}

/// Has the socket no connection, none on its way, and no failure that was not told? (poll(2): it hangs up, and there is no error, nor
/// is it shut.)
pub(crate) fn is_fresh(fd: c_int) -> bool {
    let mut polled = libc::pollfd { fd, events: libc::POLLRDHUP, revents: 0 };
    let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let (at, time) = ((&raw mut polled).expose_provenance(), (&raw const now).expose_provenance());
    // SAFETY: the kernel reads one time, and reads and writes one `struct pollfd`; there is no signal mask.
    let ready = unsafe { call(libc::SYS_ppoll, [at, 1, time, 0, 0, 0]) };
    let told = polled.revents & (libc::POLLHUP | libc::POLLRDHUP | libc::POLLERR);
    ready.is_ok() && told == libc::POLLHUP
}

/// Begins a connect(2) of a socket that blocks, and does not wait for it.
pub(crate) fn begin_to_connect(fd: c_int, address: &[u8]) -> Result<(), Errno> {
    let Some(flags) = flags(fd) else { return Err(Errno(libc::EBADF)) };
    set_flags(fd, flags | libc::O_NONBLOCK);
    let begun = connect(fd, address);
    set_flags(fd, flags);
    begun
}

/// `send(2)` without a signal for a socket that is shut: how many bytes went.
pub(crate) fn send(fd: c_int, bytes: &[u8]) -> Result<usize, Errno> {
    let flags = register(libc::MSG_NOSIGNAL);
    // SAFETY: the kernel reads `bytes.len()` bytes, and there is no address.
    unsafe {
        call(libc::SYS_sendto, [register(fd), bytes.as_ptr().expose_provenance(), bytes.len(), flags, 0, 0])
    }
}

/// `recv(2)`: how many bytes came.
pub(crate) fn receive(fd: c_int, room: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: the kernel writes at most `room.len()` bytes, and no address.
    unsafe {
        call(libc::SYS_recvfrom, [register(fd), room.as_mut_ptr().expose_provenance(), room.len(), 0, 0, 0])
    }
}

/// Takes a socket back to "not connected" (connect(2), `AF_UNSPEC`); what never was on its way stays as it is.
pub(crate) fn disconnect(fd: c_int) {
    let unspecified = [0_u8; size_of::<libc::sockaddr>()];
    let args = [register(fd), unspecified.as_ptr().expose_provenance(), unspecified.len(), 0, 0, 0];
    // SAFETY: the kernel reads one `sockaddr`, of which zero is a value, and AF_UNSPEC.
    let _ = unsafe { call(libc::SYS_connect, args) };
}

/// `struct ifreq` of netdevice(7): a name, and a union for what is told about it.
#[repr(C, align(8))]
struct Device {
    name: [u8; libc::IFNAMSIZ],
    told: [u8; 24],
}

const _: () = assert!(size_of::<Device>() == size_of::<libc::ifreq>(), "what the kernel writes must fit");

/// Is there a network device of this name?
pub(crate) fn is_device(fd: c_int, name: &[u8]) -> bool {
    let mut device = Device { name: [0; _], told: [0; _] };
    let Some(place) = device.name.get_mut(..name.len()).filter(|place| place.len() < libc::IFNAMSIZ) else {
        return false;
    };
    for (to, from) in place.iter_mut().zip(name) {
        *to = *from;
    }
    let args = [register(fd), libc::SIOCGIFINDEX as usize, (&raw mut device).expose_provenance(), 0, 0, 0];
    // SAFETY: the kernel reads and writes one `struct ifreq`, whose size `Device` has.
    unsafe { call(libc::SYS_ioctl, args) }.is_ok()
}

/// `getpeername(2)` into `buffer`: the length of the address.
pub(crate) fn peer(fd: c_int, buffer: &mut [u8]) -> Option<usize> {
    let mut length = libc::socklen_t::try_from(buffer.len()).ok()?;
    let args = [
        register(fd),
        buffer.as_mut_ptr().expose_provenance(),
        (&raw mut length).expose_provenance(),
        0,
        0,
        0,
    ];
    // SAFETY: the kernel writes at most `length` bytes to `buffer`.
    unsafe { call(libc::SYS_getpeername, args) }.ok()?;
    usize::try_from(length).ok()
}

/// The process's real user id.
pub(crate) fn uid() -> libc::uid_t {
    // SAFETY: getuid takes nothing and cannot fail.
    unsafe { call(libc::SYS_getuid, [0; 6]) }.map_or(libc::uid_t::MAX, |uid| uid as libc::uid_t)
}

/// May the real user execute the file at `path`?
///
/// # Safety
/// `path` must be a string that ends with NUL.
pub(crate) unsafe fn executable(path: *const u8) -> bool {
    let args = [register(libc::AT_FDCWD), path.addr(), register(libc::X_OK), 0, 0, 0];
    // SAFETY: the caller's promise about `path`.
    unsafe { call(libc::SYS_faccessat, args) }.is_ok()
}

/// Is the open file a regular one?
pub(crate) fn regular(fd: c_int) -> bool {
    // SAFETY: `stat` is a struct of integers, for which zero is a value.
    let mut status: libc::stat = unsafe { core::mem::zeroed() };
    let args = [register(fd), (&raw mut status).expose_provenance(), 0, 0, 0, 0];
    // SAFETY: the kernel writes one `struct stat`.
    unsafe { call(libc::SYS_fstat, args) }.is_ok() && status.st_mode & libc::S_IFMT == libc::S_IFREG
}

/// The machine's own name (`uname`), without its NUL, written into `buffer`.
pub(crate) fn node_name(buffer: &mut libc::utsname) -> &[u8] {
    let at: *mut libc::utsname = buffer;
    // SAFETY: the kernel writes one `struct utsname`.
    let _ = unsafe { call(libc::SYS_uname, [at.expose_provenance(), 0, 0, 0, 0, 0]) };
    let name = &buffer.nodename;
    // SAFETY: `c_char` and `u8` have one layout, and the slice covers exactly the array.
    let bytes = unsafe { core::slice::from_raw_parts(name.as_ptr().cast::<u8>(), name.len()) };
    bytes.split(|byte| *byte == 0).next().unwrap_or(&[])
}

/// Writes a line to standard error; what does not go is lost.
pub(crate) fn write_line(line: &[u8]) {
    let args = [2, line.as_ptr().expose_provenance(), line.len(), 0, 0, 0];
    // SAFETY: the kernel reads `line.len()` bytes.
    let _ = unsafe { call(libc::SYS_write, args) };
}

/// Seconds of the coarse monotonic clock, which the vDSO tells without a system call (vdso(7)).
pub(crate) fn now() -> u32 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the one `timespec` is writable.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut time) };
    // What never was ends at 0, and the first second after boot is not to be taken for that; nor may the last second of all
    // keep a lease from having an end.
    u32::try_from(time.tv_sec).unwrap_or(u32::MAX / 2).saturating_add(1)
}

/// Lets another thread run.
pub(crate) fn yield_now() {
    // SAFETY: sched_yield takes nothing.
    let _ = unsafe { call(libc::SYS_sched_yield, [0; 6]) };
}

/// Waits on a word (futex(2)) while it is `seen`, at the most until `deadline`.
pub(crate) fn wait(word: &AtomicU32, seen: u32, deadline: Option<&libc::timespec>) -> Result<(), Errno> {
    let until = deadline.map_or(0, |deadline| core::ptr::from_ref(deadline).expose_provenance());
    let how = register(libc::FUTEX_WAIT_BITSET | libc::FUTEX_PRIVATE_FLAG);
    let all = register(libc::FUTEX_BITSET_MATCH_ANY);
    // SAFETY: the kernel reads the word and the time.
    unsafe { call(libc::SYS_futex, [word.as_ptr().expose_provenance(), how, seen as usize, until, 0, all]) }
        .map(|_| ())
}

/// Wakes all who wait on a word.
pub(crate) fn wake_all(word: &AtomicU32) {
    let how = register(libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG);
    let all = register(c_int::MAX);
    // SAFETY: the kernel uses the word's address only.
    let _ = unsafe { call(libc::SYS_futex, [word.as_ptr().expose_provenance(), how, all, 0, 0, 0]) };
}

/// The time `from_now`, as [`wait`] takes it: on the clock that nobody sets.
pub(crate) fn deadline(from_now: &libc::timespec) -> libc::timespec {
    let mut at = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let args = [register(libc::CLOCK_MONOTONIC), (&raw mut at).expose_provenance(), 0, 0, 0, 0];
    // SAFETY: the kernel writes one `timespec`.
    let _ = unsafe { call(libc::SYS_clock_gettime, args) };
    let nanoseconds = at.tv_nsec.saturating_add(from_now.tv_nsec);
    let over = nanoseconds / 1_000_000_000;
    libc::timespec {
        tv_sec: at.tv_sec.saturating_add(from_now.tv_sec).saturating_add(over),
        tv_nsec: nanoseconds % 1_000_000_000,
    }
}

/// Sends this process a signal with a value (rt_sigqueueinfo(2)).
pub(crate) fn queue_signal(signal: c_int, code: c_int, value: *mut c_void) {
    /// `siginfo_t` with the members of a queued signal; the kernel takes 128 bytes.
    #[repr(C)]
    struct Info {
        signal: c_int,
        errno: c_int,
        code: c_int,
        padding: c_int,
        pid: libc::pid_t,
        uid: libc::uid_t,
        value: *mut c_void,
        rest: [u64; 12],
    }
    // SAFETY: getpid takes nothing.
    let pid = unsafe { call(libc::SYS_getpid, [0; 6]) }.unwrap_or_default();
    let info = Info {
        signal,
        errno: 0,
        code,
        padding: 0,
        pid: pid as libc::pid_t,
        uid: uid(),
        value,
        rest: [0; 12],
    };
    let at = (&raw const info).expose_provenance();
    // SAFETY: the kernel reads one `siginfo_t`, which is as large.
    let _ = unsafe { call(libc::SYS_rt_sigqueueinfo, [pid, register(signal), at, 0, 0, 0]) };
}

/// The thread takes no signals while this lives, nor does a thread that it starts meanwhile.
pub(crate) struct Signals(u64);

impl Signals {
    /// Blocks them, but for the two that libc uses itself (nptl(7)).
    pub(crate) fn block() -> Self {
        Self(mask(!(0b11 << 31)))
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        mask(self.0);
    }
}

/// Sets the thread's mask of blocked signals, and gives what it was.
fn mask(new: u64) -> u64 {
    let mut old = 0_u64;
    let (new_at, old_at) = ((&raw const new).expose_provenance(), (&raw mut old).expose_provenance());
    let args = [register(libc::SIG_SETMASK), new_at, old_at, size_of::<u64>(), 0, 0];
    // SAFETY: the kernel reads one mask and writes one.
    let _ = unsafe { call(libc::SYS_rt_sigprocmask, args) };
    old
}

/// Memory of its own for what does not fit the stack; given back when it goes.
pub(crate) struct Pages {
    start: *mut c_void,
    length: usize,
}

impl Pages {
    /// `length` zeroed bytes, page-aligned.
    pub(crate) fn new(length: usize) -> Result<Self, Errno> {
        let protection = register(libc::PROT_READ | libc::PROT_WRITE);
        let flags = register(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new anonymous mapping touches no memory that exists.
        let start = unsafe { call(libc::SYS_mmap, [0, length, protection, flags, register(-1), 0]) }?;
        Ok(Self { start: core::ptr::with_exposed_provenance_mut(start), length })
    }

    /// Where the bytes start.
    pub(crate) const fn start(&self) -> *mut c_void {
        self.start
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nothing that borrows it outlives `self`.
        let _ = unsafe { call(libc::SYS_munmap, [self.start.addr(), self.length, 0, 0, 0, 0]) };
    }
}
