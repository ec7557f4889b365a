//! Extended attributes of a file that was found or is open (xattr(7)).
//!
//! The calls for descriptors refuse those without rights, so the file is named by proc(5). Symbolic links have none that
//! a user could set.

use std::os::fd::OwnedFd;

use rustix::fs::{XattrFlags, getxattr, listxattr, removexattr, setxattr};
use rustix::io::Errno;

use super::places::magic;

/// Longest value, and longest list of names, in bytes (xattr(7)).
const XATTR_MAX: usize = 64 * 1024;

pub(super) fn get(of: &OwnedFd, name: &[u8]) -> Result<Vec<u8>, Errno> {
    let mut value = Vec::with_capacity(XATTR_MAX);
    getxattr(magic(of), name, rustix::buffer::spare_capacity(&mut value))?;
    value.shrink_to_fit();
    Ok(value)
}

pub(super) fn names(of: &OwnedFd) -> Result<Vec<u8>, Errno> {
    let mut names = Vec::with_capacity(XATTR_MAX);
    listxattr(magic(of), rustix::buffer::spare_capacity(&mut names))?;
    names.shrink_to_fit();
    Ok(names)
}

pub(super) fn set(of: &OwnedFd, name: &[u8], value: &[u8], flags: u32) -> Result<(), Errno> {
    setxattr(magic(of), name, value, XattrFlags::from_bits_retain(flags))
}

pub(super) fn remove(of: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
    removexattr(magic(of), name)
}
