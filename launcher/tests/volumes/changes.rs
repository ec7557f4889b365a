//! What a program may change, and what it is told: each operation is done in a volume and in a plain folder beside it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::time::{Duration, SystemTime};

use nix::fcntl::{AtFlags, FallocateFlags, RenameFlags, fallocate, renameat2};

use super::*;

type Step = (&'static str, fn(&Path) -> io::Result<String>);

fn open(path: impl AsRef<Path>, flags: i32) -> io::Result<File> {
    let (read, write) =
        (flags & libc::O_ACCMODE != libc::O_WRONLY, flags & libc::O_ACCMODE != libc::O_RDONLY);
    let mut options = OpenOptions::new();
    options.read(read).write(write).custom_flags(flags).mode(0o640);
    options.create(flags & libc::O_CREAT != 0).truncate(flags & libc::O_TRUNC != 0).open(path)
}

fn rename(from: &Path, to: &Path, flags: RenameFlags) -> io::Result<String> {
    renameat2(nix::fcntl::AT_FDCWD, from, nix::fcntl::AT_FDCWD, to, flags)?;
    Ok(String::new())
}

fn done(_: ()) -> String {
    String::new()
}

const FILES: [Step; 16] = [
    ("write", |at| fs::write(at.join("a"), "first").map(done)),
    ("read", |at| fs::read_to_string(at.join("a"))),
    ("exclusive", |at| {
        OpenOptions::new().write(true).create_new(true).open(at.join("a")).map(|_| String::new())
    }),
    ("modes of what is made", |at| {
        open(at.join("mode"), libc::O_RDWR | libc::O_CREAT)?;
        fs::create_dir(at.join("folder"))?;
        let mode = |name| fs::metadata(at.join(name)).map(|told| told.mode());
        Ok(format!("{:o} {:o}", mode("mode")?, mode("folder")?))
    }),
    ("append from two handles", |at| {
        let (mut one, mut other) = (
            open(at.join("a"), libc::O_WRONLY | libc::O_APPEND)?,
            open(at.join("a"), libc::O_WRONLY | libc::O_APPEND)?,
        );
        one.write_all(b" one")?;
        other.write_all(b" two")?;
        one.write_all(b" three")?;
        fs::read_to_string(at.join("a"))
    }),
    ("a hole, and cut", |at| {
        let file = open(at.join("hole"), libc::O_RDWR | libc::O_CREAT)?;
        file.write_all_at(b"end", 100_000)?;
        file.set_len(100_001)?;
        let mut bytes = Vec::new();
        (&file).read_to_end(&mut bytes)?;
        file.set_len(5)?;
        Ok(format!("{} {:?} {}", bytes.len(), bytes.last(), file.metadata()?.len()))
    }),
    ("truncate by open", |at| {
        open(at.join("hole"), libc::O_WRONLY | libc::O_TRUNC)?;
        Ok(fs::metadata(at.join("hole"))?.len().to_string())
    }),
    ("truncate by name", |at| {
        nix::unistd::truncate(&at.join("a"), 3)?;
        fs::read_to_string(at.join("a"))
    }),
    ("write through a handle for reading", |at| {
        open(at.join("a"), libc::O_RDONLY)?.write(b"x").map(|n| n.to_string())
    }),
    ("a file without a name", |at| {
        let mut file = open(at.join("nameless"), libc::O_RDWR | libc::O_CREAT)?;
        file.write_all(b"kept")?;
        fs::remove_file(at.join("nameless"))?;
        file.write_all(b" on")?;
        file.seek(SeekFrom::Start(0))?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        file.set_len(2)?;
        file.sync_all()?;
        Ok(format!("{text} {} {}", file.metadata()?.len(), file.metadata()?.nlink()))
    }),
    ("allocate", |at| {
        let file = open(at.join("allocated"), libc::O_RDWR | libc::O_CREAT)?;
        fallocate(&file, FallocateFlags::empty(), 0, 8192)?;
        file.sync_data()?;
        Ok(file.metadata()?.len().to_string())
    }),
    ("times and modes", |at| {
        let file = open(at.join("a"), libc::O_RDWR)?;
        let then = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
        file.set_times(fs::FileTimes::new().set_modified(then).set_accessed(then))?;
        fs::set_permissions(at.join("a"), fs::Permissions::from_mode(0o751))?;
        let told = fs::metadata(at.join("a"))?;
        Ok(format!("{} {} {} {:o}", told.mtime(), told.mtime_nsec(), told.atime(), told.mode()))
    }),
    ("attributes of the user's own", |at| {
        let file = at.join("a");
        xattr::set(&file, "user.tp.one", b"1\0x")?;
        xattr::set(&file, "user.tp.two", &[7; 2000])?;
        xattr::remove(&file, "user.tp.two")?;
        let names: Vec<_> =
            xattr::list(&file)?.filter(|name| name.as_bytes().starts_with(b"user.")).collect();
        let missing = xattr::get(&file, "user.tp.two")?;
        Ok(format!("{names:?} {:?} {missing:?}", xattr::get(&file, "user.tp.one")?))
    }),
    ("a name that is too long", |at| fs::write(at.join("n".repeat(256)), "").map(done)),
    ("below a file", |at| fs::write(at.join("a/b"), "").map(done)),
    ("a folder opened for writing", |at| open(at.join("folder"), libc::O_WRONLY).map(|_| String::new())),
];

const NAMES: [Step; 18] = [
    ("a hard link", |at| {
        fs::write(at.join("one"), "x")?;
        fs::hard_link(at.join("one"), at.join("two"))?;
        fs::write(at.join("two"), "by the other name")?;
        let (one, two) = (fs::metadata(at.join("one"))?, fs::metadata(at.join("two"))?);
        Ok(format!("{} {} {}", one.nlink(), one.ino() == two.ino(), fs::read_to_string(at.join("one"))?))
    }),
    ("a hard link onto a name", |at| fs::hard_link(at.join("one"), at.join("two")).map(done)),
    ("a symbolic link", |at| {
        symlink("one", at.join("soft"))?;
        Ok(format!("{:?} {}", fs::read_link(at.join("soft"))?, fs::read_to_string(at.join("soft"))?))
    }),
    ("a link out", |at| {
        symlink("../../../../../../../etc/hostname", at.join("out"))?;
        Ok(fs::read_link(at.join("out"))?.display().to_string())
    }),
    ("a link to itself", |at| {
        symlink("loop", at.join("loop"))?;
        fs::read_to_string(at.join("loop"))
    }),
    ("rename over a file", |at| {
        fs::write(at.join("new"), "new")?;
        fs::rename(at.join("new"), at.join("two"))?;
        Ok(format!("{} {}", fs::read_to_string(at.join("two"))?, fs::metadata(at.join("one"))?.nlink()))
    }),
    ("rename a folder and go on in it", |at| {
        fs::create_dir_all(at.join("f/g"))?;
        let mut file = File::create(at.join("f/g/h"))?;
        fs::rename(at.join("f"), at.join("e"))?;
        file.write_all(b"moved")?;
        fs::read_to_string(at.join("e/g/h"))
    }),
    ("rename into itself", |at| fs::rename(at.join("e"), at.join("e/g/e")).map(done)),
    ("rename onto what is not empty", |at| {
        fs::create_dir(at.join("d"))?;
        fs::rename(at.join("d"), at.join("e")).map(done)
    }),
    ("rename a folder onto a file", |at| fs::rename(at.join("d"), at.join("one")).map(done)),
    ("rename without replacing", |at| {
        rename(&at.join("one"), &at.join("two"), RenameFlags::RENAME_NOREPLACE)
    }),
    ("exchange", |at| {
        rename(&at.join("one"), &at.join("two"), RenameFlags::RENAME_EXCHANGE)?;
        Ok(fs::read_to_string(at.join("one"))? + &fs::read_to_string(at.join("two"))?)
    }),
    ("remove a folder with something in it", |at| fs::remove_dir(at.join("e")).map(done)),
    ("remove a folder as a file", |at| fs::remove_file(at.join("e")).map(done)),
    ("remove a file as a folder", |at| fs::remove_dir(at.join("one")).map(done)),
    ("remove all", |at| fs::remove_dir_all(at.join("e")).map(done)),
    ("what is gone", |at| fs::metadata(at.join("e/g/h")).map(|_| String::new())),
    ("a FIFO", |at| {
        nix::unistd::mkfifo(&at.join("fifo"), nix::sys::stat::Mode::from_bits_truncate(0o600))?;
        nix::unistd::linkat(
            nix::fcntl::AT_FDCWD,
            &at.join("fifo"),
            nix::fcntl::AT_FDCWD,
            &at.join("other"),
            AtFlags::empty(),
        )?;
        Ok(format!("{:o}", fs::metadata(at.join("other"))?.mode()))
    }),
];

fn compare(shown: &Shown, steps: &[Step]) {
    let plain = shown._folder.path().join("plain");
    fs::create_dir(&plain).unwrap();
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o027));
    for (name, step) in steps {
        let told = [step(&plain), step(&shown.seen)].map(|told| told.map_err(|error| error.raw_os_error()));
        assert_eq!(told[0], told[1], "{name}: in the folder and in the volume");
        println!("{name}: {:?}", told[0]);
    }
    assert_eq!(snapshot(&plain), snapshot(&shown.real));
}

