//! Starting other programs under the shim: the child keeps it, whatever function starts it with whatever environment,
//! and a program that the launcher forbids is not started.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use tp_abi::errno::code::EACCES;
use tp_tests::fake_launcher::{Asked, FakeLauncher, Far, succeeded};

const BY_PATH: &[&str] = &[
    "execve",
    "execve null",
    "execve proc",
    "execv",
    "execveat",
    "execveat at",
    "execveat fd",
    "fexecve",
    "execl",
    "execl short",
    "execl long",
    "execle",
    "execle long",
    "vfork",
    "posix_spawn",
    "posix_spawn chdir",
    "posix_spawn fchdir",
];
const BY_NAME: &[&str] = &["execvp", "execvpe", "execlp", "posix_spawnp"];

/// `program` is `apps/exec.c`; it lies in the launcher's folder, which is in `PATH`.
fn starting(launcher: &FakeLauncher, program: &Path, variant: &str, file: &Path) -> Command {
    let mut command = launcher.command(program);
    command.arg(variant).arg(file);
    command.env("PATH", format!("/nowhere:{}:/usr/bin:/bin", launcher.folder().display()));
    command
}

/// Steps: each function starts a program with an environment that was emptied; the arguments are what was given, the
/// launcher's variables and the preload are there, the caller's own variable stays, and the launcher was asked.
#[test]
fn every_function_keeps_the_shim_in_an_emptied_environment() {
    let launcher = FakeLauncher::start();
    let program = launcher.build("exec");
    let expected: BTreeSet<String> =
        launcher.environment().into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    for variant in BY_PATH.iter().chain(BY_NAME) {
        let said = succeeded(&mut starting(&launcher, &program, variant, &program));
        let mut lines = said.lines();
        let arguments = match *variant {
            "execl short" => "show",
            "execl long" | "execle long" => "show 2 3 4 5 6 7 8 9 10 11 12 13 14",
            _ => "show one two",
        };
        assert_eq!(lines.next(), Some(arguments), "{variant}");
        let environment: BTreeSet<String> = lines.map(str::to_owned).collect();
        let missing: Vec<_> = expected.difference(&environment).collect();
        assert!(missing.is_empty(), "{variant}: {missing:?} not in {environment:?}");
        let kept = environment.contains("A=1") || *variant == "execve null";
        assert!(kept, "{variant}: the program's own variable is gone from {environment:?}");
    }
    let asked = vec![Asked::Exec(program); BY_PATH.len() + BY_NAME.len()];
    assert_eq!(launcher.asked(), asked);
}

/// Steps: the launcher forbids a program; each function fails with its errno and nothing is started.
#[test]
fn a_forbidden_program_is_not_started() {
    let launcher = FakeLauncher::start();
    let program = launcher.build("exec");
    launcher.forbid(&program, EACCES);
    for variant in BY_PATH.iter().chain(BY_NAME) {
        let output = starting(&launcher, &program, variant, &program).output().unwrap();
        assert_eq!(output.status.code(), Some(EACCES), "{variant}");
        assert_eq!(output.stdout, b"", "{variant}");
    }
}

/// Steps: the launcher has another program started instead; each function starts that, with the arguments as they were
/// given, the caller's own variable, the launcher's, and one that leads to the program that was meant. From a thread with
/// the smallest stack there is, too.
#[test]
fn every_function_starts_what_the_launcher_names_instead() {
    let launcher = FakeLauncher::start();
    let program = launcher.build("exec");
    let instead = launcher.build_with("exec", "instead", &[]);
    launcher.enter(&program, &instead);
    for variant in BY_PATH.iter().chain(BY_NAME) {
        let mut command = starting(&launcher, &program, variant, &program);
        command.env("TP_PROGRAM", "another");
        let said = succeeded(&mut command);
        let meant = format!("\nmeant={}\n", program.display());
        assert!(said.ends_with(&meant), "{variant}: {said}");
        assert_eq!(said.matches("\nTP_PROGRAM=").count(), 1, "{variant}: {said}");
        let arguments = match *variant {
            "execl short" => "show\n",
            "execl long" | "execle long" => "show 2 3 4 5 6 7 8 9 10 11 12 13 14\n",
            _ => "show one two\n",
        };
        assert!(said.starts_with(arguments), "{variant}: {said}");
        assert!(said.contains("\nA=1\n") || *variant == "execve null", "{variant}: {said}");
        assert!(said.contains("\nTP_SOCKET=") && said.contains("\nTP_SHIM="), "{variant}: {said}");
        let mut small = launcher.command(&program);
        small.args(["small", variant]).arg(&program);
        small.env("PATH", format!("{}:/usr/bin:/bin", launcher.folder().display()));
        assert!(succeeded(&mut small).ends_with(&meant), "{variant}");
    }
}

