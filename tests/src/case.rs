//! One case of the main job: programs started through the installed `tp` on the laptop, with what they said and how
//! they ended, and the promise that none of it made the laptop send a packet elsewhere than to the API server.
//!
//! The count of such packets is one for the whole laptop, and cases of one file run side by side: so a case compares
//! the count at its end with the one at its start, and a leak fails every case that ran meanwhile. Every program has
//! a time limit, after which its whole process group is killed and the case fails: a hang is a finding, too.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "whatever goes wrong here is a failed case")]

use std::ffi::OsStr;
use std::fmt;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigHandler, Signal, killpg, signal};
use nix::unistd::Pid;

use crate::fake_launcher::required;
use crate::{Laptop, Target, layout, run};

/// How long a program may take that does nothing long.
pub const LIMIT: Duration = Duration::from_secs(60);
/// Debian's Python: one that the laptop's user can read, whatever the caller has on the PATH.
pub const PYTHON: &str = "/usr/bin/python3";
const WEB: [&str; 2] = ["--deployment", "web"];

/// A case; when it is dropped, the leaks are compared.
#[derive(Debug)]
pub struct Case {
    target: Target,
    leaks: Option<u64>,
}

impl Case {
    /// A case in the running cluster, with the agent of deployment `web` there already.
    #[must_use]
    pub fn new() -> Self {
        static WARM: OnceLock<()> = OnceLock::new();
        let case = Self::cold();
        // Cases of one file start at once; without this each would make an agent of its own.
        WARM.get_or_init(|| {
            case.web(["true"]).succeeds();
        });
        case
    }

    /// A case that makes no use of deployment `web`.
    #[must_use]
    pub fn cold() -> Self {
        let target = Target::attach().unwrap();
        let leaks = target.leaks().unwrap();
        Self { target, leaks }
    }

    /// Where it runs.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// The laptop. Against a cluster of the caller's own there is none: that is said, and fails the case if
    /// `TP_REQUIRE` names `laptop`.
    #[must_use]
    pub fn laptop(&self, what: &'static str) -> Option<&Laptop> {
        let laptop = self.target.laptop(what);
        if let Err(error) = &laptop {
            assert!(!required("laptop"), "TP_REQUIRE names the laptop: {error}");
            eprintln!("this case did not run: {error}");
        }
        laptop.ok()
    }

    /// `tp run OPTIONS -- PROGRAM`, not yet started.
    pub fn command<'a>(
        &self,
        options: impl IntoIterator<Item = &'a str>,
        program: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Command {
        self.target.tp_run(options, program).unwrap()
    }

    /// `tp run OPTIONS -- PROGRAM` to its end.
    pub fn tp<'a>(
        &self,
        options: impl IntoIterator<Item = &'a str>,
        program: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Ran {
        ran(&mut self.command(options, program))
    }

    /// `tp run --deployment web -- PROGRAM`, not yet started.
    pub fn web_command(&self, program: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        self.command(WEB, program)
    }

    /// `tp run --deployment web -- PROGRAM` to its end.
    pub fn web(&self, program: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Ran {
        ran(&mut self.web_command(program))
    }

    /// `tp run --method METHOD --deployment web -- PROGRAM`, not yet started.
    pub fn by(&self, method: &str, program: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        self.command(WEB.into_iter().chain(["--method", method]), program)
    }

    /// `tp run --deployment web -- sh -c SCRIPT` to its end.
    #[must_use]
    pub fn shell(&self, script: &str) -> Ran {
        self.web(["sh", "-c", script])
    }

    /// `tp run --deployment web -- python3` with `apps/NAME.py` and its arguments, to its end.
    #[must_use]
    pub fn python(&self, name: &str, arguments: &[&str]) -> Ran {
        self.web(python(name, arguments))
    }

    /// `tp agent --deployment web OPTIONS` to its end.
    #[must_use]
    pub fn agent(&self, options: &[&str]) -> Ran {
        let mut tp = self.target.tp().unwrap();
        tp.arg("agent");
        if let Target::Context(context, _) = &self.target {
            tp.args(["--context", context]);
        }
        ran(tp.args(WEB).args(options))
    }

    /// What `kubectl` with the administrator's rights says.
    #[must_use]
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        run::output(self.target.kubectl().args(arguments)).unwrap().trim().to_owned()
    }
}

impl Default for Case {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Case {
    fn drop(&mut self) {
        if !thread::panicking() {
            assert_eq!(self.target.leaks().unwrap(), self.leaks, "packets left the laptop");
        }
    }
}

/// Has the program start with the signals that a terminal would send it at their defaults. A caller in the background
/// (`nohup`, a shell's `&`, some CI) ignores them, and that is inherited by all that it starts (signal(7)).
fn as_from_a_terminal(command: &mut Command) {
    // SAFETY: the closure makes system calls only, with constants.
    unsafe {
        command.pre_exec(|| {
            for number in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT] {
                signal(number, SigHandler::SigDfl)?;
            }
            Ok(())
        });
    }
}

