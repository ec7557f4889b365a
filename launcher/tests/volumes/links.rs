//! What a program sees when the link is lost, and when the launcher is.

use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;

use super::*;

#[test]
fn a_lost_link_is_an_error_and_works_again_with_the_next_one() {
    if !inside("links::a_lost_link_is_an_error_and_works_again_with_the_next_one") {
        return;
    }
    let shown = Shown::new(true);
    fs::write(shown.real.join("file"), "before").unwrap();
    fs::write(shown.real.join("gone"), "gone").unwrap();
    let mut file = fs::File::options().read(true).write(true).open(shown.seen.join("file")).unwrap();
    let mut gone = fs::File::open(shown.seen.join("gone")).unwrap();

    shown.link.cut(false);
    let error = fs::metadata(shown.seen.join("other")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    assert_eq!(file.write(b"x").unwrap_err().raw_os_error(), Some(libc::EIO));

    shown.link.mend();
    fs::rename(shown.real.join("file"), shown.real.join("moved")).unwrap();
    fs::rename(shown.real.join("moved"), shown.real.join("file")).unwrap();
    fs::remove_file(shown.real.join("gone")).unwrap();
    fs::write(shown.real.join("gone"), "another").unwrap();
    file.write_all(b"AFTER.").unwrap();
    assert_eq!(fs::read_to_string(shown.real.join("file")).unwrap(), "AFTER.");
    let error = gone.read(&mut [0; 8]).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ESTALE), "another file has its name: {error}");
}

#[test]
fn what_is_read_when_the_link_changes_is_read_on() {
    if !inside("links::what_is_read_when_the_link_changes_is_read_on") {
        return;
    }
    let shown = Shown::new(false);
    let bytes: Vec<u8> = (0..8_000_000_u32).map(|at| (at >> 8) as u8).collect();
    fs::write(shown.real.join("big"), &bytes).unwrap();
    let mut file = fs::File::open(shown.seen.join("big")).unwrap();
    let mut got = Vec::new();
    let mut part = vec![0; 500_000];
    loop {
        let length = file.read(&mut part).unwrap();
        if length == 0 {
            break;
        }
        got.extend_from_slice(&part[..length]);
        shown.link.cut(true);
    }
    assert!(got == bytes);
    file.seek(SeekFrom::Start(0)).unwrap();
}

#[test]
fn an_agent_that_is_silent_is_a_lost_link() {
    if !inside("links::an_agent_that_is_silent_is_a_lost_link") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let seen = folder.path().join("seen");
    fs::create_dir(&seen).unwrap();
    let device = fuse(&seen);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (laptop, _pod) = duplex(1024);
    let laptop = Mutex::new(Some(laptop));
    let open = move || {
        let stream = laptop.lock().unwrap().take();
        let stream = stream.map(|stream| Box::new(stream) as tp::pod::Stream);
        Box::pin(async move { stream.ok_or(std::io::ErrorKind::NotConnected.into()) }) as _
    };
    let mounts = [Mount { path: "/vol".into(), source: "/".into(), writable: false, is_folder: true }];
    let _entered = runtime.enter();
    let _served = tp::volumes::serve(device, open, &mounts, |_| {}).unwrap();
    // That it is a folder is known: what mounts it asks nobody.
    let by_type =
        fs::File::options().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(seen.join("vol"));
    drop(by_type.unwrap());
    let error = fs::metadata(seen.join("vol")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    let _ = nix::mount::umount2(&seen, nix::mount::MntFlags::MNT_DETACH);
}

#[test]
fn when_the_launcher_is_gone_programs_are_told() {
    if !inside("links::when_the_launcher_is_gone_programs_are_told") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let device = fuse(folder.path());
    // Nobody answers: as a launcher that was killed.
    drop(device);
    let error = fs::metadata(folder.path().join("x")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOTCONN));
    let _ = nix::mount::umount2(folder.path(), nix::mount::MntFlags::MNT_DETACH);
}
