//! Trees of programs: whoever starts whom, in whatever way, the network is the pod's; what the shim cannot enter is not
//! started by anybody, where there is to be nothing but the shim.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "what is not as expected is a failed case")]

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use tp_tests::case::{Folder, LIMIT, PYTHON, Running, app, ran};
use tp_tests::{Case, methods, run};

const BACKEND: &str = "service=backend";

/// Compiles `apps/never.c` into the folder.
fn never(folder: &Folder, name: &str, flags: &[&str]) -> String {
    let path = folder.file(name);
    run::output(Command::new("gcc").args(["-o", &path]).arg(app("never.c")).args(flags)).unwrap();
    path
}

/// A program of every kind that the shim cannot enter, and a word of the reason.
fn never_started(folder: &Folder) -> Vec<(String, &'static str)> {
    let all = [
        (never(folder, "static", &["-static"]), "statically linked"),
        (never(folder, "static-pie", &["-static-pie"]), "statically linked"),
        (never(folder, "go", &["-DGO"]), "is a Go program"),
        (never(folder, "musl", &["-Wl,--dynamic-linker=/lib/ld-musl-x86_64.so.1"]), "another C library"),
        (never(folder, "arm", &[]), "another architecture (Aarch64)"),
        (never(folder, "narrow", &[]), "another architecture (32-bit)"),
        (never(folder, "setuid", &[]), "set-user-ID"),
        (never(folder, "setgid", &[]), "set-group-ID"),
        (never(folder, "setcap", &[]), "file capabilities"),
        (never(folder, "secret", &[]), "cannot be read"),
    ];
    let byte = |name: &str, at: usize, value: u8| {
        let mut bytes = std::fs::read(folder.file(name)).unwrap();
        bytes[at] = value;
        std::fs::write(folder.file(name), bytes).unwrap();
    };
    // EI_CLASS and e_machine (elf(5)).
    byte("narrow", 4, 1);
    byte("arm", 18, 183);
    let own = |name: &str, mode: u32| {
        let path = folder.file(name);
        chown(&path, Some(0), Some(0)).unwrap();
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    };
    own("setuid", 0o4755);
    own("setgid", 0o2755);
    own("secret", 0o711);
    // CAP_NET_RAW, as setcap(8) writes it (capabilities(7), VFS_CAP_REVISION_2).
    let set = "import os, sys, struct; os.setxattr(sys.argv[1], 'security.capability', \
               struct.pack('<5I', 0x02000001, 1 << 13, 0, 0, 0))";
    run::output(Command::new(PYTHON).args(["-c", set, &folder.file("setcap")])).unwrap();
    all.to_vec()
}

/// Steps: each is the command itself, and a child of a shell, and the interpreter of a script of a script; it never
/// runs, the command's exit code is 126, and one line says why.
#[test]
fn what_the_shim_cannot_enter_is_started_by_nobody() {
    let case = Case::new();
    let Some(laptop) = case.laptop("programs of the laptop's user") else { return };
    let folder = Folder::new(laptop);
    let all = never_started(&folder);
    for (program, reason) in [&all[0], &all[6], &all[8]] {
        ran(&mut case.by("shim", [program])).exits(126).complains(&[program, reason, "did not start it"]);
    }
    let mut files: Vec<String> = all.iter().map(|(path, _)| path.clone()).collect();
    let script = folder.write("script", &format!("#! {}\n", folder.file("static")), 0o755);
    let relative = folder.write("relative", "#!./static -x\n", 0o755);
    files.extend([folder.write("chain", &format!("#!{script} -x\n"), 0o755), script, relative]);
    let mut words = vec!["sh".to_owned(), "-c".to_owned()];
    words.push("cd $0; for file; do \"$file\"; echo $?; done; env -S 'A=1 ./static'; echo $?".to_owned());
    words.push(folder.path().display().to_string());
    words.extend(files.iter().cloned());
    let ran = ran(&mut case.by("shim", words));
    let expected = vec!["126"; files.len() + 1];
    assert_eq!(ran.succeeds().lines().collect::<Vec<_>>(), expected, "{ran}");
    for (path, reason) in &all {
        let line = ran.stderr.lines().find(|line| line.contains("tp: not started: ") && line.contains(path));
        assert!(line.is_some_and(|line| line.contains(reason)), "{path}: {reason}: {ran}");
    }
}