/// Debian's Python with `apps/NAME.py` as an argument, since the laptop's user may not be able to read the file.
#[must_use]
pub fn python(name: &str, arguments: &[&str]) -> Vec<String> {
    let path = app(&format!("{name}.py"));
    let source = std::fs::read_to_string(&path).unwrap();
    let words = [PYTHON, "-u", "-c", &source];
    words.iter().chain(arguments).map(|&word| word.to_owned()).collect()
}

/// The path of a program's source.
#[must_use]
pub fn app(name: &str) -> PathBuf {
    layout::sources("apps").join(name)
}

/// `apps/NAME.c`, built where the laptop's user can run it, for as long as the folder is kept.
#[must_use]
pub fn built(laptop: &Laptop, name: &str) -> (Folder, String) {
    let folder = Folder::new(laptop);
    let binary = folder.file(name);
    let mut compiler = Command::new("/usr/bin/gcc");
    compiler.args(["-O1", "-Wall", "-Werror", "-pthread", "-o", &binary]);
    ran(compiler.arg(app(&format!("{name}.c"))).arg("-lresolv")).succeeds();
    (folder, binary)
}

/// A program that ended.
#[derive(Debug)]
pub struct Ran {
    shown: String,
    /// Its exit code, or 128 and the number of the signal that ended it.
    pub code: i32,
    /// What it wrote on standard output, without the newlines at the end.
    pub stdout: String,
    /// What it wrote on standard error.
    pub stderr: String,
}

impl fmt::Display for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { shown, code, stdout, stderr } = self;
        write!(f, "{shown}\nexit code {code}\n--- stdout\n{stdout}\n--- stderr\n{stderr}")
    }
}

impl Ran {
    fn new(shown: String, output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
        let status = output.status;
        Self {
            shown,
            code: status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(-1),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        }
    }

    /// Its exit code was this.
    #[track_caller]
    pub fn exits(&self, code: i32) -> &Self {
        assert_eq!(self.code, code, "{self}");
        self
    }

    /// Its exit code was 0; what it said.
    #[track_caller]
    pub fn succeeds(&self) -> &str {
        self.exits(0);
        &self.stdout
    }

    /// It succeeded and said this.
    #[track_caller]
    pub fn prints(&self, expected: &str) -> &Self {
        assert_eq!(self.succeeds(), expected, "{self}");
        self
    }

    /// It succeeded, and what it said has all of these in it.
    #[track_caller]
    pub fn says(&self, words: &[&str]) -> &Self {
        self.succeeds();
        for word in words {
            assert!(self.stdout.contains(word), "{word:?} is not in what was said: {self}");
        }
        self
    }

    /// What it wrote on standard error has all of these in it.
    #[track_caller]
    pub fn complains(&self, words: &[&str]) -> &Self {
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is not in what was complained: {self}");
        }
        self
    }
}

/// Runs a command to its end within [`LIMIT`], with no stdin.
#[track_caller]
pub fn ran(command: &mut Command) -> Ran {
    ran_within(command, LIMIT)
}

/// Runs a command to its end, with no stdin.
#[track_caller]
pub fn ran_within(command: &mut Command, limit: Duration) -> Ran {
    command.stdin(Stdio::null());
    Running::start(command).ends_within(limit)
}

/// Runs a command to its end, with this as its stdin.
#[track_caller]
pub fn fed(command: &mut Command, input: &[u8]) -> Ran {
    command.stdin(Stdio::piped());
    let mut running = Running::start(command);
    let mut stdin = running.child.stdin.take().unwrap();
    stdin.write_all(input).unwrap();
    drop(stdin);
    running.ends_within(LIMIT)
}

/// The command as a person would type it, but for the text of scripts.
fn shown(command: &Command) -> String {
    run::shown(command).split_inclusive('\n').next().unwrap_or_default().trim_end().to_owned()
}

/// A program that runs, leader of its own process group.
#[derive(Debug)]
pub struct Running {
    shown: String,
    /// The process; its stdout and stderr are pipes.
    pub child: Child,
}

impl Running {
    /// Starts a command whose stdin is set already.
    #[track_caller]
    pub fn start(command: &mut Command) -> Self {
        let shown = shown(command);
        let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        as_from_a_terminal(piped);
        let child = piped.spawn().unwrap_or_else(|error| panic!("{shown}: {error}"));
        Self { shown, child }
    }

    /// Its process id, which is its group's.
    #[must_use]
    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    /// The lines of its stdout.
    #[must_use]
    pub fn stdout(&mut self) -> Lines {
        Lines::of(self.child.stdout.take().expect("its stdout was taken"))
    }

