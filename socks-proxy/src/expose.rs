//! Ports of the pod that programs on laptops serve.
//!
//! ```text
//!  a client ── SYN ──▶ rules (steal) ──▶ intake ──▶ arrivals ──▶ a stream to the launcher ──▶ its program
//!                        or listen                     ├── route: whose is this request? ──▶ another launcher
//!                                                      └── the app: what is nobody's, and the kubelet's probes
//! ```
//!
//! A [`port`] is open as long as any launcher has a share in it: one may own it, others have a filter, or listen in
//! ([`mirror`]). One agent of a pod holds a port, for the others too ([`share`]). What an EXPOSE stream says is
//! [`wire`]'s, and [`conversation`] holds it.
//!
//! Invariants: a port has its rules only while there is somebody to serve it, and never longer than this process; what was
//! open before stays the app's, and what was taken stays taken; a client that a launcher has not accepted yet can still be
//! given to the app, with every byte it said.

pub mod wire;

#[cfg(feature = "agent")]
mod arrivals;
#[cfg(feature = "agent")]
mod carried;
#[cfg(feature = "agent")]
mod conversation;
#[cfg(feature = "agent")]
mod datagrams;
#[cfg(feature = "agent")]
mod exposures;
#[cfg(feature = "agent")]
mod guarded;
#[cfg(feature = "agent")]
mod intake;
#[cfg(feature = "agent")]
mod ledger;
#[cfg(feature = "agent")]
mod listen;
#[cfg(feature = "agent")]
mod mirror;
#[cfg(feature = "agent")]
mod pod;
#[cfg(feature = "agent")]
mod port;
#[cfg(feature = "agent")]
mod share;
#[cfg(feature = "agent")]
mod steal;

#[cfg(feature = "agent")]
pub use exposures::Exposures;
#[cfg(feature = "agent")]
pub(crate) use exposures::serve;
#[cfg(feature = "agent")]
use exposures::{Joined, Who};
