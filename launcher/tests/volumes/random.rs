//! Any order of operations on a few files, by handles and by names, against the same in a plain folder.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, symlink};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::changes::snapshot;
use super::*;

#[derive(Clone, Debug)]
enum Step {
    Open { slot: u8, name: u8, truncate: bool, append: bool },
    Close(u8),
    Read { slot: u8, at: u32, length: u16 },
    Write { slot: u8, at: u32, length: u16, byte: u8 },
    Cut { slot: u8, to: u32 },
    CutByName { name: u8, to: u32 },
    Whole(u8),
    Rename(u8, u8),
    Link(u8, u8),
    Symlink(u8, u8),
    Remove(u8),
    MakeFolder(u8),
    RemoveFolder(u8),
    Mode(u8, bool),
    Told(u8),
    List,
}

/// Names, two of them in a folder that may be there.
const NAMES: [&str; 7] = ["a", "b", "c", "d", "d/a", "d/b", "long-name"];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (slot, name) = (0..4_u8, 0..NAMES.len() as u8);
    let at = 0..300_000_u32;
    let step = prop_oneof![
        4 => (slot.clone(), name.clone(), any::<bool>(), any::<bool>())
            .prop_map(|(slot, name, truncate, append)| Step::Open { slot, name, truncate: truncate && !append, append }),
        1 => slot.clone().prop_map(Step::Close),
        6 => (slot.clone(), at.clone(), any::<u16>()).prop_map(|(slot, at, length)| Step::Read { slot, at, length }),
        6 => (slot.clone(), at.clone(), any::<u16>(), any::<u8>())
            .prop_map(|(slot, at, length, byte)| Step::Write { slot, at, length, byte }),
        2 => (slot, at.clone()).prop_map(|(slot, to)| Step::Cut { slot, to }),
        1 => (name.clone(), at).prop_map(|(name, to)| Step::CutByName { name, to }),
        2 => name.clone().prop_map(Step::Whole),
        2 => (name.clone(), name.clone()).prop_map(|(from, to)| Step::Rename(from, to)),
        1 => (name.clone(), name.clone()).prop_map(|(from, to)| Step::Link(from, to)),
        1 => (name.clone(), name.clone()).prop_map(|(from, to)| Step::Symlink(from, to)),
        1 => name.clone().prop_map(Step::Remove),
        2 => name.clone().prop_map(Step::MakeFolder),
        1 => name.clone().prop_map(Step::RemoveFolder),
        1 => (name.clone(), any::<bool>()).prop_map(|(name, wide)| Step::Mode(name, wide)),
        2 => name.prop_map(Step::Told),
        1 => Just(Step::List),
    ];
    proptest::collection::vec(step, 1..120)
}

/// One of the two folders, and what is open there.
struct Place {
    folder: PathBuf,
    open: BTreeMap<u8, File>,
}

impl Place {
    fn path(&self, name: u8) -> PathBuf {
        self.folder.join(NAMES[usize::from(name)])
    }

    fn file(&self, slot: u8) -> io::Result<&File> {
        self.open.get(&slot).ok_or_else(|| io::Error::from_raw_os_error(0))
    }

    fn step(&mut self, step: &Step) -> io::Result<String> {
        Ok(match *step {
            Step::Open { slot, name, truncate, append } => {
                let mut options = OpenOptions::new();
                options.read(true).write(true).create(true).append(append);
                if truncate {
                    options.truncate(true);
                }
                let file = options.open(self.path(name))?;
                self.open.insert(slot, file);
                String::new()
            }
            Step::Close(slot) => self.open.remove(&slot).map(|_| String::new()).unwrap_or_default(),
            Step::Read { slot, at, length } => {
                let mut bytes = vec![0; usize::from(length)];
                let length = self.file(slot)?.read_at(&mut bytes, at.into())?;
                format!("{length} {}", digest(&bytes))
            }
            Step::Write { slot, at, length, byte } => {
                self.file(slot)?.write_all_at(&vec![byte; usize::from(length)], at.into())?;
                String::new()
            }
            Step::Cut { slot, to } => format!("{:?}", self.file(slot)?.set_len(to.into())?),
            Step::CutByName { name, to } => {
                format!("{:?}", nix::unistd::truncate(&self.path(name), to.into())?)
            }
            Step::Whole(name) => digest(&fs::read(self.path(name))?),
            Step::Rename(from, to) => format!("{:?}", fs::rename(self.path(from), self.path(to))?),
            Step::Link(from, to) => format!("{:?}", fs::hard_link(self.path(from), self.path(to))?),
            Step::Symlink(to, name) => format!("{:?}", symlink(NAMES[usize::from(to)], self.path(name))?),
            Step::Remove(name) => format!("{:?}", fs::remove_file(self.path(name))?),
            Step::MakeFolder(name) => format!("{:?}", fs::create_dir(self.path(name))?),
            Step::RemoveFolder(name) => format!("{:?}", fs::remove_dir(self.path(name))?),
            Step::Mode(name, wide) => {
                let mode = fs::Permissions::from_mode(if wide { 0o755 } else { 0o700 });
                format!("{:?}", fs::set_permissions(self.path(name), mode)?)
            }
            Step::Told(name) => {
                let told = fs::symlink_metadata(self.path(name))?;
                let length = if told.is_dir() { 0 } else { told.len() };
                format!("{:?} {length}", told.file_type())
            }
            Step::List => {
                let mut names: Vec<_> =
                    fs::read_dir(&self.folder)?.map(|entry| entry.unwrap().file_name()).collect();
                names.sort();
                format!("{names:?}")
            }
        })
    }
}

fn digest(bytes: &[u8]) -> String {
    let sum = bytes.iter().fold(17_u64, |sum, &byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    format!("{} {sum:x}", bytes.len())
}

#[test]
fn whatever_is_done_comes_out_as_in_a_plain_folder() {
    if !inside("random::whatever_is_done_comes_out_as_in_a_plain_folder") {
        return;
    }
    let shown = Shown::new(true);
    let plain = shown._folder.path().join("plain");
    fs::create_dir(&plain).unwrap();
    let count = std::sync::atomic::AtomicU32::new(0);
    let config = Config { cases: 24, failure_persistence: None, ..Config::default() };
    let run = |steps: Vec<Step>| {
        let number = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed).to_string();
        let mut places = [&plain, &shown.seen].map(|folder| {
            let folder = folder.join(&number);
            fs::create_dir(&folder).unwrap();
            Place { folder, open: BTreeMap::new() }
        });
        for (index, step) in steps.iter().enumerate() {
            let told = places.each_mut().map(|place| place.step(step).map_err(|error| error.raw_os_error()));
            prop_assert_eq!(&told[0], &told[1], "step {}, {:?}", index, step);
        }
        prop_assert_eq!(snapshot(&plain.join(&number)), snapshot(&shown.real.join(&number)));
        Ok(())
    };
    TestRunner::new(config).run(&steps(), run).unwrap();
}
