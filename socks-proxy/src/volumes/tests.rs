//! The service by its messages: what the file system of the launcher would never ask, too.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::io::Errno;

use super::act::Files;
use super::places::step_by_step_only;
use super::wire::{Answer, Ask, Change, Identity, Place, Root, Subject, Time};

struct Volume {
    folder: tempfile::TempDir,
    files: Files,
}

fn volume(writable: bool) -> Volume {
    let folder = tempfile::tempdir().unwrap();
    for inner in ["volume/a/b", "secret"] {
        fs::create_dir_all(folder.path().join(inner)).unwrap();
    }
    fs::write(folder.path().join("secret/key"), "secret").unwrap();
    fs::write(folder.path().join("volume/a/b/file"), "text").unwrap();
    let path = folder.path().join("volume").into_os_string().into_encoded_bytes().into();
    Volume { files: Files::new(vec![Root { path, writable }]), folder }
}

fn place(path: &str) -> Place {
    Place { root: 0, path: path.as_bytes().to_vec().into(), is: None }
}

fn name(name: &str) -> serde_bytes::ByteBuf {
    name.as_bytes().to_vec().into()
}

impl Volume {
    fn at(&self, path: &str) -> std::path::PathBuf {
        self.folder.path().join(path)
    }

    fn ask(&self, ask: Ask) -> Result<Answer, Errno> {
        self.files.answer(ask)
    }