/// All that lies in a folder: path, mode, links, contents.
pub(crate) fn snapshot(folder: &Path) -> Vec<(PathBuf, u32, u64, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(at) = folders.pop() {
        for entry in fs::read_dir(&at).unwrap() {
            let path = entry.unwrap().path();
            let told = fs::symlink_metadata(&path).unwrap();
            let contents = match told.file_type() {
                kind if kind.is_file() => fs::read(&path).unwrap(),
                kind if kind.is_symlink() => {
                    fs::read_link(&path).unwrap().into_os_string().as_bytes().to_vec()
                }
                _ => Vec::new(),
            };
            if told.is_dir() {
                folders.push(path.clone());
            }
            found.push((path.strip_prefix(folder).unwrap().to_owned(), told.mode(), told.nlink(), contents));
        }
    }
    found.sort();
    found
}

#[test]
fn files_are_made_written_cut_and_told_as_in_a_plain_folder() {
    if inside("changes::files_are_made_written_cut_and_told_as_in_a_plain_folder") {
        compare(&Shown::new(true), &FILES);
    }
}

#[test]
fn names_are_made_moved_and_removed_as_in_a_plain_folder() {
    if inside("changes::names_are_made_moved_and_removed_as_in_a_plain_folder") {
        compare(&Shown::new(true), &NAMES);
    }
}

#[test]
fn a_full_disk_is_told_to_who_writes() {
    if !inside("changes::a_full_disk_is_told_to_who_writes") {
        return;
    }
    let shown = Shown::new(true);
    // After the file system was made, but before the agent has looked at the folder.
    mount(Some("tmpfs"), &shown.real, Some("tmpfs"), MsFlags::empty(), Some("size=1m")).unwrap();
    let mut file = File::create(shown.seen.join("big")).unwrap();
    let error = file.write_all(&vec![1; 3_000_000]).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    let space = nix::sys::statvfs::statvfs(&shown.seen).unwrap();
    assert_eq!((space.blocks() * space.fragment_size(), space.blocks_free()), (1 << 20, 0));
}
