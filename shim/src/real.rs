//! The originals: the functions that the program would have called without the shim.
//!
//! Each is the next definition in the loader's order (dlsym(3), `RTLD_NEXT`), which is libc's or that of another
//! preloaded object after us. The constructor finds them all, since dlsym is not safe in a signal handler nor in a
//! vfork child; one that is called before that finds itself.
//!
//! Where a libc does not have a function, its place says what the caller gets.

use crate::hooks::addrinfo_a::{Event, Request};
use crate::resolver::State;
use core::ffi::{c_char, c_int, c_long, c_uint, c_void};
use core::sync::atomic::{AtomicPtr, Ordering};
use libc::{
    FILE, addrinfo, hostent, mmsghdr, mode_t, msghdr, pthread_t, size_t, sockaddr, socklen_t, ssize_t,
    timespec,
};

/// Marks a function that this libc does not have, so that it is looked for once.
static MISSING: u8 = 0;

/// The original dlsym: the shim has one of its own, which its own calls find first. An older version of the same
/// function is found without dlsym.
pub(crate) fn dlsym_itself() -> *mut c_void {
    static PLACE: AtomicPtr<c_void> = AtomicPtr::new(core::ptr::null_mut());
    let known = PLACE.load(Ordering::Acquire);
    if !known.is_null() {
        return known;
    }
    let version = if cfg!(target_arch = "x86_64") { c"GLIBC_2.2.5" } else { c"GLIBC_2.17" };
    // SAFETY: both are strings that end with NUL.
    let found = unsafe { libc::dlvsym(libc::RTLD_NEXT, c"dlsym".as_ptr(), version.as_ptr()) };
    let found = core::hint::black_box(found);
    PLACE.store(found, Ordering::Release);
    found
}

/// dlsym(3).
///
/// # Safety
/// As for the libc function of that name.
pub(crate) unsafe fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void {
    let itself = dlsym_itself();
    if itself.is_null() {
        return itself;
    }
    // SAFETY: this is dlsym's type.
    let original = unsafe {
        core::mem::transmute::<*mut c_void, unsafe extern "C" fn(*mut c_void, *const c_char) -> *mut c_void>(
            itself,
        )
    };
    // SAFETY: the caller's promise. It must not be a tail call: see `find`.
    core::hint::black_box(unsafe { original(handle, name) })
}

/// dlsym takes "next" from its return address: it must return to this object, so it must never be a tail call.
#[inline(never)]
fn find(place: &AtomicPtr<c_void>, name: *const c_char) -> *mut c_void {
    // SAFETY: `name` is a string that ends with NUL.
    let mut found = unsafe { dlsym(libc::RTLD_NEXT, name) };
    if found.is_null() {
        found = (&raw const MISSING).cast_mut().cast();
    }
    place.store(found, Ordering::Release);
    found
}

/// The caller's error when a function is missing: `result`, with errno set to ENOSYS.
fn missing<T>(result: T) -> T {
    super::hooks::fail(libc::ENOSYS);
    result
}

/// The original dlopen, for an entry point that jumps to it.
pub(crate) fn dlopen_itself() -> *mut c_void {
    itself(&places::dlopen, c"dlopen".as_ptr())
}

/// The original dlmopen, for an entry point that jumps to it.
pub(crate) fn dlmopen_itself() -> *mut c_void {
    itself(&places::dlmopen, c"dlmopen".as_ptr())
}

fn itself(place: &AtomicPtr<c_void>, name: *const c_char) -> *mut c_void {
    let found = place.load(Ordering::Acquire);
    if found.is_null() { find(place, name) } else { found }
}

