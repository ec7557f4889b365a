//! What becomes of volumes when a run ends beside another one, when a part of it is killed, and when the link or the pod is
//! lost.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tp_tests::case::{Folder, LIMIT, Ran, Running, ran};
use tp_tests::{Apart, Case, Sandbox, Target, containerd, run};

use super::All;

/// How long after a run's start it is killed: while its mounts are made, and while its program reads.
const MOMENTS: [u64; 3] = [150, 400, 900];

/// A program that says something whenever it is told to go on.
struct Talking {
    running: Running,
    stdin: ChildStdin,
    lines: Receiver<String>,
}

impl Talking {
    fn start(command: &mut Command) -> Self {
        let mut running = Running::start(command.stdin(Stdio::piped()));
        let stdin = running.child.stdin.take().unwrap();
        let stdout = BufReader::new(running.child.stdout.take().unwrap());
        let (lines_tx, lines) = mpsc::channel();
        thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| lines_tx.send(line)));
        Self { running, stdin, lines }
    }

    #[track_caller]
    fn line(&self) -> String {
        self.lines.recv_timeout(LIMIT).unwrap()
    }

    /// What it says next.
    #[track_caller]
    fn says<const LINES: usize>(&mut self) -> [String; LINES] {
        self.stdin.write_all(b"go\n").unwrap();
        [(); LINES].map(|()| self.line())
    }

    /// The folder of its run, if it has one yet.
    fn folder(&self) -> Option<PathBuf> {
        let descriptors = fs::read_dir(format!("/proc/{}/fd", self.running.pid())).ok()?;
        let mut files = descriptors.flatten().filter_map(|link| fs::read_link(link.path()).ok());
        files.find(|file| file.ends_with("lock"))?.parent().map(Path::to_owned)
    }

    /// Its end, with what it has said still.
    #[track_caller]
    fn ends(self) -> Ran {
        drop(self.stdin);
        let mut ran = self.running.ends_within(LIMIT);
        ran.stdout = self.lines.iter().collect::<Vec<_>>().join("\n");
        ran
    }
}

/// A pod with a volume at a path in a folder of the laptop's user, who makes what is missing of it himself.
struct Made<'a> {
    case: &'a Case,
    folder: Folder,
    sandbox: Sandbox,
}

impl<'a> Made<'a> {
    fn new(case: &'a Case, folder: Folder) -> Self {
        let sandbox = Sandbox::create(case.target(), "killed").unwrap();
        let pod = format!(
            r#"{{"apiVersion": "v1", "kind": "Pod", "metadata": {{"name": "all"}}, "spec": {{"terminationGracePeriodSeconds": 0,
            "containers": [{{"name": "app", "image": "busybox:stable", "command": ["sleep", "100000"],
            "volumeMounts": [{{"name": "v", "mountPath": "{}"}}]}}],
            "volumes": [{{"name": "v", "configMap": {{"name": "kube-root-ca.crt"}}}}]}}}}"#,
            folder.file("made/below")
        );
        // The controller manager puts it into each namespace.
        let map = ["wait", "--for=create", "configmap/kube-root-ca.crt", "--timeout=60s"];
        run::output(sandbox.kubectl().args(map)).unwrap();
        sandbox.apply(&pod).unwrap();
        let ready = ["wait", "--for=condition=Ready", "pod/all", "--timeout=60s"];
        run::output(sandbox.kubectl().args(ready)).unwrap();
        Self { case, folder, sandbox }
    }

    fn command(&self, script: &str) -> Command {
        self.case.command(["-n", self.sandbox.namespace(), "--pod", "all"], ["sh", "-c", script])
    }

    /// Looks at its volume whenever it is told to.
    fn looks(&self) -> Talking {
        let script =
            format!("while ls {}; do read line || exit 0; done 2>&1", self.folder.file("made/below"));
        let talking = Talking::start(&mut self.command(&script));
        assert_eq!(talking.line(), "ca.crt");
        talking
    }

    fn is_there(&self) -> bool {
        self.folder.path().join("made").exists()
    }
}

/// Waits until no process has a mount of that run's.
#[track_caller]
fn nothing_is_mounted(run: &Path) {
    let name = run.display().to_string();
    let is_mounted = || {
        let mut mounts = processes().filter_map(|process| fs::read_to_string(process.join("mountinfo")).ok());
        mounts.any(|mounts| mounts.contains(&name))
    };
    until(|| !is_mounted(), "nothing is mounted");
}

#[track_caller]
fn until(mut done: impl FnMut() -> bool, what: &str) {
    let deadline = Instant::now() + LIMIT;
    while !done() {
        assert!(Instant::now() < deadline, "{what}: not within {LIMIT:?}");
        sleep(Duration::from_millis(20));
    }
}

fn processes() -> impl Iterator<Item = PathBuf> {
    fs::read_dir("/proc").unwrap().flatten().map(|process| process.path())
}

