//! The launcher: everything of tp that runs on the laptop beside the user's program.
//!
//! Data flows one way: an interceptor ([`shim`]) learns where a socket wants to go, the [`pod`] dials there over the
//! [`session`]'s one link, and the [`gate`] connects the program's own socket when the far end accepted. ARCHITECTURE.md
//! shows the rooms and one connect()'s way through them.
#![deny(unsafe_code)]

pub mod child;
pub mod cli;
pub mod doctor;
pub mod environment;
pub mod expose;
pub mod flows;
pub mod gate;
pub mod holder;
pub mod installed;
pub mod kube;
pub mod leave;
pub mod list;
pub mod method;
pub mod mounts;
pub mod names;
pub mod nameserver;
pub mod nested;
pub mod placement;
pub mod pod;
pub mod probes;
pub mod questions;
pub mod report;
pub mod resolver;
pub mod run;
pub mod scope;
pub mod services;
pub mod session;
pub mod shim;
pub mod show;
pub mod status;
#[allow(unsafe_code)]
pub mod sys;
pub mod table;
pub mod tell;
pub mod trap;
pub mod tries;
pub mod undo;
pub mod vif;
pub mod volumes;