/// Steps: tp runs where no program gains anything by its bits; a set-user-ID program is one like any other there, and
/// one with file capabilities, which its loader distrusts all the same, is still refused.
#[test]
fn a_set_user_id_program_that_gains_nothing_is_entered() {
    let case = Case::new();
    let Some(laptop) = case.laptop("programs of the laptop's user") else { return };
    let folder = Folder::new(laptop);
    let _all = never_started(&folder);
    let python = folder.file("python");
    std::fs::copy(PYTHON, &python).unwrap();
    chown(&python, Some(0), Some(0)).unwrap();
    std::fs::set_permissions(&python, PermissionsExt::from_mode(0o6755)).unwrap();
    let without = |program: &[&str]| {
        let tp = case.by("shim", program);
        let mut command = laptop.command("setpriv").unwrap();
        ran(command.arg("--no-new-privs").arg(tp.get_program()).args(tp.get_args()))
    };
    let fetch = "import urllib.request; print(urllib.request.urlopen('http://backend/').read().decode())";
    without(&[&python, "-c", fetch]).says(&[BACKEND]);
    without(&[&folder.file("setcap")]).exits(126).complains(&["file capabilities"]);
    case.web([&python, "-c", fetch]).exits(126).complains(&["set-user-ID"]);
}

/// In a root folder without the shim the loader would say so and go on, unhooked.
#[test]
fn a_program_that_changed_its_root_starts_nothing_without_the_shim() {
    let case = Case::new();
    let root = case.web(["unshare", "-r", "--root=/usr", "/bin/true"]);
    root.exits(126).complains(&["Operation not permitted"]);
    case.web(["unshare", "-r", "curl", "-sS", "http://backend/"]).says(&[BACKEND]);
}

/// Steps: nobody reads tp's stderr, and it is full when tp has to say there that it does not start a program; another
/// program of the run connects all the same.
#[test]
fn a_refusal_that_nobody_reads_keeps_no_other_program_waiting() {
    let case = Case::new();
    let Some(laptop) = case.laptop("it fills tp's stderr") else { return };
    let folder = Folder::new(laptop);
    let refused = never(&folder, "static", &["-static"]);
    let (reader, mut full) = std::io::pipe().unwrap();
    let status = nix::fcntl::fcntl(&full, nix::fcntl::F_GETFL).unwrap();
    let status = nix::fcntl::OFlag::from_bits_retain(status);
    nix::fcntl::fcntl(&full, nix::fcntl::F_SETFL(status | nix::fcntl::OFlag::O_NONBLOCK)).unwrap();
    while std::io::Write::write(&mut full, &[b'x'; 4096]).is_ok() {}
    nix::fcntl::fcntl(&full, nix::fcntl::F_SETFL(status)).unwrap();
    let script = "\"$0\" 2>/dev/null & sleep 1; curl -sS http://backend/ 2>&1; kill -9 $!";
    let mut command = case.by("shim", ["sh", "-c", script, &refused]);
    let (ended_tx, ended_rx) = std::sync::mpsc::channel::<()>();
    // Without a reader nothing waits any more.
    let patience = std::thread::spawn(move || (ended_rx.recv_timeout(LIMIT).is_ok(), reader).0);
    let output = command.stderr(full).output().unwrap();
    let _ = ended_tx.send(());
    assert!(patience.join().unwrap(), "it hung: {output:?}");
    assert!(output.stdout.starts_with(BACKEND.as_bytes()), "{output:?}");
}

/// ldconfig is static, and what Python finds libraries by.
#[test]
fn pythons_search_for_libraries_works() {
    let case = Case::new();
    let find = "import ctypes.util; print(ctypes.util.find_library('c'))";
    assert_eq!(case.web([PYTHON, "-c", find]).prints("libc.so.6").stderr, "");
}