/// The process that holds the volumes' place of a run.
fn holder(run: &Path) -> Pid {
    let is = |process: &PathBuf| {
        let words = fs::read(process.join("cmdline")).unwrap_or_default();
        let mut words = words.split(|byte| *byte == 0).skip(1);
        words.next() == Some(b"volumes") && words.next() == Some(run.as_os_str().as_encoded_bytes())
    };
    let found = processes().find(is).unwrap();
    Pid::from_raw(found.file_name().unwrap().to_str().unwrap().parse().unwrap())
}

/// Steps: two runs have a volume in one folder, that the first has made; when that ends the second still has it, and takes
/// the folder away. tp is killed at several moments: its program is told at once, and nothing is mounted nor left by the next
/// run. The holder of the mounts is killed: the program goes on, and the next run takes its folder away.
#[test]
fn runs_that_end_or_are_killed_leave_no_mount_and_no_folder() {
    let case = Case::cold();
    let Some(laptop) = case.laptop("a folder of the laptop's user") else { return };
    let made = Made::new(&case, Folder::new(laptop));
    let (first, mut second) = (made.looks(), made.looks());
    first.ends().succeeds();
    assert!(made.is_there());
    assert_eq!(second.says(), ["ca.crt"]);
    second.ends().succeeds();
    assert!(!made.is_there());

    for moment in MOMENTS {
        let script = format!("read line; ls {}", made.folder.file("made/below"));
        let talking = Talking::start(&mut made.command(&script));
        sleep(Duration::from_millis(moment));
        let folder = talking.folder();
        kill(talking.running.pid(), Signal::SIGKILL).unwrap();
        let ended = talking.ends();
        assert!(!ended.stdout.contains("ca.crt"), "{ended}");
        let Some(folder) = folder else { continue };
        nothing_is_mounted(&folder);
        ran(&mut made.command("true")).succeeds();
        assert!(!folder.exists() && !made.is_there(), "killed after {moment} ms");
    }

    let mut looks = made.looks();
    let folder = looks.running.folder();
    kill(holder(&folder), Signal::SIGKILL).unwrap();
    assert_eq!(looks.says(), ["ca.crt"]);
    looks.ends().succeeds();
    ran(&mut made.command("true")).succeeds();
    nothing_is_mounted(&folder);
    assert!(!folder.exists() && !made.is_there());
}

/// Steps: a program has one file open and opens another again and again. The agent is killed: both go on, by the next agent.
/// The laptop's wire is cut: both give EIO, soon; it is put in again, and both go on. The pod is removed: both give EIO.
#[test]
fn a_lost_agent_link_or_pod_is_an_error_and_no_wait_for_ever() {
    let case = Case::cold();
    let Some(laptop) = case.laptop("a wire that can be cut") else { return };
    let all = All::new(&case);
    all.inside("head -c 60000000 /dev/zero > /own/big");
    let apart = Apart::new(laptop).unwrap();
    let tp = laptop.prefix().join("bin/tp").display().to_string();
    let mut command = apart.command(&tp).unwrap();
    command.arg("run").args(all.options(&["--", "sh", "-c"])).arg(
        "exec 3< /own/big; while read line; do
            head -c 4000000 <&3 | wc -c; cat /claim/file 2> /dev/null || echo error; done",
    );
    let mut reads = Talking::start(&mut command);
    let both = ["4000000", "claimed"];
    assert_eq!(reads.says(), both);
    kill(agent(&case, &all.0), Signal::SIGKILL).unwrap();
    assert_eq!(reads.says(), both);
    apart.cut().unwrap();
    // Of the open file there may be what has been read ahead.
    let [_, other] = reads.says();
    assert_eq!(other, "error");
    apart.mend().unwrap();
    until(|| reads.says() == both, "both files are read again");
    let delete = ["delete", "pod", "all", "--grace-period=0", "--force", "--wait=true"];
    run::output(all.0.kubectl().args(delete)).unwrap();
    // The container may go on for a moment after the pod is no more.
    until(|| reads.says::<2>()[1] == "error", "a file of a lost pod is an error");
    reads.ends().succeeds();
}

/// The process of the agent in the pod.
fn agent(case: &Case, sandbox: &Sandbox) -> Pid {
    let Target::Laptop(cluster, _) = case.target() else { panic!("no cluster of ours") };
    let mut found = None;
    until(
        || {
            let pod = run::output(sandbox.kubectl().args(["get", "pod", "all", "-o", "json"])).unwrap();
            let pod: Value = serde_json::from_str(&pod).unwrap();
            let status = pod.pointer("/status/ephemeralContainerStatuses/0");
            let id =
                status.and_then(|status| status.get("containerID")?.as_str()?.strip_prefix("containerd://"));
            found = id.and_then(|id| containerd::pid(cluster.layout(), id).ok());
            found.is_some()
        },
        "the agent runs",
    );
    Pid::from_raw(i32::try_from(found.unwrap()).unwrap())
}
