//! `struct __res_state` of glibc (resolv.h): what its resolver functions know, and what programs see as `_res`.
//!
//! The struct is part of glibc's binary interface, has had this layout since 2.2 and is filled from the laptop's
//! resolv.conf. Its spare bits say whether the pod's settings were written over that: libc clears them whenever it reads
//! the file again, so a state without the mark holds nothing that a program put there. A state that differs from the file
//! is not read again by itself (glibc since 2.26), so neither the pod's settings nor a program's own are lost.
//!
//! Invariants: reads and writes only within the struct; what it points at (`nsaddrs`) is libc's to free.

use core::ffi::{c_char, c_int, c_uint, c_ulong, c_void};
use libc::{sockaddr_in, sockaddr_in6};
use tp_abi::wire::{Address, Ip, Resolver};

/// `MAXNS`.
pub(crate) const NAMESERVERS: usize = 3;
/// `RES_INIT`.
const INIT: c_ulong = 1;
/// All `RES_*` bits that a resolv.conf sets.
const FILE_OPTIONS: c_ulong = 0x0f70_c008;
/// The spare bits of `ndots:4, nsort:4, ipv6_unavail:1, unused:23`, but for the lowest three of them.
const SPARE: c_uint = 0xffff_f000;
/// What they say when the settings are the pod's.
const MARK: c_uint = 0x7470_a000;
/// `ndots`.
const NDOTS: c_uint = 0xf;

#[repr(C)]
pub(crate) struct State {
    retrans: c_int,
    retry: c_int,
    options: c_ulong,
    nscount: c_int,
    nsaddr_list: [sockaddr_in; NAMESERVERS],
    id: u16,
    dnsrch: [*mut c_char; 7],
    defdname: [u8; 256],
    pfcode: c_ulong,
    bits: c_uint,
    sort_list: [[u32; 2]; 10],
    hooks: [*mut c_void; 2],
    res_h_errno: c_int,
    vcsock: c_int,
    flags: c_uint,
    ext: Ext,
}

/// `_u._ext`.
#[repr(C)]
struct Ext {
    nscount: u16,
    nsmap: [u16; NAMESERVERS],
    nssocks: [c_int; NAMESERVERS],
    nscount6: u16,
    nsinit: u16,
    nsaddrs: [*mut sockaddr_in6; NAMESERVERS],
    extension: [u32; 2],
}

const _: () = assert!(size_of::<State>() == 568 && core::mem::offset_of!(State, ext) == 512);

/// The nameservers of a state, aside while others stand in for them.
pub(crate) struct Aside {
    v4: [sockaddr_in; NAMESERVERS],
    v6: [Option<sockaddr_in6>; NAMESERVERS],
}

impl State {
    /// Has libc initialised it?
    pub(crate) const fn is_ready(&self) -> bool {
        self.options & INIT != 0
    }

    /// Does it have the pod's settings?
    pub(crate) const fn is_pods(&self) -> bool {
        self.is_ready() && self.bits & SPARE == MARK
    }

    /// The options that a resolv.conf may set, as they are.
    pub(crate) const fn file_options(&self) -> c_ulong {
        self.options & FILE_OPTIONS
    }

    /// Writes the pod's settings over those that libc has just read; `kept` are options that stay set. [`None`] if there is
    /// no memory.
    pub(crate) fn fill(&mut self, resolver: &Resolver<'_>, kept: c_ulong) -> Option<()> {
        self.retrans = c_int::from(resolver.timeout);
        self.retry = c_int::from(resolver.attempts);
        self.options = self.options & !FILE_OPTIONS | kept | c_ulong::from(resolver.options);
        self.search(resolver.search);
        let mut count: c_int = 0;
        let places = self.nsaddr_list.iter_mut().zip(&mut self.ext.nsaddrs).zip(&mut self.ext.nssocks);
        for (((v4, v6), socket), address) in places.zip(resolver.nameservers) {
            *socket = -1;
            *v4 = spell_v4(address);
            if let Ip::V6(ip) = address.ip {
                *v6 = filled(*v6, ip, address)?;
            }
            count = count.saturating_add(1);
        }
        self.nscount = count;
        // res_send() makes its own copies then.
        self.ext.nscount = 0;
        self.bits = self.bits & !SPARE & !NDOTS | MARK | c_uint::from(resolver.ndots) & NDOTS;
        Some(())
    }

    /// `defdname` holds the domains, each with a NUL, and `dnsrch` points at them.
    fn search(&mut self, domains: &[u8]) {
        self.defdname.fill(0);
        self.dnsrch = [core::ptr::null_mut(); 7];
        let last = self.dnsrch.len().saturating_sub(1);
        let mut places = self.dnsrch.iter_mut().take(last);
        let mut starts = true;
        for (to, from) in self.defdname.iter_mut().zip(domains) {
            *to = *from;
            if starts && let Some(place) = places.next() {
                *place = core::ptr::from_mut(to).cast();
            }
            starts = *from == 0;
        }
    }

    /// The nameserver at a place, as the program knows it.
    pub(crate) fn nameserver(&self, place: usize) -> Option<Address> {
        if place >= usize::try_from(self.nscount).ok()? {
            return None;
        }
        let v4 = self.nsaddr_list.get(place)?;
        let port = u16::from_be(v4.sin_port);
        match i32::from(v4.sin_family) {
            libc::AF_INET => Some(Address { ip: Ip::V4(v4.sin_addr.s_addr.to_ne_bytes()), port, scope: 0 }),
            0 => {
                // SAFETY: null or libc's own, as large as this.
                let v6 = unsafe { self.ext.nsaddrs.get(place)?.as_ref() }?;
                let ip = tp_abi::sockaddr::unmapped(v6.sin6_addr.s6_addr);
                let port = u16::from_be(v6.sin6_port);
                Some(Address { ip, port, scope: v6.sin6_scope_id })
            }
            _ => None,
        }
    }

