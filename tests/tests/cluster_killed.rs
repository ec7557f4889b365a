//! tp that is killed at any moment under a program that the shim cannot enter: nothing of the run stays, no process, no
//! namespace and so no mount and no table in one.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "what is not as expected is a failed case")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use tp_tests::Case;
use tp_tests::case::{Folder, LIMIT, Running, app, ran};

/// The variable by which a run's processes are known.
const MARK: &str = "TP_TEST_MARK";
/// When the launcher is killed, in milliseconds: while it finds the pod, while it makes what a program enters, while that
/// starts, and while it works.
const MOMENTS: [u64; 16] = [0, 10, 30, 60, 90, 120, 150, 180, 210, 250, 300, 350, 400, 500, 700, 1000];

/// The entries of /proc that are processes.
fn processes() -> impl Iterator<Item = PathBuf> {
    let is_process = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.bytes().all(|byte| byte.is_ascii_digit())
    };
    fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path()).filter(is_process)
}

/// Those that were started with the mark. One that is ending has no environment any more.
fn marked(mark: &str) -> Vec<PathBuf> {
    let mark = format!("{MARK}={mark}");
    let has = |process: &PathBuf| {
        let environment = fs::read(process.join("environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
    };
    processes().filter(has).collect()
}

/// The namespaces that a process is in or has a descriptor of, as `net:[4026531840]`.
fn namespaces(process: &Path) -> BTreeSet<String> {
    let links = ["ns", "fd"].into_iter().filter_map(|folder| fs::read_dir(process.join(folder)).ok());
    let targets = links.flatten().flatten().filter_map(|link| fs::read_link(link.path()).ok());
    let names = targets.map(|target| target.to_string_lossy().into_owned());
    let kinds = ["user:[", "net:[", "mnt:["];
    names.filter(|name| kinds.iter().any(|kind| name.starts_with(kind))).collect()
}

/// What is on the laptop whether a run is on or not.
fn of_others(mark: &str) -> BTreeSet<String> {
    let marked = marked(mark);
    processes().filter(|process| !marked.contains(process)).flat_map(|process| namespaces(&process)).collect()
}

/// Starts the program, kills the launcher alone after that time, and waits until nothing is left.
#[track_caller]
fn leaves_nothing(case: &Case, program: &[&str], after: Duration) {
    let mark = format!("{}-{}", std::process::id(), after.as_millis());
    let mut command = case.web_command(program);
    let running = Running::start(command.env(MARK, &mark).stdin(Stdio::null()));
    let launcher = PathBuf::from(format!("/proc/{}", running.pid()));
    sleep(after);
    // The launcher itself stands in a mount namespace of the harness's making.
    let harness = namespaces(&launcher);
    let made: BTreeSet<String> = marked(&mark).iter().flat_map(|process| namespaces(process)).collect();
    let made: BTreeSet<_> = made.difference(&of_others(&mark)).cloned().collect();
    let made: BTreeSet<_> = made.difference(&harness).cloned().collect();
    // It may have ended by itself by now.
    let _ = kill(running.pid(), Signal::SIGKILL);
    let ended = running.ends_within(LIMIT);
    let deadline = Instant::now() + LIMIT;
    loop {
        let left = marked(&mark);
        let held: Vec<_> = processes().filter(|process| !namespaces(process).is_disjoint(&made)).collect();
        if left.is_empty() && held.is_empty() {
            return;
        }
        let names = |all: &[PathBuf]| {
            let line = |path: &PathBuf| fs::read(path.join("cmdline")).unwrap_or_default();
            all.iter()
                .map(|path| (path.clone(), String::from_utf8_lossy(&line(path)).replace('\0', " ")))
                .collect::<Vec<_>>()
        };
        assert!(
            Instant::now() < deadline,
            "killed after {after:?}, there are {:?}, and in {made:?} {:?}\n{ended}",
            names(&left),
            names(&held)
        );
        sleep(Duration::from_millis(50));
    }
}

/// Steps: a static program that connects, asks and sends for some seconds is started again and again, and tp is killed a
/// little later each time.
#[test]
fn a_launcher_that_is_killed_at_any_moment_leaves_nothing() {
    let case = Case::new();
    let Some(laptop) = case.laptop("a folder of the laptop's user") else { return };
    let folder = Folder::new(laptop);
    let program = folder.file("program");
    ran(Command::new("/usr/bin/gcc").args(["-O1", "-static", "-o", &program]).arg(app("plain.c"))).succeeds();
    thread::scope(|scope| {
        for moments in MOMENTS.chunks(4) {
            let (case, program) = (&case, &program);
            scope.spawn(move || {
                for moment in moments {
                    leaves_nothing(case, &[program], Duration::from_millis(*moment));
                }
            });
        }
    });
}

/// Steps: it is under nobody's control any more, in a network that is gone.
#[test]
fn a_program_that_would_wait_for_ever_does_not_outlive_its_network() {
    leaves_nothing(&Case::new(), &["/bin/busybox", "sleep", "1000"], Duration::from_secs(2));
}