    fn read(&self, path: &str) -> Result<Vec<u8>, Errno> {
        let opened = self.ask(Ask::Open { file: place(path), flags: 0 })?;
        let Answer::Opened { handle, .. } = opened else { panic!("{opened:?}") };
        match self.ask(Ask::Read { handle, offset: 0, length: 100 })? {
            Answer::Bytes(bytes) => Ok(bytes.into_vec()),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn nothing_outside_of_the_roots_can_be_reached() {
    // Twice: as openat2(2) does it, and part by part.
    for by_parts in [false, true] {
        step_by_step_only(by_parts);
        let volume = volume(true);
        symlink("../secret", volume.at("volume/out")).unwrap();
        symlink(volume.at("secret"), volume.at("volume/away")).unwrap();
        symlink("/", volume.at("volume/a/root")).unwrap();
        assert_eq!(volume.read("a/b/file").unwrap(), b"text");
        for path in [
            "..",
            "../secret/key",
            "a/../../secret/key",
            "/etc/passwd",
            "a//b",
            "./a",
            "a/b/file/",
            "a\0b",
            "out/key",
            "away/key",
            "a/root/etc/passwd",
            "a/b/file/x",
        ] {
            let refused = volume.read(path).unwrap_err();
            assert!(matches!(refused, Errno::INVAL | Errno::STALE), "{path:?}: {refused}");
        }
        assert_eq!(volume.read("out").unwrap_err(), Errno::LOOP);
        for bad in ["..", ".", "", "a/b", "../secret/key"] {
            for ask in [
                Ask::Look { folder: place("a"), name: name(bad) },
                Ask::Create { folder: place("a"), name: name(bad), flags: 1, mode: 0o600 },
                Ask::Remove { folder: place("a"), name: name(bad), is_folder: false },
                Ask::MakeLink { file: place("a/b/file"), folder: place("a"), name: name(bad) },
                Ask::MakeSymlink { folder: place("a"), name: name(bad), text: name("x") },
                Ask::Rename {
                    folder: place("a/b"),
                    name: name("file"),
                    to_folder: place("a"),
                    to_name: name(bad),
                    flags: 0,
                },
            ] {
                assert_eq!(volume.ask(ask.clone()), Err(Errno::INVAL), "{ask:?}");
            }
        }
        // A link in the way is none to be made, opened or cut either.
        let out = place("out");
        for ask in [
            Ask::Create { folder: out.clone(), name: name("new"), flags: 1, mode: 0o600 },
            Ask::MakeFolder { folder: out.clone(), name: name("new"), mode: 0o700 },
        ] {
            assert!(volume.ask(ask).is_err());
        }
        let change = Change { size: Some(0), ..Change::default() };
        assert!(volume.ask(Ask::Change { of: Subject::Place(place("out/key")), change }).is_err());
        let made = Ask::Create { folder: place(""), name: name("out"), flags: 0o1001, mode: 0o600 };
        assert!(volume.ask(made).is_err(), "a link is not followed when a file is made");
        assert_eq!(fs::read(volume.at("secret/key")).unwrap(), b"secret");
        assert_eq!(fs::read_dir(volume.at("secret")).unwrap().count(), 1);
    }
    step_by_step_only(false);
}

#[test]
fn a_path_that_is_another_files_by_now_is_stale() {
    let volume = volume(false);
    let Answer::Attributes(told) = volume.ask(Ask::Attributes(Subject::Place(place("a/b/file")))).unwrap()
    else {
        panic!()
    };
    let known = Place { is: Some(told.identity), ..place("a/b/file") };
    assert!(volume.ask(Ask::Open { file: known.clone(), flags: 0 }).is_ok());
    fs::write(volume.at("volume/other"), "other").unwrap();
    fs::rename(volume.at("volume/other"), volume.at("volume/a/b/file")).unwrap();
    assert_eq!(volume.ask(Ask::Open { file: known, flags: 0 }), Err(Errno::STALE));
    let identity = Identity { device: 1, inode: 1, born: Time::default() };
    let elsewhere = Place { is: Some(identity), ..place("a") };
    assert_eq!(volume.ask(Ask::List { folder: elsewhere, after: 0, room: 1 }), Err(Errno::STALE));
}

#[test]
fn a_root_that_is_not_for_writing_is_not_written_to() {
    let volume = volume(false);
    let change = Change { mode: Some(0), ..Change::default() };
    for ask in [
        Ask::Open { file: place("a/b/file"), flags: 1 },
        Ask::Open { file: place("a/b/file"), flags: 0o1000 },
        Ask::Create { folder: place("a"), name: name("new"), flags: 1, mode: 0 },
        Ask::MakeFolder { folder: place("a"), name: name("new"), mode: 0 },
        Ask::MakeSymlink { folder: place("a"), name: name("new"), text: name("x") },
        Ask::MakeLink { file: place("a/b/file"), folder: place("a"), name: name("new") },
        Ask::Remove { folder: place("a/b"), name: name("file"), is_folder: false },
        Ask::Change { of: Subject::Place(place("a")), change },
        Ask::SetXattr { of: Subject::Place(place("a")), name: name("user.x"), value: name("y"), flags: 0 },
        Ask::Access { of: place("a"), mask: 2 },
    ] {
        assert_eq!(volume.ask(ask.clone()), Err(Errno::ROFS), "{ask:?}");
    }
}

#[test]
fn a_fifo_is_shown_and_not_opened() {
    let volume = volume(true);
    let made = Ask::MakeNode { folder: place(""), name: name("fifo"), mode: 0o010_600 };
    let Answer::Attributes(told) = volume.ask(made).unwrap() else { panic!() };
    assert_eq!(told.mode & 0o170_000, 0o010_000);
    for flags in [0, 1, 2] {
        assert_eq!(volume.ask(Ask::Open { file: place("fifo"), flags }), Err(Errno::NXIO));
    }
    let device = Ask::MakeNode { folder: place(""), name: name("null"), mode: 0o020_666 };
    assert_eq!(volume.ask(device), Err(Errno::PERM));
}

#[test]
fn a_listing_goes_on_where_it_ended() {
    let volume = volume(false);
    for index in 0..500 {
        fs::write(volume.at(&format!("volume/a/file-{index:03}")), "").unwrap();
    }
    let (mut after, mut names) = (0, Vec::new());
    loop {
        let listed = volume.ask(Ask::List { folder: place("a"), after, room: 1000 }).unwrap();
        let Answer::Listing { entries, end } = listed else { panic!("{listed:?}") };
        assert!(entries.iter().all(|entry| entry.attributes.is_some()));
        after = entries.last().map_or(after, |entry| entry.cookie);
        names.extend(entries.into_iter().map(|entry| entry.name.into_vec()));
        if end {
            break;
        }
    }
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 501);
    assert!(Path::new(std::str::from_utf8(&names[0]).unwrap()).starts_with("b"));
}

#[tokio::test]
async fn a_stream_answers_in_any_order_and_ends_with_what_it_does_not_understand() {
    use crate::messages;
    use crate::volumes::wire::{Hello, MESSAGE_MAX, Question, Response};
    use tokio::io::AsyncWriteExt as _;

    let (mut here, there) = tokio::io::duplex(1024);
    let served = tokio::spawn(super::serve(there));
    messages::write(&mut here, &Hello { roots: Vec::new() }).await.unwrap();
    messages::write(&mut here, &Question { id: 7, ask: Ask::Space(place("a")) }).await.unwrap();
    messages::write(&mut here, &Question { id: 8, ask: Ask::Alive }).await.unwrap();
    let mut answers = Vec::new();
    for _ in 0..2 {
        let Response { id, result } = messages::read(&mut here, MESSAGE_MAX).await.unwrap();
        answers.push((id, result));
    }
    answers.sort_by_key(|(id, _)| *id);
    assert_eq!(answers, [(7, Err(22)), (8, Ok(Answer::Done))]);
    here.write_all(&[0, 0, 0, 3, 1, 0xFF, 0xFF]).await.unwrap();
    assert_eq!(served.await.unwrap().unwrap_err().kind(), std::io::ErrorKind::InvalidData);
}