#[test]
fn programs_that_start_programs_pass_the_network_on() {
    let case = Case::new();
    let fetch = "curl -sS http://backend/";
    let script = format!(
        "cd $0; export PATH=.:$PATH
         nohup {fetch} 2>&1 | cat; setsid -w {fetch}; timeout 20 {fetch}; nice {fetch}; stdbuf -oL {fetch}
         env -S 'A=1 {fetch}'; echo http://backend/ | xargs curl -sS; find . -name by-hash -exec {fetch} ';'
         by-env; ./by-hash; $0/by-hash; plain; (exec -a another {fetch}); fakeroot {fetch}
         perl -e 'system(\"{fetch}\"); exec(\"{fetch} | cat\")'; true"
    );
    let Some(laptop) = case.laptop("programs of the laptop's user") else { return };
    let folder = Folder::new(laptop);
    let _written = [
        folder.write("by-env", &format!("#!/usr/bin/env bash\n{fetch}\n"), 0o755),
        folder.write("by-hash", &format!("#! /bin/sh -e\n{fetch}\n"), 0o755),
        // Without `#!`: execvp(3) has the shell read it.
        folder.write("plain", &format!("{fetch}\n"), 0o755),
    ];
    let ran = case.web(["bash", "-c", &script, &folder.path().display().to_string()]);
    assert_eq!(ran.succeeds().matches(BACKEND).count(), 16, "{ran}");
    assert!(!ran.stderr.contains("preload") && !ran.stderr.contains("tp:"), "{ran}");
}

#[test]
fn a_program_that_emptied_its_own_environment_has_the_network_in_its_shells() {
    let case = Case::new();
    let ran = case.python("emptied", &[]);
    ran.says(&["system 0\n", "popen 0\n"]);
    assert_eq!(ran.stdout.matches(BACKEND).count(), 3, "{ran}");
}

#[test]
fn no_descriptor_is_in_a_programs_way() {
    let case = Case::new();
    // The shim needs one for a question about a socket that does not wait.
    let few = if methods::under_the_shim() { "EMFILE" } else { "EINPROGRESS" };
    case.python("descriptors", &[]).prints(&format!(
        "1 answer, the same descriptors\nall closed, 1 answer\n0\n{few}\nand with one more, EINPROGRESS\nmoved, 1 answer\n\
         socket 0, 1 answer"
    ));
}

/// Steps: a daemon is started and tp ends; while it ran the daemon reached the pod, afterwards it reaches nobody.
#[test]
fn a_daemon_that_outlives_tp_reaches_nobody() {
    let case = Case::new();
    let Some(laptop) = case.laptop("a file of the laptop's user") else { return };
    let folder = Folder::new(laptop);
    let path = folder.file("said");
    case.python("daemon", &[&path]).prints("started");
    let deadline = Instant::now() + LIMIT;
    while !Path::new(&path).exists() {
        assert!(Instant::now() < deadline, "the daemon wrote nothing");
        sleep(Duration::from_millis(10));
    }
    let said = std::fs::read_to_string(path).unwrap();
    assert_eq!(said, format!("while it ran: connected\nafterwards: {}", methods::lost()));
}

/// Steps: a server under a reloader is changed; the reloader starts it anew, and it reaches the pod again.
#[test]
fn a_reloader_starts_the_changed_program_in_the_pods_network() {
    let case = Case::new();
    let Some(laptop) = case.laptop("a file of the laptop's user") else { return };
    let folder = Folder::new(laptop);
    let server = std::fs::read_to_string(app("served.js")).unwrap();
    let source = |version: &str| server.replace("VERSION", version);
    let file = folder.write("server.js", &source("first"), 0o644);
    let mut command = case.web_command(["/usr/bin/node", "--watch", &file]);
    let mut running = Running::start(command.stdin(Stdio::null()));
    let lines = BufReader::new(running.child.stdout.take().unwrap()).lines();
    let mut said = lines.map(Result::unwrap).filter(|line| line.contains("service="));
    assert_eq!(said.next().as_deref(), Some("first service=backend"));
    let _changed = folder.write("server.js", &source("second"), 0o644);
    assert_eq!(said.next().as_deref(), Some("second service=backend"));
    kill(running.pid(), Signal::SIGTERM).unwrap();
    running.ends_within(LIMIT);
}

/// Go's own tool is a Go program, and so is what `go test` makes.
#[test]
fn gos_tools_are_refused_with_the_reason() {
    let case = Case::cold();
    let Some(go) = tp_tests::host::find("go") else { panic!("the cluster is made with go") };
    ran(&mut case.by("shim", [go.as_os_str(), "vet".as_ref()])).exits(126).complains(&["is a Go program"]);
}
