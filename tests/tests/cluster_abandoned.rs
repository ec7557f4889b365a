//! tp that is killed or stopped half-way: what it began ends by itself, since an ephemeral container can be removed by
//! nobody, and what can go on does.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "what is not as expected is a failed case")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use tp_tests::case::{LIMIT, Ran, Running, python, ran, ran_within};
use tp_tests::workload::agents;
use tp_tests::{Case, Laptop, Sandbox, Target, Workload, run};

/// The agent's script waits 60 s for its program; the kubelet tells a second later.
const BY_ITSELF: Duration = Duration::from_secs(75);
/// Both ends of a link give it up when nothing came over it for 20 s.
const LINK_IS_DEAD: Duration = Duration::from_secs(25);
const STATE: &str = "{.status.ephemeralContainerStatuses[0].state";

fn shop(case: &Case, name: &str) -> Sandbox {
    let sandbox = Sandbox::create(case.target(), name).unwrap();
    Workload::new("web").apply(&sandbox).unwrap();
    sandbox
}

/// Waits until the first ephemeral container of the namespace's pod is in this state.
#[track_caller]
fn wait_for(sandbox: &Sandbox, path: &str, limit: Duration) {
    let condition = format!("--for=jsonpath={path}}}");
    let timeout = format!("--timeout={}s", limit.as_secs());
    let mut command = sandbox.kubectl();
    command.args(["wait", &condition, &timeout, "pod", "-l", "app=web"]);
    ran_within(&mut command, limit + LIMIT).succeeds();
}

fn say(sandbox: &Sandbox, path: &str) -> Ran {
    let path = format!("jsonpath={{.items[0]{}}}", path.trim_start_matches('{'));
    ran(sandbox.kubectl().args(["get", "pods", "-l", "app=web", "-o", &path]))
}

fn start(target: &Target, sandbox: &Sandbox) -> Running {
    let place = ["-n", sandbox.namespace(), "--deployment", "web"];
    Running::start(target.tp_run(place, ["true"]).unwrap().stdin(Stdio::null()))
}

/// And the next run makes a new one, which works.
fn the_next_run_works(case: &Case, sandbox: &Sandbox) {
    let place = ["-n", sandbox.namespace(), "--deployment", "web"];
    case.tp(place, ["curl", "-sS", "http://backend.default/"]).says(&["service=backend"]);
    assert_eq!(agents(sandbox).unwrap().len(), 2);
}

/// Steps: tp is stopped as soon as the container is written into the pod, so that it never attaches, and killed.
#[test]
fn a_container_that_nobody_attached_to_ends_after_its_time_limit() {
    let case = Case::cold();
    let sandbox = shop(&case, "never-attached");
    let running = start(case.target(), &sandbox);
    wait_for(&sandbox, "{.spec.ephemeralContainers[0].name", Duration::from_secs(20));
    kill(running.pid(), Signal::SIGKILL).unwrap();
    running.ends_within(LIMIT).exits(137);
    wait_for(&sandbox, &format!("{STATE}.terminated"), BY_ITSELF);
    say(&sandbox, &format!("{STATE}.terminated.exitCode")).prints("1");
    the_next_run_works(&case, &sandbox);
}

/// Steps: an installation whose agent takes long to upload; tp is killed when the container runs, in the middle of
/// it; the end of the container's standard input ends it at once.
#[test]
fn a_container_whose_upload_was_cut_off_ends_at_once_and_runs_nothing() {
    let case = Case::cold();
    let Some(laptop) = case.laptop("another installation of tp") else { return };
    let Target::Laptop(cluster, _) = case.target() else { return };
    let slow = SlowInstallation::make(laptop);
    let target = Target::Laptop(cluster.clone(), laptop.clone().with_prefix(slow.prefix.clone()));
    let sandbox = shop(&case, "cut-off");
    let running = start(&target, &sandbox);
    wait_for(&sandbox, &format!("{STATE}.running"), Duration::from_secs(20));
    kill(running.pid(), Signal::SIGKILL).unwrap();
    running.ends_within(LIMIT).exits(137);
    wait_for(&sandbox, &format!("{STATE}.terminated"), Duration::from_secs(20));
    say(&sandbox, &format!("{STATE}.terminated.message")).says(&["the upload was cut off"]);
    the_next_run_works(&case, &sandbox);
}

/// Ctrl-C while the agent is on its way is no crash: tp says nothing, and ends with the signal's code.
#[test]
fn an_interrupt_before_the_command_starts_ends_tp_with_130() {
    let case = Case::cold();
    let sandbox = shop(&case, "interrupted");
    let running = start(case.target(), &sandbox);
    wait_for(&sandbox, "{.spec.ephemeralContainers[0].name", Duration::from_secs(20));
    // It may have come as far as the command by now, which is `true`.
    let _ = kill(running.pid(), Signal::SIGINT);
    let ended = running.ends_within(LIMIT);
    assert!([0, 130].contains(&ended.code), "{ended}");
    assert_eq!((ended.stdout.as_str(), ended.stderr.as_str()), ("", ""));
}

/// Steps: tp is stopped for longer than a link may be silent, and continued; the connection of before has ended, and
/// whatever is new waits for the new link instead of failing.
#[test]
fn a_laptop_that_slept_goes_on_where_it_can() {
    let case = Case::new();
    let mut running = Running::start(case.web_command(python("sleeper", &[])).stdin(Stdio::piped()));
    let mut lines = BufReader::new(running.child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    kill(running.pid(), Signal::SIGSTOP).unwrap();
    // Sleeping is the point here.
    std::thread::sleep(LINK_IS_DEAD);
    kill(running.pid(), Signal::SIGCONT).unwrap();
    running.child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let said: Vec<String> = lines.map(Result::unwrap).collect();
    let ended = running.ends_within(LIMIT);
    let worked = "a lookup worked";
    assert_eq!(said, [worked, worked, worked, "a new one works", "the open connection ended"], "{ended}");
    ended.exits(0).complains(&["the link to the pod was lost", "the link is back"]);
}

/// tp, installed beside the other one, with an agent of many megabytes.
struct SlowInstallation {
    prefix: PathBuf,
}

impl SlowInstallation {
    const AGENT_SIZE: u64 = 1 << 30;

    fn make(laptop: &Laptop) -> Self {
        let prefix = laptop.prefix().with_file_name(format!("dist-slow-{}", std::process::id()));
        for part in ["bin/tp", "lib/tp/libtp_shim.so"] {
            let place = prefix.join(part);
            run::folder(place.parent().unwrap()).unwrap();
            std::fs::copy(laptop.prefix().join(part), place).unwrap();
        }
        // A hole: it takes no room on the disk.
        let agent = std::fs::File::create(prefix.join("lib/tp/tp-agent")).unwrap();
        agent.set_len(Self::AGENT_SIZE).unwrap();
        Self { prefix }
    }
}

impl Drop for SlowInstallation {
    fn drop(&mut self) {
        let _ = run::remove_folder(&self.prefix);
    }
}
