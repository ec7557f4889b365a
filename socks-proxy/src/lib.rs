//! The in-cluster agent of tp, and the protocol code that the launcher shares with it.
//!
//! One TCP port on the pod's loopback, reached through a port-forward, speaks plain SOCKS5 to anybody who has the
//! token, and to the launcher one long-lived [`link`] that carries many streams ([`mux`]), each of them one SOCKS5
//! conversation ([`proto`]), some of which go on in [`messages`]. The launcher uses these modules, [`mod@relay`], and for what stays on the laptop the agent's
//! own [`datagrams`]; what only the agent needs is behind the feature `agent`.
#![forbid(unsafe_code)]

#[cfg(feature = "agent")]
pub mod agent;
#[cfg(feature = "agent")]
pub mod datagrams;
#[cfg(feature = "agent")]
pub mod dial;
pub mod expose;
pub mod files;
#[cfg(feature = "agent")]
pub mod limits;
pub mod link;
pub mod messages;
pub mod mux;
pub mod proto;
pub mod relay;
#[cfg(feature = "agent")]
pub mod resolve;
#[cfg(feature = "agent")]
pub mod route;
#[cfg(feature = "agent")]
pub mod serve;
#[cfg(feature = "settings")]
pub mod settings;
pub mod volumes;
