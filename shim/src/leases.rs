//! Answers that stay good for a while, kept in memory that every thread and every fork shares without a lock.
//!
//! A program may send a million datagrams a second to one address, so the launcher cannot be asked about each; and a
//! hook may run in a signal handler or in a child forked between any two instructions, so nothing here may wait.
//!
//! Invariants: nobody waits; what is read was written together ([`Entry`]); after its lease an entry is as good as empty.

use crate::seqlock::Entry;
use tp_abi::wire::{Address, Ip};

/// Entries that one key can be in.
const WAYS: usize = 4;
/// Groups of so many entries; a power of two.
const SETS: usize = 1024;

/// An address and port without a scope, IPv4 as v4-mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    ip: u128,
    port: u16,
}

impl Endpoint {
    /// The address as a key.
    pub(crate) const fn of(address: Address) -> Self {
        let ip = match address.ip {
            Ip::V4(ip) => tp_abi::sockaddr::mapped(ip),
            Ip::V6(ip) => ip,
        };
        Self { ip: u128::from_be_bytes(ip), port: address.port }
    }

    /// The address that was made a key.
    pub(crate) const fn address(self) -> Address {
        Address { ip: tp_abi::sockaddr::unmapped(self.ip.to_be_bytes()), port: self.port, scope: 0 }
    }
}

/// What is kept about a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    /// Where the key leads.
    pub(crate) to: Endpoint,
    /// The user's own; 15 bits at most.
    pub(crate) mark: u16,
}

/// Keys, where they lead, and until when. An entry is one cache line: key, key, value, value; then ports and mark.
pub(crate) struct Table([[Entry<5>; WAYS]; SETS]);

/// An entry's content, read in one piece.
struct Content {
    key: Endpoint,
    lease: Lease,
    until: u32,
}

impl Table {
    /// Empty; as a static it takes no memory until it is used.
    pub(crate) const fn new() -> Self {
        Self([const { [const { Entry::new() }; WAYS] }; SETS])
    }

    /// What `key` leads to, while that is good.
    pub(crate) fn get(&self, key: Endpoint, now: u32) -> Option<Lease> {
        let live = |entry: &Entry<5>| {
            Content::read(entry).filter(|content| content.key == key && content.until > now)
        };
        self.set(key)?.iter().find_map(live).map(|content| content.lease)
    }

    /// Keeps `lease` until the second `until`: in the place of what was there for the key, or else of what ends first.
    pub(crate) fn put(&self, key: Endpoint, lease: Lease, until: u32) {
        let Some(set) = self.set(key) else { return };
        let age = |entry: &&Entry<5>| match Content::read(entry) {
            Some(content) if content.key == key => 0,
            Some(content) => content.until,
            None => u32::MAX,
        };
        if let Some(entry) = set.iter().min_by_key(age) {
            entry.write(&words(key, lease), until);
        }
    }

    fn set(&self, key: Endpoint) -> Option<&[Entry<5>; WAYS]> {
        let mixed = (key.ip as u64) ^ ((key.ip >> 64) as u64).rotate_left(32) ^ (u64::from(key.port) << 48);
        // Fibonacci hashing: the upper bits are the well mixed ones.
        let hash = mixed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0.get((hash >> (64 - SETS.ilog2())) as usize)
    }
}

impl Content {
    fn read(entry: &Entry<5>) -> Option<Self> {
        let ([a, b, c, d, rest], until) = entry.read()?;
        let pair = |high: u64, low: u64| u128::from(high) << 64 | u128::from(low);
        let to = Endpoint { ip: pair(c, d), port: (rest >> 16) as u16 };
        let lease = Lease { to, mark: (rest >> 32) as u16 };
        Some(Self { key: Endpoint { ip: pair(a, b), port: rest as u16 }, lease, until })
    }
}

/// What [`Content::read`] reads.
const fn words(key: Endpoint, lease: Lease) -> [u64; 5] {
    let rest = key.port as u64 | (lease.to.port as u64) << 16 | (lease.mark as u64) << 32;
    [(key.ip >> 64) as u64, key.ip as u64, (lease.to.ip >> 64) as u64, lease.to.ip as u64, rest]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(ip: u128, port: u16) -> Endpoint {
        Endpoint { ip, port }
    }

    #[test]
    fn an_address_comes_back_as_itself() {
        for ip in [Ip::V4([10, 96, 0, 7]), Ip::V6([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9])] {
            let address = Address { ip, port: 53, scope: 0 };
            assert_eq!(Endpoint::of(address).address(), address);
        }
    }

    #[test]
    fn a_lease_is_good_until_its_end_and_is_renewed_in_its_place() {
        let table = Table::new();
        let key = endpoint(7, 53);
        let lease = Lease { to: endpoint(1, 4000), mark: 1 };
        assert_eq!(table.get(key, 0), None);
        table.put(key, lease, 10);
        assert_eq!(table.get(key, 9), Some(lease));
        assert_eq!(table.get(key, 10), None);
        table.put(key, Lease { mark: 0, ..lease }, 20);
        assert_eq!(table.get(key, 10), Some(Lease { mark: 0, ..lease }));
        assert_eq!(table.get(endpoint(7, 54), 9), None);
    }

    #[test]
    fn what_ends_first_makes_room_and_all_others_stay() {
        let table = Box::new(Table::new());
        for key in 0..40_000_u32 {
            let to = endpoint(u128::from(key), 1);
            table.put(endpoint(u128::from(key) << 7, key as u16), Lease { to, mark: 0 }, 1 + key);
        }
        let found = |key: &u32| table.get(endpoint(u128::from(*key) << 7, *key as u16), 0).is_some();
        assert!(found(&39_999));
        assert!((0..40_000).filter(found).count() > SETS * WAYS * 9 / 10);
    }

    #[test]
    fn an_entry_that_its_writer_left_is_one_place_less() {
        let table = Table::new();
        let key = endpoint(3, 3);
        let lease = Lease { to: endpoint(4, 4), mark: 0 };
        table.put(key, lease, 9);
        let set = table.set(key).unwrap();
        for entry in set.iter().take(WAYS - 1) {
            entry.sequence.fetch_add(1, core::sync::atomic::Ordering::Relaxed);
        }
        assert_eq!(table.get(key, 0), None);
        table.put(key, lease, 9);
        assert_eq!(table.get(key, 0), Some(lease));
    }

    /// Many threads write and read few keys; every value that is read belongs to the key that was asked for.
    #[test]
    fn nothing_is_ever_read_that_was_not_written_together() {
        static TABLE: Table = Table::new();
        let value = |key: u16, round: u128| Lease {
            to: endpoint(u128::from(key) * 0x1_0001 | round << 100 | round << 40, key),
            mark: (round as u16) & 0x7fff,
        };
        let torn = |key: u16, lease: Lease| {
            let round = lease.to.ip >> 100;
            lease != value(key, round)
        };
        std::thread::scope(|scope| {
            for seed in 0..8_u16 {
                scope.spawn(move || {
                    for round in 0..100_000_u32 {
                        let key = (round as u16).wrapping_mul(seed | 1) % 64;
                        // All keys in one set: they push each other out.
                        let place = endpoint(0, 0);
                        let at = endpoint(u128::from(key) << 64 | place.ip, 0);
                        if round % 3 == 0 {
                            TABLE.put(at, value(key, u128::from(round % 4096)), 1 + round);
                        } else if let Some(lease) = TABLE.get(at, 0) {
                            assert!(!torn(key, lease), "{lease:?} is not of {key}");
                        }
                    }
                });
            }
        });
    }
}
