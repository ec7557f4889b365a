//! What a machine allows: `tp doctor` says it, and a run goes by it. Where the one method is not allowed the other is taken;
//! where neither is, nothing is started.
#![allow(clippy::unwrap_used, reason = "what is not as expected is a failed case")]

use std::ffi::OsStr;
use std::process::Command;

use tp_tests::case::{Folder, Ran, app, ran};
use tp_tests::{Case, Laptop, run};

const BACKEND: &str = "service=backend";
/// A static program.
const FETCH: [&str; 4] = ["/bin/busybox", "wget", "-qO-", "http://backend/"];

/// The laptop as a machine that does not allow something.
struct Machine<'a> {
    case: &'a Case,
    laptop: &'a Laptop,
    folder: Folder,
}

impl<'a> Machine<'a> {
    fn new(case: &'a Case) -> Option<Self> {
        let laptop = case.laptop("a user without privileges")?;
        let folder = Folder::new(laptop);
        let output = folder.file("confined");
        run::output(Command::new("gcc").args(["-o", &output]).arg(app("confined.c"))).unwrap();
        Some(Self { case, laptop, folder })
    }

    /// `command` without all of `what`.
    fn without(&self, what: &[&str], command: &Command) -> Ran {
        let confined = self.folder.file("confined");
        let mut words: Vec<&OsStr> =
            what.iter().flat_map(|what| [confined.as_ref(), what.as_ref()]).collect();
        words.push(command.get_program());
        words.extend(command.get_args());
        ran(self.laptop.command(words.first().unwrap()).unwrap().args(words.iter().skip(1)))
    }

    fn doctor(&self) -> Command {
        let mut tp = self.case.target().tp().unwrap();
        tp.arg("doctor");
        tp
    }

    fn fetch(&self, options: &[&str]) -> Command {
        let place = ["--deployment", "web"].into_iter().chain(options.iter().copied());
        self.case.command(place, FETCH)
    }
}

#[test]
fn a_machine_that_allows_all_is_told_so() {
    let case = Case::cold();
    let Some(machine) = Machine::new(&case) else { return };
    let told = machine.without(&[], &machine.doctor());
    told.exits(0);
    let volumes = "the pod's volumes: at their own paths";
    for line in ["shim  works", "vif   works", "trap  works", volumes, "Any program can be run"] {
        assert!(told.stdout.contains(line), "{line}: {told}");
    }
}

/// Steps: a machine lacks one thing; the doctor names it and how to allow it, and a static program takes the way that is
/// left, in the same run.
#[test]
fn what_one_method_lacks_the_other_makes_up_for() {
    let case = Case::new();
    let Some(machine) = Machine::new(&case) else { return };
    for (what, lacks, words, takes) in [
        ("namespaces", "vif", "user namespaces: Operation not permitted", "trap"),
        ("netfilter", "vif", "rules for packets (nf_tables): Protocol not supported", "trap"),
        ("seccomp", "trap", "seccomp user notification: Operation not permitted", "vif"),
        ("getfd", "trap", "(pidfd_getfd): Operation not permitted", "vif"),
        ("listener", "trap", "seccomp user notification: Device or resource busy", "vif"),
    ] {
        let told = machine.without(&[what], &machine.doctor());
        told.exits(0);
        for line in [&format!("{lacks:<5} does not work here"), words, &format!("and by {takes} where")] {
            assert!(told.stdout.contains(line), "{what}: {line}: {told}");
        }
        let fetched = machine.without(&[what], &machine.fetch(&["-v"]));
        fetched.says(&[BACKEND]).complains(&[&format!("method={takes}"), "is statically linked"]);
        let asked_for = machine.without(&[what], &machine.fetch(&["--method", lacks]));
        asked_for.exits(125).complains(&["does not allow --method", words, "tp doctor"]);
    }
}

/// Steps: a machine allows neither; the doctor says so; a static program is refused, as the command with all that is
/// missing, and as a child, whose parent goes on.
#[test]
fn where_nothing_is_allowed_nothing_is_started() {
    let case = Case::new();
    let Some(machine) = Machine::new(&case) else { return };
    let nothing = ["namespaces", "seccomp"];
    machine.without(&nothing, &machine.doctor()).exits(1);
    let refused = machine.without(&nothing, &machine.fetch(&[]));
    refused.exits(126).complains(&[
        "/bin/busybox is statically linked",
        "did not start it",
        "vif: user namespaces",
        "trap: seccomp user notification",
        "seccomp=unconfined",
    ]);
    let script = "/bin/busybox true; echo $?; curl -sS http://backend/";
    let parent = machine.without(&nothing, &case.web_command(["sh", "-c", script]));
    parent.says(&["126\n", BACKEND]).complains(&["tp: not started: ", "busybox is statically linked"]);
}

/// The sysctl is one of each user namespace.
#[test]
fn without_user_namespaces_there_is_the_filter() {
    let case = Case::new();
    let Some(machine) = Machine::new(&case) else { return };
    let limited = |command: &Command| {
        let script = "echo 0 > /proc/sys/user/max_user_namespaces; exec \"$@\"";
        let mut unshare = machine.laptop.command("unshare").unwrap();
        unshare.args(["--user", "--map-root-user", "sh", "-c", script, "sh"]);
        ran(unshare.arg(command.get_program()).args(command.get_args()))
    };
    let told = limited(&machine.doctor());
    told.exits(0);
    assert!(told.stdout.contains("sudo sysctl user.max_user_namespaces="), "{told}");
    assert!(!told.stdout.contains("at their own paths\n"), "{told}");
    limited(&machine.fetch(&["-v"])).says(&[BACKEND]).complains(&["method=trap"]);
}
