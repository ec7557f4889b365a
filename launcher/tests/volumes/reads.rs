//! What a program sees that only reads.

use std::collections::BTreeSet;
use std::fs;
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, symlink};
use std::path::Path;

use super::*;

fn names(folder: &Path) -> BTreeSet<String> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn files_folders_and_links_are_those_of_the_pod() {
    if !inside("reads::files_folders_and_links_are_those_of_the_pod") {
        return;
    }
    let shown = Shown::new(false);
    fs::create_dir_all(shown.real.join("a/b")).unwrap();
    fs::write(shown.real.join("a/b/text"), "hello\n").unwrap();
    symlink("a/b/text", shown.real.join("link")).unwrap();
    symlink("nowhere", shown.real.join("broken")).unwrap();
    assert_eq!(fs::read_to_string(shown.seen.join("a/b/text")).unwrap(), "hello\n");
    assert_eq!(fs::read_to_string(shown.seen.join("link")).unwrap(), "hello\n");
    assert_eq!(fs::read_link(shown.seen.join("broken")).unwrap(), Path::new("nowhere"));
    assert_eq!(fs::read(shown.seen.join("broken")).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(names(&shown.seen), names(&shown.real));
    let (seen, real) = (shown.seen.join("a/b/text"), shown.real.join("a/b/text"));
    let (seen, real) = (fs::metadata(seen).unwrap(), fs::metadata(real).unwrap());
    assert_eq!(
        (seen.len(), seen.mode(), seen.nlink(), seen.mtime(), seen.mtime_nsec(), seen.ino()),
        (real.len(), real.mode(), real.nlink(), real.mtime(), real.mtime_nsec(), real.ino()),
    );
    assert_eq!(seen.uid(), nix::unistd::getuid().as_raw());
}

#[test]
fn a_volume_that_is_not_for_writing_says_so() {
    if !inside("reads::a_volume_that_is_not_for_writing_says_so") {
        return;
    }
    let shown = Shown::new(false);
    fs::write(shown.real.join("file"), "x").unwrap();
    let file = shown.seen.join("file");
    let errors = [
        fs::write(shown.seen.join("new"), "").unwrap_err(),
        fs::write(&file, "").unwrap_err(),
        fs::remove_file(&file).unwrap_err(),
        fs::rename(&file, shown.seen.join("other")).unwrap_err(),
        fs::create_dir(shown.seen.join("folder")).unwrap_err(),
        fs::set_permissions(&file, fs::metadata(&shown.real).unwrap().permissions()).unwrap_err(),
        symlink("x", shown.seen.join("link")).unwrap_err(),
        fs::hard_link(&file, shown.seen.join("hard")).unwrap_err(),
        xattr::set(&file, "user.x", b"y").unwrap_err(),
        fs::write(shown.seen.parent().unwrap().join("above"), "").unwrap_err(),
    ];
    for (index, error) in errors.iter().enumerate() {
        assert_eq!(error.kind(), ErrorKind::ReadOnlyFilesystem, "operation {index}: {error}");
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), "x");
}

#[test]
fn ten_thousand_entries_are_listed_each_once() {
    if !inside("reads::ten_thousand_entries_are_listed_each_once") {
        return;
    }
    let shown = Shown::new(false);
    for index in 0..10_000 {
        fs::write(shown.real.join(format!("entry-{index:05}-{}", "x".repeat(index % 60))), "").unwrap();
    }
    let all: Vec<_> = fs::read_dir(&shown.seen).unwrap().map(|entry| entry.unwrap()).collect();
    assert_eq!(all.len(), 10_000);
    assert!(all.iter().all(|entry| entry.metadata().unwrap().is_file()));
    assert_eq!(names(&shown.seen), names(&shown.real));
}

#[test]
fn a_change_in_the_pod_shows() {
    if !inside("reads::a_change_in_the_pod_shows") {
        return;
    }
    let shown = Shown::new(false);
    // As the kubelet does with a ConfigMap.
    for version in ["one", "two"] {
        fs::create_dir(shown.real.join(version)).unwrap();
        fs::write(shown.real.join(version).join("key"), version).unwrap();
    }
    symlink("one", shown.real.join("..data")).unwrap();
    symlink("..data/key", shown.real.join("key")).unwrap();
    fs::write(shown.real.join("plain"), "before").unwrap();
    let (key, plain) = (shown.seen.join("key"), shown.seen.join("plain"));
    assert_eq!(fs::read_to_string(&key).unwrap(), "one");
    assert_eq!(fs::read_to_string(&plain).unwrap(), "before");
    let mut open = fs::File::open(&plain).unwrap();

    symlink("two", shown.real.join("..tmp")).unwrap();
    fs::rename(shown.real.join("..tmp"), shown.real.join("..data")).unwrap();
    fs::remove_dir_all(shown.real.join("one")).unwrap();
    fs::write(shown.real.join("plain"), "after, and longer").unwrap();
    // A file that is opened anew is read anew; a name is looked up anew within a second.
    assert_eq!(fs::read_to_string(&plain).unwrap(), "after, and longer");
    until(|| fs::read_to_string(&key).is_ok_and(|text| text == "two"));
    let mut text = String::new();
    until(|| {
        text.clear();
        open.seek(SeekFrom::Start(0)).unwrap();
        open.read_to_string(&mut text).unwrap();
        text == "after, and longer"
    });
}