/// Steps: what the launcher names is not there; each function says so, and keeps no descriptor of the try.
#[test]
fn a_start_instead_fails_as_any_start() {
    let launcher = FakeLauncher::start();
    let program = launcher.build("exec");
    launcher.enter(&program, Path::new("/nowhere/at-all"));
    for variant in BY_PATH.iter().chain(BY_NAME) {
        let output = starting(&launcher, &program, variant, &program).output().unwrap();
        assert_eq!(output.status.code(), Some(libc::ENOENT), "{variant}");
    }
    let said = launcher.python(&format!(
        "import os
file = os.open({program:?}, os.O_RDONLY)
before = os.listdir('/proc/self/fd')
try: os.execve(file, ['x'], {{}})
except FileNotFoundError: print(os.listdir('/proc/self/fd') == before)",
    ));
    assert_eq!(said, "True\n");
}

/// Steps: each function starts a program from a thread with the smallest stack there is, where it needs no more without
/// the shim; the child has the shim.
#[test]
fn a_start_fits_the_smallest_stack() {
    let launcher = FakeLauncher::start();
    let program = launcher.build("exec");
    for variant in BY_PATH.iter().chain(BY_NAME) {
        let mut small = launcher.command(&program);
        small.args(["small", variant]).arg(&program);
        small.env("PATH", format!("{}:/usr/bin:/bin", launcher.folder().display()));
        let said = succeeded(&mut small);
        assert!(said.contains("LD_PRELOAD="), "{variant}: {said}");
    }
}

/// Steps: the newest way to start a program; where libc does not have it, its absence is told as one expects.
#[test]
fn a_start_that_libc_may_not_have_is_asked_about_or_not_there() {
    let launcher = FakeLauncher::start();
    let program = launcher.build("exec");
    let run = || starting(&launcher, &program, "pidfd_spawn", &program).output().unwrap();
    let output = run();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    match output.status.code() {
        Some(0) => assert!(said.contains("LD_PRELOAD=") && said.contains("A=1"), "{said}"),
        code => assert_eq!(code, Some(libc::ENOSYS), "{said}"),
    }
    launcher.forbid(&program, EACCES);
    assert_eq!(run().status.code(), Some(EACCES));
}

/// Steps: a program that has no descriptor left to ask with starts another; nobody says that it may, so it does not.
#[test]
fn what_cannot_be_asked_about_is_not_started() {
    let launcher = FakeLauncher::start();
    let program = launcher.build("exec");
    let output = starting(&launcher, &program, "execve full", &program).output().unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(libc::EMFILE), &b""[..]));
    assert_eq!(launcher.asked(), []);
}

/// Steps: what libc itself says of a file that is not there, is not executable, or is a script without `#!`, stays.
#[test]
fn a_start_fails_and_falls_back_as_without_the_shim() {
    let launcher = FakeLauncher::start();
    let program = launcher.build("exec");
    let script = launcher.folder().join("tp-script");
    std::fs::write(&script, "echo script $1\n").unwrap();
    let opened = ["execve proc", "execveat at", "execveat fd", "fexecve", "posix_spawn fchdir"];
    for variant in BY_PATH.iter().chain(BY_NAME).filter(|variant| !opened.contains(variant)) {
        let missing = starting(&launcher, &program, variant, Path::new("/nowhere/at-all")).output().unwrap();
        assert_eq!(missing.status.code(), Some(2), "{variant}");
        let plain = starting(&launcher, &program, variant, &script).output().unwrap();
        assert_eq!(plain.status.code(), Some(13), "{variant}");
    }
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    for variant in ["execvp", "execlp"] {
        assert_eq!(
            succeeded(&mut starting(&launcher, &program, variant, &script)),
            "script show\n",
            "{variant}"
        );
    }
}

/// Steps: an environment of thousands of variables, and a user's own preload, come through whole.
#[test]
fn a_large_environment_and_a_users_preload_come_through() {
    let launcher = FakeLauncher::start();
    let said = launcher.python(
        "import subprocess
env = {'V%d' % i: 'x' * 50 for i in range(3000)} | {'LD_PRELOAD': 'libm.so.6'}
out = subprocess.run(['/usr/bin/env'], env=env, stdout=subprocess.PIPE, text=True).stdout.splitlines()
print(sum(line.startswith('V') for line in out), [line.split(':')[1] for line in out if line.startswith('LD_PRELOAD=')])",
    );
    assert_eq!(said, "3000 ['libm.so.6']\n");
}

