//! recvfrom(2), recvmsg(2) and recvmmsg(2): where data came from.
//!
//! A relay stands in for each destination, and the kernel tells its address as the source; here it becomes the
//! destination's, in the spelling that the kernel chose (a v4-mapped address for an IPv6 socket) and cut to the caller's
//! room as the kernel does. All else about the datagram (`MSG_PEEK`, `MSG_TRUNC`, control messages) is the kernel's own.

use crate::config::{self, Config};
use crate::real;
use crate::relays;
use core::ffi::{c_int, c_uint, c_void};
use libc::{mmsghdr, msghdr, size_t, sockaddr as Sockaddr, socklen_t, ssize_t};
use tp_abi::sockaddr::{self, ROOM};

/// The kernel takes no more messages at once (UIO_MAXIOV).
const MESSAGES_MAX: usize = 1024;

#[unsafe(no_mangle)]
unsafe extern "C" fn recvfrom(
    fd: c_int,
    data: *mut c_void,
    size: size_t,
    flags: c_int,
    from: *mut Sockaddr,
    length: *mut socklen_t,
) -> ssize_t {
    // SAFETY: the caller's promise, that of recvfrom(2).
    unsafe { receive(from, length, |from, length| real::recvfrom(fd, data, size, flags, from, length)) }
}

/// recvfrom(2) as `_FORTIFY_SOURCE` spells it.
#[unsafe(no_mangle)]
unsafe extern "C" fn __recvfrom_chk(
    fd: c_int,
    data: *mut c_void,
    size: size_t,
    room: size_t,
    flags: c_int,
    from: *mut Sockaddr,
    length: *mut socklen_t,
) -> ssize_t {
    // SAFETY: the caller's promise, that of recvfrom(2).
    unsafe {
        receive(from, length, |from, length| real::__recvfrom_chk(fd, data, size, room, flags, from, length))
    }
}

/// # Safety
/// As for recvfrom(2).
unsafe fn receive(
    from: *mut Sockaddr,
    length: *mut socklen_t,
    original: impl FnOnce(*mut Sockaddr, *mut socklen_t) -> ssize_t,
) -> ssize_t {
    let Some(config) = config::get().filter(|_| !from.is_null() && !length.is_null()) else {
        return original(from, length);
    };
    // SAFETY: not null, so the caller's promise is that both can be read.
    let mut source = Source { given: from.cast(), room: unsafe { *length }, short: [0; ROOM] };
    let place = source.place();
    // SAFETY: as above.
    unsafe { *length = source.place_length() };
    let result = original(place.cast(), length);
    if result >= 0 {
        // SAFETY: the kernel has just written the address and its length.
        unsafe { *length = source.tell(config, *length) };
    } else {
        // SAFETY: as above.
        unsafe { *length = source.room };
    }
    result
}

#[unsafe(no_mangle)]
unsafe extern "C" fn recvmsg(fd: c_int, message: *mut msghdr, flags: c_int) -> ssize_t {
    // SAFETY: the caller's promise: null or a message.
    let named = unsafe { message.as_mut() }.filter(|header| !header.msg_name.is_null());
    let Some((config, header)) = config::get().zip(named) else {
        // SAFETY: the caller's promise.
        let result = unsafe { real::recvmsg(fd, message, flags) };
        if result >= 0 {
            // SAFETY: the kernel has just read and written the message.
            note_sockets(unsafe { &*message });
        }
        return result;
    };
    let given = header.msg_name;
    let mut source = Source { given: given.cast(), room: header.msg_namelen, short: [0; ROOM] };
    header.msg_name = source.place().cast();
    header.msg_namelen = source.place_length();
    // SAFETY: the caller's promise; the name has room for its length.
    let result = unsafe { real::recvmsg(fd, header, flags) };
    if result >= 0 {
        note_sockets(header);
    }
    header.msg_name = given;
    header.msg_namelen = if result >= 0 { source.tell(config, header.msg_namelen) } else { source.room };
    result
}

