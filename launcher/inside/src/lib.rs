//! What of tp runs inside: where a program is that the shim cannot enter.
//!
//! A namespace is entered, and a seccomp filter put on, by a process itself, and by none that has threads. So the
//! launcher starts this small static program in place of the one that was meant; it [asks](enter) the launcher what
//! keeps that program under it, does that, and becomes the program: same process, same arguments, same descriptors.
//!
//! The namespaces are made by the same program, as a process of its own that [holds](hold) them for the launcher. A third
//! use of it is to [find out](probe) what the machine allows of all that.
//!
//! Invariant: what cannot be entered is not started.

pub mod enter;
pub mod filter;
pub mod hold;
pub mod orders;
pub mod probe;
