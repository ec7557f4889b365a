//! VOLUMES: file operations below folders of the agent's container, for the launcher's file system.
//!
//! What a pod mounts exists nowhere else, and changes while it is mounted (a ConfigMap, another container's writes), so
//! files are not copied: each operation of a program on the laptop is one message ([`wire`]), carried out here by the
//! same system call, and answered with Linux' own errno.
//!
//! Invariants: nothing outside of the folders that the stream began with can be named; a symbolic link is never followed
//! here, it is told as text; answers come in any order, so a slow operation holds no other; what is kept for a stream
//! (descriptors, requests, bytes of answers) has a limit, and ends with it.
//!
//! It must not open what is not a file or a folder: opening a FIFO or a device does something.

pub mod wire;

#[cfg(feature = "agent")]
mod act;
#[cfg(feature = "agent")]
mod handles;
#[cfg(feature = "agent")]
mod list;
#[cfg(feature = "agent")]
mod places;
#[cfg(feature = "agent")]
mod serve;
#[cfg(feature = "agent")]
mod xattr;

#[cfg(feature = "agent")]
pub use serve::serve;

#[cfg(feature = "agent")]
#[cfg(test)]
mod tests;
