//! A `struct hostent` laid out in a buffer of the caller's (gethostbyname_r(3)).
//!
//! The reentrant functions promise that everything the result points at lies in the caller's buffer, and say ERANGE
//! when it does not fit, so that the caller comes back with a larger one. All sizes are checked before the first
//! byte is written.

use core::ffi::{c_char, c_int};
use core::ptr;

/// What a `hostent` is to say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Host<'a, A> {
    /// The official name, without a NUL.
    pub(crate) name: &'a [u8],
    /// Its other names, each with a NUL after it.
    pub(crate) aliases: &'a [u8],
    /// `AF_INET` or `AF_INET6`.
    pub(crate) family: c_int,
    /// Bytes of one address: 4 or 16.
    pub(crate) address_len: usize,
    /// The addresses; each is at least `address_len` bytes, what is beyond is left out.
    pub(crate) addresses: A,
}

/// Lays `host` out in `room` and fills `entry` with pointers into it. [`None`] if it does not fit.
pub(crate) fn lay_out<A>(host: &Host<'_, A>, room: &mut [u8], entry: &mut libc::hostent) -> Option<()>
where
    A: Iterator<Item = [u8; 16]> + Clone,
{
    const POINTER: usize = size_of::<*mut c_char>();
    let count = host.addresses.clone().count();
    let skipped = room.as_ptr().align_offset(POINTER);
    let others_count = host.aliases.iter().filter(|byte| **byte == 0).count();
    // The addresses' pointers and their null, the aliases' and theirs.
    let pointers = count.checked_add(others_count)?.checked_add(2)?;
    let (array, text) = room.get_mut(skipped..)?.split_at_mut_checked(pointers.checked_mul(POINTER)?)?;
    let (places, names) = text.split_at_mut_checked(count.checked_mul(host.address_len)?)?;
    let (name, others) = names.split_at_mut_checked(host.name.len().checked_add(1)?)?;
    let others = others.get_mut(..host.aliases.len())?;
    for (to, from) in name.iter_mut().zip(host.name.iter().chain(&[0])) {
        *to = *from;
    }
    let array = array.as_mut_ptr().cast::<*mut c_char>();
    let mut at = array;
    for (place, address) in places.chunks_exact_mut(host.address_len).zip(host.addresses.clone()) {
        for (to, from) in place.iter_mut().zip(address) {
            *to = from;
        }
        // SAFETY: `array` is aligned and has room for `count + 2` pointers; `places` has `count` chunks.
        unsafe {
            at.write(place.as_mut_ptr().cast());
            at = at.add(1);
        }
    }
    for (to, from) in others.iter_mut().zip(host.aliases) {
        *to = *from;
    }
    // SAFETY: `others_count + 2` places are left after the addresses'.
    let aliases = unsafe {
        at.write(ptr::null_mut());
        let aliases = at.add(1);
        at = aliases;
        for alias in others.split_inclusive_mut(|byte| *byte == 0).take(others_count) {
            at.write(alias.as_mut_ptr().cast());
            at = at.add(1);
        }
        at.write(ptr::null_mut());
        aliases
    };
    entry.h_name = name.as_mut_ptr().cast();
    entry.h_aliases = aliases;
    entry.h_addrtype = host.family;
    entry.h_length = c_int::try_from(host.address_len).ok()?;
    entry.h_addr_list = array;
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CStr;

    const EMPTY: libc::hostent = libc::hostent {
        h_name: ptr::null_mut(),
        h_aliases: ptr::null_mut(),
        h_addrtype: 0,
        h_length: 0,
        h_addr_list: ptr::null_mut(),
    };

    fn laid_out(room: &mut [u8]) -> Option<libc::hostent> {
        let addresses = [[1; 16], [2; 16], [3; 16]];
        let host = Host {
            name: b"backend.default",
            aliases: b"db\0",
            family: libc::AF_INET,
            address_len: 4,
            addresses: addresses.into_iter(),
        };
        let mut entry = EMPTY;
        lay_out(&host, room, &mut entry)?;
        Some(entry)
    }

    #[test]
    fn a_caller_finds_name_and_addresses_in_its_buffer() {
        let mut room = [0xaa; 200];
        let entry = laid_out(&mut room[3..]).unwrap();
        // SAFETY: just laid out.
        unsafe {
            assert_eq!(CStr::from_ptr(entry.h_name).to_bytes(), b"backend.default");
            assert_eq!(CStr::from_ptr(*entry.h_aliases).to_bytes(), b"db");
            assert!((*entry.h_aliases.add(1)).is_null());
            for number in 1..=3 {
                let address = *entry.h_addr_list.add(number - 1);
                assert_eq!(*address.cast::<[u8; 4]>(), [u8::try_from(number).unwrap(); 4]);
            }
            assert!((*entry.h_addr_list.add(3)).is_null());
        }
        assert_eq!((entry.h_addrtype, entry.h_length), (libc::AF_INET, 4));
    }

    #[test]
    fn a_buffer_too_small_by_one_byte_is_refused_and_left_alone_beyond_its_end() {
        let mut room = [u64::from_ne_bytes([0xaa; 8]); 32];
        // SAFETY: bytes of an array of integers.
        let room = unsafe { std::slice::from_raw_parts_mut(room.as_mut_ptr().cast::<u8>(), 256) };
        let enough = 6 * size_of::<usize>() + 3 * 4 + b"backend.default\0db\0".len();
        assert!(laid_out(&mut room[..enough]).is_some());
        assert!(room[enough..].iter().all(|byte| *byte == 0xaa));
        for length in 0..enough {
            assert!(laid_out(&mut room[..length]).is_none(), "{length}");
        }
    }
}
