//! A folder over one in which this user may not write, with the same things in it: so there can be more in it.
//!
//! Nothing but a mount can stand where the laptop has no file, and a mount needs one to stand on. The cover is a tmpfs;
//! each folder, file and socket of the covered one is mounted in it under its name, symbolic links are copied. It is filled
//! aside and then moved over the folder, since nothing below a mount is reached by its path any more.
//!
//! It is what there was when it was made: what is made anew in the folder later is not in it, and what is removed there is
//! still there, but for what is below the folder's own folders.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns};

/// Entries of a folder that is covered: each takes a mount, of which a namespace has 100,000 (`fs.mount-max`).
const MOST: usize = 10_000;
const NONE: Option<&str> = None;

/// Covers `folder`, which is a real path, and leaves out one name if there is one. `stage` is a path of nothing. Gives the
/// number of the file system that lies there now.
pub(super) fn put(folder: &Path, without: Option<&OsStr>, stage: &Path) -> io::Result<u64> {
    let mut entries = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    entries.retain(|entry| Some(&*entry.file_name()) != without);
    if entries.len() > MOST {
        return Err(io::Error::from_raw_os_error(libc::E2BIG));
    }
    if !stage.exists() {
        fs::create_dir(stage)?;
    }
    // Nobody may write there, so nobody may here, where all belongs to the user.
    let mode = format!("mode={:o}", fs::metadata(folder)?.mode() & 0o555);
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tp"), stage, Some("tmpfs"), flags, Some(mode.as_str()))?;
    // It is not to be found again in what is mounted in it.
    mount(NONE, stage, NONE, MsFlags::MS_UNBINDABLE, NONE)?;
    for entry in &entries {
        show(&entry.path(), &stage.join(entry.file_name()))?;
    }
    mount(NONE, stage, NONE, MsFlags::MS_PRIVATE, NONE)?;
    let number = fs::metadata(stage)?.dev();
    mount(Some(stage), folder, NONE, MsFlags::MS_MOVE, NONE)?;
    Ok(number)
}

/// Shows what is at `path` at `copy`, too. What cannot be shown (it has just gone, or may not be mounted elsewhere) is not
/// there.
fn show(path: &Path, copy: &Path) -> io::Result<()> {
    let Ok(there) = fs::symlink_metadata(path) else { return Ok(()) };
    if there.is_symlink() {
        return fs::read_link(path).map_or(Ok(()), |target| symlink(target, copy));
    }
    let is_folder = there.is_dir();
    if is_folder {
        fs::create_dir(copy)?
    } else {
        fs::File::create(copy).map(drop)?
    }
    // All that is mounted below comes along: part of it alone could show what is under such a mount (EINVAL).
    if mount(Some(path), copy, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE).is_err() {
        return if is_folder { fs::remove_dir(copy) } else { fs::remove_file(copy) };
    }
    Ok(())
}

/// Has this process see what was put over the root folder: a process's own is what it was.
pub(super) fn enter_anew() -> io::Result<()> {
    let namespace = fs::File::open("/proc/self/ns/mnt")?;
    Ok(setns(namespace, CloneFlags::CLONE_NEWNS)?)
}