#[unsafe(no_mangle)]
unsafe extern "C" fn recvmmsg(
    fd: c_int,
    messages: *mut mmsghdr,
    count: c_uint,
    flags: c_int,
    timeout: *mut libc::timespec,
) -> c_int {
    let given = match usize::try_from(count) {
        Ok(count) if !messages.is_null() => {
            // SAFETY: the caller's promise: `count` messages.
            unsafe { core::slice::from_raw_parts_mut(messages, count.min(MESSAGES_MAX)) }
        }
        _ => &mut [],
    };
    let named = |message: &mmsghdr| !message.msg_hdr.msg_name.is_null();
    let Some(config) = config::get().filter(|_| given.iter().any(named)) else {
        // SAFETY: the caller's promise.
        let result = unsafe { real::recvmmsg(fd, messages, count, flags, timeout) };
        let received = given.iter().take(usize::try_from(result).unwrap_or(0));
        received.for_each(|message| note_sockets(&message.msg_hdr));
        return result;
    };
    // The kernel overwrites how much room the caller has; more than an address has is as good as that.
    let mut rooms = [0_u8; MESSAGES_MAX];
    for (room, message) in rooms.iter_mut().zip(given.iter()) {
        *room = u8::try_from(message.msg_hdr.msg_namelen).unwrap_or(u8::MAX);
    }
    // SAFETY: the caller's promise.
    let result = unsafe { real::recvmmsg(fd, messages, count, flags, timeout) };
    let received = usize::try_from(result).unwrap_or(0);
    for (message, room) in given.iter_mut().zip(rooms).take(received) {
        let header = &mut message.msg_hdr;
        if named_by(header) {
            let source = Source { given: header.msg_name.cast(), room: room.into(), short: [0; ROOM] };
            header.msg_namelen = source.tell_in_place(config, header.msg_namelen);
        }
    }
    result
}

/// A message may carry sockets that are connected to the cluster (`SCM_RIGHTS`, unix(7)). What else
/// the socket's own level tells is rare.
fn note_sockets(header: &msghdr) {
    if header.msg_controllen >= size_of::<libc::cmsghdr>() && !header.msg_control.is_null() {
        // SAFETY: there is a control message's head in the caller's room, as the kernel or the caller wrote it.
        let first = unsafe { header.msg_control.cast::<libc::cmsghdr>().read_unaligned() };
        if first.cmsg_level == libc::SOL_SOCKET {
            config::note_connected();
        }
    }
}

fn named_by(header: &msghdr) -> bool {
    !header.msg_name.is_null()
}

/// Where the caller wants the source of a datagram.
struct Source {
    given: *mut u8,
    /// Bytes that the caller has there.
    room: socklen_t,
    /// For a caller whose room has no whole address: what is not there cannot be told from a relay.
    short: [u8; ROOM],
}

impl Source {
    const fn is_short(&self) -> bool {
        (self.room as usize) < ROOM
    }

    /// Where the kernel shall write.
    fn place(&mut self) -> *mut u8 {
        if self.is_short() { self.short.as_mut_ptr() } else { self.given }
    }

    /// How much it may write there.
    const fn place_length(&self) -> socklen_t {
        if self.is_short() { ROOM as socklen_t } else { self.room }
    }

    /// Tells the caller the true source, of which the kernel wrote `length` bytes to [`Self::place`]; its length.
    fn tell(&self, config: &Config, length: socklen_t) -> socklen_t {
        if !self.is_short() {
            return self.tell_in_place(config, length);
        }
        let kernels = self.short.get(..ROOM.min(length as usize)).unwrap_or(&[]);
        let mut room = [0; ROOM];
        match truth(config, kernels, &mut room) {
            Some(true_source) => self.write(true_source, true_source.len() as socklen_t),
            None => self.write(kernels, length),
        }
    }

    /// As [`Self::tell`], where the kernel wrote to the caller's own place.
    fn tell_in_place(&self, config: &Config, length: socklen_t) -> socklen_t {
        let written = (self.room.min(length) as usize).min(ROOM);
        // SAFETY: the kernel has just written so many bytes there.
        let kernels = unsafe { core::slice::from_raw_parts(self.given, written) };
        let mut room = [0; ROOM];
        match truth(config, kernels, &mut room) {
            Some(true_source) => self.write(true_source, true_source.len() as socklen_t),
            None => length,
        }
    }

    fn write(&self, address: &[u8], length: socklen_t) -> socklen_t {
        let fits = address.len().min(self.room as usize);
        // SAFETY: the caller of the hook has `room` bytes there, by its own word to the kernel.
        unsafe { self.given.copy_from(address.as_ptr(), fits) };
        length
    }
}

/// The destination behind a relay; [`None`] for a source that is none.
fn truth<'r>(config: &Config, kernels: &[u8], room: &'r mut [u8; ROOM]) -> Option<&'r [u8]> {
    let source = sockaddr::read(kernels)?;
    let asked = relays::behind(config, source.address)?;
    sockaddr::spell(asked, source.family == libc::AF_INET6, room)
}