macro_rules! originals {
    ($($(#[$doc:meta])* fn $name:ident($($arg:ident: $type:ty),* $(,)?) -> $result:ty, or $missing:expr;)*) => {
        $(
            $(#[$doc])*
            ///
            /// # Safety
            /// As for the libc function of that name.
            #[allow(clippy::too_many_arguments, non_snake_case, reason = "libc's own")]
            pub(crate) unsafe fn $name($($arg: $type),*) -> $result {
                let found = itself(&places::$name, concat!(stringify!($name), "\0").as_ptr().cast());
                if core::ptr::eq(found.cast_const().cast::<u8>(), &raw const MISSING) {
                    return missing($missing);
                }
                // SAFETY: libc documents this type for this name.
                let original = unsafe {
                    core::mem::transmute::<*mut c_void, unsafe extern "C" fn($($type),*) -> $result>(found)
                };
                // SAFETY: the caller's promise.
                unsafe { original($($arg),*) }
            }
        )*

        #[allow(non_upper_case_globals, reason = "each place is named as its function")]
        mod places {
            use super::{AtomicPtr, c_void};
            $(pub(super) static $name: AtomicPtr<c_void> = AtomicPtr::new(core::ptr::null_mut());)*
        }

        /// Finds every original.
        pub(crate) fn resolve() {
            $(find(&places::$name, concat!(stringify!($name), "\0").as_ptr().cast());)*
        }
    };
}

/// An array of strings that ends with null.
pub(crate) type Strings = *const *const c_char;

originals! {
    /// socket(2).
    fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int, or -1;
    /// connect(2).
    fn connect(fd: c_int, address: *const sockaddr, length: socklen_t) -> c_int, or -1;
    /// sendto(2).
    fn sendto(fd: c_int, data: *const c_void, size: size_t, flags: c_int, to: *const sockaddr, length: socklen_t)
        -> ssize_t, or -1;
    /// sendmsg(2).
    fn sendmsg(fd: c_int, message: *const msghdr, flags: c_int) -> ssize_t, or -1;
    /// sendmmsg(2).
    fn sendmmsg(fd: c_int, messages: *mut mmsghdr, count: c_uint, flags: c_int) -> c_int, or -1;
    /// getsockname(2).
    fn getsockname(fd: c_int, address: *mut sockaddr, length: *mut socklen_t) -> c_int, or -1;
    /// recvfrom(2).
    fn recvfrom(
        fd: c_int, data: *mut c_void, size: size_t, flags: c_int, from: *mut sockaddr, length: *mut socklen_t,
    ) -> ssize_t, or -1;
    /// recvfrom(2) as `_FORTIFY_SOURCE` calls it, with the room that the caller has.
    fn __recvfrom_chk(
        fd: c_int, data: *mut c_void, size: size_t, room: size_t, flags: c_int, from: *mut sockaddr,
        length: *mut socklen_t,
    ) -> ssize_t, or -1;
    /// recvmsg(2).
    fn recvmsg(fd: c_int, message: *mut msghdr, flags: c_int) -> ssize_t, or -1;
    /// recvmmsg(2).
    fn recvmmsg(fd: c_int, messages: *mut mmsghdr, count: c_uint, flags: c_int, timeout: *mut timespec)
        -> c_int, or -1;
    /// getpeername(2).
    fn getpeername(fd: c_int, address: *mut sockaddr, length: *mut socklen_t) -> c_int, or -1;
    /// getsockopt(2).
    fn getsockopt(fd: c_int, level: c_int, name: c_int, value: *mut c_void, length: *mut socklen_t)
        -> c_int, or -1;
    /// setsockopt(2).
    fn setsockopt(fd: c_int, level: c_int, name: c_int, value: *const c_void, length: socklen_t) -> c_int, or -1;
    /// getaddrinfo(3).
    fn getaddrinfo(node: *const c_char, service: *const c_char, hints: *const addrinfo, found: *mut *mut addrinfo)
        -> c_int, or libc::EAI_SYSTEM;
    /// getaddrinfo_a(3).
    fn getaddrinfo_a(mode: c_int, list: *const *mut Request, count: c_int, event: *const Event)
        -> c_int, or libc::EAI_SYSTEM;
    /// gai_suspend(3).
    fn gai_suspend(list: *const *const Request, count: c_int, patience: *const timespec)
        -> c_int, or libc::EAI_SYSTEM;
    /// gai_cancel(3).
    fn gai_cancel(request: *mut Request) -> c_int, or libc::EAI_SYSTEM;
    /// pthread_create(3).
    fn pthread_create(
        thread: *mut pthread_t, attributes: *const c_void,
        run: extern "C" fn(*mut c_void) -> *mut c_void, with: *mut c_void,
    ) -> c_int, or libc::ENOSYS;
    /// pthread_detach(3).
    fn pthread_detach(thread: pthread_t) -> c_int, or libc::ENOSYS;
    /// getnameinfo(3).
    fn getnameinfo(
        address: *const sockaddr, length: socklen_t, host: *mut c_char, host_len: socklen_t,
        service: *mut c_char, service_len: socklen_t, flags: c_int,
    ) -> c_int, or libc::EAI_SYSTEM;
    /// gethostbyname_r(3).
    fn gethostbyname_r(
        name: *const c_char, entry: *mut hostent, room: *mut c_char, size: size_t,
        found: *mut *mut hostent, h_errno: *mut c_int,
    ) -> c_int, or libc::ENOSYS;
    /// gethostbyname2_r(3).
    fn gethostbyname2_r(
        name: *const c_char, family: c_int, entry: *mut hostent, room: *mut c_char, size: size_t,
        found: *mut *mut hostent, h_errno: *mut c_int,
    ) -> c_int, or libc::ENOSYS;
    /// gethostbyaddr_r(3).
    fn gethostbyaddr_r(
        address: *const c_void, length: socklen_t, family: c_int, entry: *mut hostent, room: *mut c_char,
        size: size_t, found: *mut *mut hostent, h_errno: *mut c_int,
    ) -> c_int, or libc::ENOSYS;
    /// gethostbyname(3).
    fn gethostbyname(name: *const c_char) -> *mut hostent, or core::ptr::null_mut();
    /// gethostbyname2(3).
    fn gethostbyname2(name: *const c_char, family: c_int) -> *mut hostent, or core::ptr::null_mut();
    /// gethostbyaddr(3).
    fn gethostbyaddr(address: *const c_void, length: socklen_t, family: c_int)
        -> *mut hostent, or core::ptr::null_mut();
    /// execve(2).
    fn execve(path: *const c_char, arguments: Strings, environment: Strings) -> c_int, or -1;
    /// execvpe(3).
    fn execvpe(file: *const c_char, arguments: Strings, environment: Strings) -> c_int, or -1;
    /// execveat(2).
    fn execveat(directory: c_int, path: *const c_char, arguments: Strings, environment: Strings, flags: c_int)
        -> c_int, or -1;
    /// fexecve(3).
    fn fexecve(fd: c_int, arguments: Strings, environment: Strings) -> c_int, or -1;
    /// posix_spawn(3).
    fn posix_spawn(
        pid: *mut libc::pid_t, path: *const c_char, actions: *const c_void, attributes: *const c_void,
        arguments: Strings, environment: Strings,
    ) -> c_int, or libc::ENOSYS;
    /// posix_spawnp(3).
    fn posix_spawnp(
        pid: *mut libc::pid_t, file: *const c_char, actions: *const c_void, attributes: *const c_void,
        arguments: Strings, environment: Strings,
    ) -> c_int, or libc::ENOSYS;
    /// As posix_spawn(3), with a descriptor of the process (glibc 2.39).
    fn pidfd_spawn(
        pidfd: *mut c_int, path: *const c_char, actions: *const c_void, attributes: *const c_void,
        arguments: Strings, environment: Strings,
    ) -> c_int, or libc::ENOSYS;
    /// As posix_spawnp(3), with a descriptor of the process (glibc 2.39).
    fn pidfd_spawnp(
        pidfd: *mut c_int, file: *const c_char, actions: *const c_void, attributes: *const c_void,
        arguments: Strings, environment: Strings,
    ) -> c_int, or libc::ENOSYS;
    /// system(3).
    fn system(command: *const c_char) -> c_int, or -1;
    /// popen(3).
    fn popen(command: *const c_char, kind: *const c_char) -> *mut FILE, or core::ptr::null_mut();
    /// The half of popen(3) that starts the shell.
    fn _IO_proc_open(file: *mut FILE, command: *const c_char, kind: *const c_char)
        -> *mut FILE, or core::ptr::null_mut();
    /// wordexp(3).
    fn wordexp(words: *const c_char, expanded: *mut c_void, flags: c_int) -> c_int, or 1;
    /// putenv(3).
    fn putenv(text: *mut c_char) -> c_int, or -1;
    /// setenv(3).
    fn setenv(name: *const c_char, value: *const c_char, overwrite: c_int) -> c_int, or -1;
    /// dlopen(3).
    fn dlopen(file: *const c_char, flags: c_int) -> *mut c_void, or core::ptr::null_mut();
    /// dlmopen(3).
    #[expect(dead_code, reason = "its entry point jumps to it")]
    fn dlmopen(namespace: c_long, file: *const c_char, flags: c_int) -> *mut c_void, or core::ptr::null_mut();
    /// resolver(3).
    fn res_query(name: *const c_char, class: c_int, kind: c_int, answer: *mut u8, size: c_int) -> c_int, or -1;
    /// resolver(3).
    fn res_nquery(state: *mut State, name: *const c_char, class: c_int, kind: c_int, answer: *mut u8, size: c_int) -> c_int, or -1;
    /// resolver(3).
    fn __res_query(name: *const c_char, class: c_int, kind: c_int, answer: *mut u8, size: c_int) -> c_int, or -1;
    /// resolver(3).
    fn __res_nquery(state: *mut State, name: *const c_char, class: c_int, kind: c_int, answer: *mut u8, size: c_int) -> c_int, or -1;
    /// resolver(3).
    fn res_search(name: *const c_char, class: c_int, kind: c_int, answer: *mut u8, size: c_int) -> c_int, or -1;
    /// resolver(3).
    fn res_nsearch(state: *mut State, name: *const c_char, class: c_int, kind: c_int, answer: *mut u8, size: c_int) -> c_int, or -1;
    /// resolver(3).
    fn __res_search(name: *const c_char, class: c_int, kind: c_int, answer: *mut u8, size: c_int) -> c_int, or -1;
    /// resolver(3).
    fn __res_nsearch(state: *mut State, name: *const c_char, class: c_int, kind: c_int, answer: *mut u8, size: c_int) -> c_int, or -1;
    /// resolver(3).
    fn res_querydomain(name: *const c_char, domain: *const c_char, class: c_int, kind: c_int, answer: *mut u8, size: c_int) -> c_int, or -1;
    /// resolver(3).
    fn res_nquerydomain(state: *mut State, name: *const c_char, domain: *const c_char, class: c_int, kind: c_int, answer: *mut u8, size: c_int) -> c_int, or -1;
    /// resolver(3).
    fn __res_querydomain(name: *const c_char, domain: *const c_char, class: c_int, kind: c_int, answer: *mut u8, size: c_int) -> c_int, or -1;
    /// resolver(3).
    fn __res_nquerydomain(state: *mut State, name: *const c_char, domain: *const c_char, class: c_int, kind: c_int, answer: *mut u8, size: c_int) -> c_int, or -1;
    /// resolver(3).
    fn res_send(question: *const u8, length: c_int, answer: *mut u8, size: c_int) -> c_int, or -1;
    /// resolver(3).
    fn res_nsend(state: *mut State, question: *const u8, length: c_int, answer: *mut u8, size: c_int) -> c_int, or -1;
    /// resolver(3).
    fn __res_send(question: *const u8, length: c_int, answer: *mut u8, size: c_int) -> c_int, or -1;
    /// resolver(3).
    fn __res_nsend(state: *mut State, question: *const u8, length: c_int, answer: *mut u8, size: c_int) -> c_int, or -1;
    /// `_res` of resolver(3).
    fn __res_state() -> *mut State, or core::ptr::null_mut();
    /// `res_init` of resolver(3).
    fn __res_init() -> c_int, or -1;
    /// `res_ninit` of resolver(3).
    fn __res_ninit(state: *mut State) -> c_int, or -1;
    /// open(2).
    fn open(path: *const c_char, flags: c_int, mode: mode_t) -> c_int, or -1;
    /// open(2).
    fn open64(path: *const c_char, flags: c_int, mode: mode_t) -> c_int, or -1;
    /// open(2).
    fn __open(path: *const c_char, flags: c_int, mode: mode_t) -> c_int, or -1;
    /// open(2).
    fn __open64(path: *const c_char, flags: c_int, mode: mode_t) -> c_int, or -1;
    /// open(2), checked (`_FORTIFY_SOURCE`).
    fn __open_2(path: *const c_char, flags: c_int) -> c_int, or -1;
    /// open(2), checked.
    fn __open64_2(path: *const c_char, flags: c_int) -> c_int, or -1;
    /// openat(2).
    fn openat(folder: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int, or -1;
    /// openat(2).
    fn openat64(folder: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int, or -1;
    /// openat(2), checked.
    fn __openat_2(folder: c_int, path: *const c_char, flags: c_int) -> c_int, or -1;
    /// openat(2), checked.
    fn __openat64_2(folder: c_int, path: *const c_char, flags: c_int) -> c_int, or -1;
    /// fopen(3).
    fn fopen(path: *const c_char, mode: *const c_char) -> *mut FILE, or core::ptr::null_mut();
    /// fopen(3).
    fn fopen64(path: *const c_char, mode: *const c_char) -> *mut FILE, or core::ptr::null_mut();
    /// `<nss.h>`: replaces a line of nsswitch.conf(5) for this process.
    fn __nss_configure_lookup(database: *const c_char, line: *const c_char) -> c_int, or -1;
}
