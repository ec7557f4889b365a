//! Netlink, and nf_tables over it: what a network namespace's kernel is told by the agent (an exposed port's rules) and by
//! `tp-inside` (a private network's links and rules).
//!
//! nft(8) and libnftables are in no pod and on few laptops, and no crate writes what is needed here (`socket`, `tproxy`,
//! tables with an owner) without linking to C libraries.
#![forbid(unsafe_code)]

pub mod netlink;
pub mod nftables;