    /// Remembers the nameservers.
    pub(crate) fn set_aside(&self) -> Aside {
        // SAFETY: null or libc's own, as large as this.
        let v6 = self.ext.nsaddrs.map(|place| unsafe { place.as_ref() }.copied());
        Aside { v4: self.nsaddr_list, v6 }
    }

    /// Has the nameserver at a place be asked at `address`, which must be IPv4.
    pub(crate) fn ask_at(&mut self, place: usize, address: Address) {
        if let Some(at) = self.nsaddr_list.get_mut(place) {
            *at = spell_v4(address);
        }
    }

    /// Puts the nameservers back. libc itself sees that they are others than those it has sockets to.
    pub(crate) fn put_back(&mut self, aside: &Aside) {
        self.nsaddr_list = aside.v4;
        let places = aside.v4.iter().zip(aside.v6).zip(self.ext.nsaddrs);
        for ((v4, v6), place) in places {
            // An IPv4 nameserver's is libc's copy, by which it knows its sockets.
            if v4.sin_family != 0 {
                continue;
            }
            // SAFETY: null or libc's own, as large as this.
            if let (Some(v6), Some(place)) = (v6, unsafe { place.as_mut() }) {
                *place = v6;
            }
        }
    }

    /// Keeps the reason why a call failed, beside the thread's `h_errno`.
    pub(crate) const fn set_h_errno(&mut self, h_errno: c_int) {
        self.res_h_errno = h_errno;
    }
}

/// The address as `nsaddr_list` has it: one of IPv6 has family 0 there.
fn spell_v4(address: Address) -> sockaddr_in {
    let (family, port, ip) = match address.ip {
        Ip::V4(ip) => (libc::AF_INET, address.port, ip),
        Ip::V6(_) => (0, 0, [0; 4]),
    };
    sockaddr_in {
        sin_family: family as libc::sa_family_t,
        sin_port: port.to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(ip) },
        sin_zero: [0; 8],
    }
}

/// An IPv6 nameserver's place, which res_nclose() frees: the one that is there, or a new one.
fn filled(place: *mut sockaddr_in6, ip: [u8; 16], address: Address) -> Option<*mut sockaddr_in6> {
    let place = if place.is_null() {
        // SAFETY: malloc takes a size.
        unsafe { libc::malloc(size_of::<sockaddr_in6>()) }.cast()
    } else {
        place
    };
    if place.is_null() {
        return None;
    }
    let v6 = sockaddr_in6 {
        sin6_family: libc::AF_INET6 as libc::sa_family_t,
        sin6_port: address.port.to_be(),
        sin6_flowinfo: 0,
        sin6_addr: libc::in6_addr { s6_addr: ip },
        sin6_scope_id: address.scope,
    };
    // SAFETY: libc's own or just allocated, as large as this.
    unsafe { place.write(v6) };
    Some(place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CStr;
    use tp_abi::wire::{AddressList, put_address};

    const V4: Address = Address { ip: Ip::V4([10, 96, 0, 10]), port: 53, scope: 0 };
    const V6: Address =
        Address { ip: Ip::V6([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10]), port: 53, scope: 0 };
    const HERE: Address = Address { ip: Ip::V4([127, 84, 80, 3]), port: 4444, scope: 0 };

    fn with_pods() -> Box<State> {
        // SAFETY: integers and pointers, for which zero is a value.
        let mut state: Box<State> = Box::new(unsafe { core::mem::zeroed() });
        state.options = INIT | 0x2c0 | 0x0400_0000;
        state.bits = 1;
        let mut list = [0; 48];
        let at = put_address(&mut list, 0, V4).unwrap();
        put_address(&mut list, at, V6).unwrap();
        let resolver = Resolver {
            options: 0x4000,
            timeout: 2,
            attempts: 3,
            ndots: 5,
            nameservers: AddressList::new(&list),
            search: b"default.svc.cluster.local\0cluster.local\0",
        };
        assert!(state.is_ready() && !state.is_pods());
        state.fill(&resolver, 8).unwrap();
        state
    }

    #[test]
    fn the_pods_settings_replace_the_files() {
        let state = with_pods();
        assert!(state.is_pods());
        assert_eq!((state.retrans, state.retry, state.bits & NDOTS), (2, 3, 5));
        assert_eq!(state.options, INIT | 0x2c0 | 0x4000 | 8);
        assert_eq!(
            (state.nameserver(0), state.nameserver(1), state.nameserver(2)),
            (Some(V4), Some(V6), None)
        );
        // SAFETY: just written.
        let domains = state.dnsrch.map(|at| (!at.is_null()).then(|| unsafe { CStr::from_ptr(at) }));
        assert_eq!(domains[..3], [Some(c"default.svc.cluster.local"), Some(c"cluster.local"), None]);
    }

    #[test]
    fn nameservers_are_as_before_after_others_stood_in_for_them() {
        let mut state = with_pods();
        let aside = state.set_aside();
        for place in 0..2 {
            state.ask_at(place, HERE);
            assert_eq!(state.nameserver(place), Some(HERE));
        }
        // As res_send() does.
        // SAFETY: allocated above.
        unsafe { (*state.ext.nsaddrs[1]).sin6_addr.s6_addr = [0; 16] };
        state.put_back(&aside);
        assert_eq!((state.nameserver(0), state.nameserver(1)), (Some(V4), Some(V6)));
    }
}