/// Waits for what comes within a second or so.
pub(crate) fn until(mut is: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if is() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("it did not come");
}

#[test]
fn big_files_are_read_whole_from_front_back_and_anywhere() {
    if !inside("reads::big_files_are_read_whole_from_front_back_and_anywhere") {
        return;
    }
    let shown = Shown::new(false);
    let bytes: Vec<u8> = (0..12_345_678_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    fs::write(shown.real.join("big"), &bytes).unwrap();
    assert!(fs::read(shown.seen.join("big")).unwrap() == bytes);
    let mut file = fs::File::open(shown.seen.join("big")).unwrap();
    for chunk in (0..bytes.len()).step_by(1_000_003).rev() {
        let mut part = vec![0; 70_000.min(bytes.len() - chunk)];
        file.seek(SeekFrom::Start(chunk as u64)).unwrap();
        file.read_exact(&mut part).unwrap();
        assert!(part == bytes[chunk..chunk + part.len()], "at {chunk}");
    }
    let mapped =
        Command::new("cmp").arg(shown.real.join("big")).arg(shown.seen.join("big")).status().unwrap();
    assert!(mapped.success());
}

#[test]
fn what_is_no_file_is_shown_and_not_opened() {
    if !inside("reads::what_is_no_file_is_shown_and_not_opened") {
        return;
    }
    let shown = Shown::new(false);
    nix::unistd::mkfifo(&shown.real.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(shown.real.join("socket")).unwrap();
    let kind = |name: &str| fs::metadata(shown.seen.join(name)).unwrap().file_type();
    assert!(kind("fifo").is_fifo() && kind("socket").is_socket());
    let connect = std::os::unix::net::UnixStream::connect(shown.seen.join("socket")).unwrap_err();
    assert_eq!(connect.kind(), ErrorKind::ConnectionRefused, "the pod's process is no process of the laptop");
}

#[test]
fn volumes_lie_within_each_other_and_files_can_be_volumes() {
    if !inside("reads::volumes_lie_within_each_other_and_files_can_be_volumes") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir_all(at("data/cache")).unwrap();
    fs::create_dir_all(at("other")).unwrap();
    fs::write(at("data/own"), "own").unwrap();
    fs::write(at("other/inner"), "inner").unwrap();
    fs::write(at("single"), "single").unwrap();
    let mount = |path: &str, source: &str| Mount {
        path: path.into(),
        source: at(source),
        writable: true,
        is_folder: false,
    };
    let mounts = [
        mount("/data", "data"),
        mount("/data/cache", "other"),
        mount("/etc/app/app.conf", "single"),
        mount("/gone", "missing"),
    ];
    let shown = Shown::with(folder, &mounts);
    let seen = |path: &str| shown.seen.join(path);
    assert_eq!(names(&shown.seen), BTreeSet::from(["data".into(), "etc".into()]));
    assert_eq!(names(&seen("data")), BTreeSet::from(["cache".into(), "own".into()]));
    assert_eq!(fs::read_to_string(seen("data/cache/inner")).unwrap(), "inner");
    assert_eq!(fs::read_to_string(seen("etc/app/app.conf")).unwrap(), "single");
    assert_eq!(fs::metadata(seen("gone")).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(fs::write(seen("etc/x"), "").unwrap_err().kind(), ErrorKind::ReadOnlyFilesystem);
    assert_eq!(fs::remove_dir(seen("data/cache")).unwrap_err().kind(), ErrorKind::ResourceBusy);
    let across = fs::rename(seen("data/own"), seen("data/cache/own")).unwrap_err();
    assert_eq!(across.kind(), ErrorKind::CrossesDevices);
    fs::write(seen("etc/app/app.conf"), "changed").unwrap();
    assert_eq!(fs::read_to_string(shown.real.join("single")).unwrap(), "changed");
}