/// Steps: a chain of real programs, of which one empties the environment and one closes all descriptors; the last
/// reaches the pod by its name.
#[test]
fn a_chain_of_programs_still_reaches_the_pod() {
    let launcher = FakeLauncher::start();
    launcher.far("10.96.0.7:80", Far::Http("from the pod")).name("backend", "", &["10.96.0.7"]);
    let chain = "env -i bash -c 'curl -sS http://backend/ | cat'";
    assert_eq!(succeeded(launcher.command("bash").args(["-c", chain])), "from the pod");
    let said = launcher.python(
        "import subprocess, os
os.closerange(3, 100)
print(subprocess.run(['curl', '-sS', 'http://backend/'], env={}, close_fds=True, stdout=subprocess.PIPE, text=True).stdout)
print(os.popen('curl -sS http://backend/').read())
os.posix_spawn('/usr/bin/curl', ['curl', '-sS', 'http://backend/'], {}); os.wait()",
    );
    assert_eq!(said.matches("from the pod").count(), 3, "{said}");
}

/// Steps: a program empties its environment, in each way; libc starts a shell for it, by each function; what that shell
/// starts is under the launcher, with the program's own preload.
#[test]
fn a_shell_that_libc_starts_for_an_emptied_environment_keeps_the_shim() {
    let launcher = FakeLauncher::start();
    launcher.far("10.96.0.7:80", Far::Http("pod")).name("backend", "", &["10.96.0.7"]);
    let program = launcher.build("shell");
    let shell = |emptied: &str, call: &str, command: &str| {
        succeeded(launcher.command(&program).args([emptied, call, command]))
    };
    let fetch = "/usr/bin/curl -sS http://backend/; echo";
    for emptied in
        ["clearenv", "null", "in place", "own array", "unsetenv", "own preload", "another socket", "not"]
    {
        for call in ["system", "popen", "_IO_popen", "wordexp"] {
            assert_eq!(shell(emptied, call, fetch), "pod\nstatus 0\n", "{call} after {emptied}");
        }
        assert_eq!(shell(emptied, "is there a shell", ""), "1\n", "{emptied}");
    }
    let preload = shell("own preload", "popen", "echo $LD_PRELOAD");
    assert!(preload.contains("shim") && preload.ends_with(":libm.so.6\nstatus 0\n"), "{preload}");
    // What the program has kept stays, and what it removed comes back for the launcher's own only.
    let names = shell("own array", "popen", "/usr/bin/env | cut -d= -f1 | sort | tr '\\n' ' '");
    assert!(names.starts_with("A LD_PRELOAD PWD"), "{names}");
}

/// Steps: the launcher forbids the shell; no function of libc starts it, and each says so as POSIX has it.
#[test]
fn a_forbidden_shell_is_not_started_by_libc_either() {
    let launcher = FakeLauncher::start();
    let program = launcher.build("shell");
    launcher.forbid(&Path::new("/bin/sh").canonicalize().unwrap(), EACCES);
    let shell =
        |call: &str, command: &str| succeeded(launcher.command(&program).args(["not", call, command]));
    assert_eq!(shell("system", "echo started"), "status 32512\n");
    assert_eq!(shell("is there a shell", ""), "0\n");
    assert_eq!(shell("popen", "echo started"), "none: Permission denied\n");
    assert_eq!(shell("_IO_popen", "echo started"), "none: Permission denied\n");
    assert_eq!(shell("wordexp", "echo started"), "\nstatus 4\n");
    assert_eq!(shell("words", "~root"), "/root\nstatus 0\n");
    // Nor can another program be started in its place.
    let launcher = FakeLauncher::start();
    let program = launcher.build("shell");
    launcher.enter(&Path::new("/bin/sh").canonicalize().unwrap(), &program);
    let shell = |call: &str| succeeded(launcher.command(&program).args(["not", call, "echo started"]));
    assert_eq!(shell("system"), "status 32512\n");
    assert_eq!(shell("popen"), "none: Operation not permitted\n");
}

/// Steps: the launcher is gone; a program still starts, and fails closed by itself.
#[test]
fn without_a_launcher_programs_start_and_fail_closed() {
    let mut launcher = FakeLauncher::start();
    launcher.die();
    let output =
        launcher.command("bash").args(["-c", "curl -sS http://10.96.0.7/; echo $?"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "7\n");
}