    /// The lines of its stderr.
    #[must_use]
    pub fn stderr(&mut self) -> Lines {
        Lines::of(self.child.stderr.take().expect("its stderr was taken"))
    }

    /// The folder that its run has: the launcher holds a lock in it.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        let descriptors = std::fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap();
        let files = descriptors.flatten().filter_map(|link| std::fs::read_link(link.path()).ok());
        let lock = files.into_iter().find(|file| file.ends_with("lock")).expect("a run has a lock");
        lock.parent().unwrap().to_owned()
    }

    /// Waits for its end, and for that of all that share its stdout.
    #[track_caller]
    pub fn ends_within(self, limit: Duration) -> Ran {
        let Self { shown, child } = self;
        let group = Pid::from_raw(i32::try_from(child.id()).unwrap());
        let (output_tx, output_rx) = mpsc::channel();
        let waiting = thread::spawn(move || output_tx.send(child.wait_with_output()));
        match output_rx.recv_timeout(limit) {
            Ok(output) => Ran::new(shown, &output.unwrap()),
            Err(_elapsed) => {
                let _ = killpg(group, Signal::SIGKILL);
                let said = output_rx.recv_timeout(Duration::from_secs(5)).ok().and_then(Result::ok);
                drop(waiting);
                let said = said.map(|output| Ran::new(shown.clone(), &output).to_string());
                panic!("{shown}: it did not end within {limit:?}\n{}", said.unwrap_or_default());
            }
        }
    }
}

/// Lines as they come out of a pipe. It is read whether anybody waits or not, and nobody waits for longer than [`LIMIT`].
#[derive(Debug)]
pub struct Lines {
    lines_rx: mpsc::Receiver<String>,
    said: Vec<String>,
}

impl Lines {
    /// Those of a pipe.
    pub fn of(pipe: impl Read + Send + 'static) -> Self {
        let (lines_tx, lines_rx) = mpsc::channel();
        thread::spawn(move || {
            // Who does not listen any more does not keep the writer from writing.
            BufReader::new(pipe).lines().map_while(Result::ok).for_each(|line| drop(lines_tx.send(line)));
        });
        Self { lines_rx, said: Vec::new() }
    }

    /// The next line that has this in it.
    #[track_caller]
    pub fn wait_for(&mut self, word: &str) -> String {
        let until = Instant::now() + LIMIT;
        loop {
            let line = self.lines_rx.recv_timeout(until.saturating_duration_since(Instant::now()));
            let Ok(line) = line else { panic!("no line with {word:?} came, but {:#?}", self.said) };
            self.said.push(line.clone());
            if line.contains(word) {
                return line;
            }
        }
    }

    /// All that was said, to the end.
    #[track_caller]
    pub fn all(mut self) -> Vec<String> {
        let until = Instant::now() + LIMIT;
        loop {
            match self.lines_rx.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => self.said.push(line),
                Err(mpsc::RecvTimeoutError::Disconnected) => return self.said,
                Err(mpsc::RecvTimeoutError::Timeout) => panic!("it does not end: {:#?}", self.said),
            }
        }
    }
}

/// Returns when it is so.
#[track_caller]
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let limit = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < limit, "it did not come to that: {what}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// A folder of the laptop's user, gone when it is dropped.
#[derive(Debug)]
pub struct Folder(tempfile::TempDir);

impl Folder {
    /// Makes one where the user can write.
    #[must_use]
    pub fn new(laptop: &Laptop) -> Self {
        let folder = tempfile::Builder::new().prefix("case-").tempdir_in(laptop.home()).unwrap();
        give(folder.path());
        Self(folder)
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// The path of a file in it, as text.
    #[must_use]
    pub fn file(&self, name: &str) -> String {
        self.path().join(name).display().to_string()
    }

    /// Builds `apps/NAME.c` there, for benches; its path.
    ///
    /// # Errors
    /// If it does not compile.
    pub fn program(&self, name: &str) -> Result<PathBuf, crate::Error> {
        let path = self.path().join(name);
        let mut compiler = Command::new("/usr/bin/gcc");
        run::output(compiler.args(["-O2", "-pthread", "-o"]).arg(&path).arg(app(&format!("{name}.c"))))?;
        Ok(path)
    }

    /// Writes a file in it, the user's own; its path.
    #[must_use]
    pub fn write(&self, name: &str, contents: &str, mode: u32) -> String {
        let path = self.path().join(name);
        run::write_mode(&path, contents, mode).unwrap();
        give(&path);
        path.display().to_string()
    }
}

fn give(path: &Path) {
    let id = Some(crate::laptop::UID);
    std::os::unix::fs::chown(path, id, id).unwrap();
}
