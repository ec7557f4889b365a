//! The shim beside what else sits in a process: libraries that are loaded late, other preloads, sanitizers, allocators.
#![allow(clippy::unwrap_used, reason = "what is not as expected is a failed case")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tp_tests::fake_launcher::{FakeLauncher, Far, succeeded};

fn launcher() -> FakeLauncher {
    let launcher = FakeLauncher::start();
    launcher.far("10.96.0.7:80", Far::Echo).name("backend", "", &["10.96.0.7"]);
    launcher
}

/// Where a library of this machine lies, as its loader finds it.
fn library(name: &str) -> PathBuf {
    let path = PathBuf::from(format!("/usr/lib/{}-linux-gnu/{name}", std::env::consts::ARCH));
    assert!(path.exists(), "{} is missing", path.display());
    path
}

/// The command with this preload, after the shim if `first` is not set.
fn preloading(launcher: &FakeLauncher, program: &Path, preload: &Path, first: bool) -> Command {
    let mut command = launcher.command(program);
    let shim = tp_tests::shim_under_test();
    let (shim, preload) = (shim.display(), preload.display());
    command.env("LD_PRELOAD", if first { format!("{preload}:{shim}") } else { format!("{shim}:{preload}") });
    command
}

/// Steps: a library is loaded in each way, by a name that only the caller's own search path finds; its connect is
/// carried. With `RTLD_DEEPBIND`, or out of libc's own handle, it would have been libc's; in a namespace of its own,
/// another libc's.
#[test]
fn a_library_that_is_loaded_late_is_hooked_or_not_loaded() {
    let launcher = launcher();
    let program = launcher.build_with("opened", "opened", &["-Wl,-rpath,$ORIGIN,--enable-new-dtags"]);
    let _late = launcher.build_with("opened", "libtp-late.so", &["-DLIBRARY", "-shared", "-fPIC"]);
    for how in ["now", "local", "deep", "base"] {
        let said = succeeded(launcher.command(&program).args([how, "libtp-late.so"]));
        assert_eq!(said, "reached\n", "{how}");
    }
    for symbol in ["handle", "first", "main"] {
        let mut command = launcher.command(&program);
        command.args(["now", "libtp-late.so"]).env("SYMBOL", symbol);
        assert_eq!(succeeded(&mut command), "reached\n", "{symbol}");
    }
    let output = launcher.command(&program).args(["new", "libtp-late.so"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("a namespace without tp's shim (dlmopen)"), "{said}");
}

/// Steps: a program with a sanitizer in it works under the shim, in a way that the sanitizer has nothing to say about;
/// and what is wrong in the program is found as ever.
#[test]
fn sanitizers_work_beside_the_shim_and_find_what_they_find() {
    let launcher = launcher();
    // The second is how clang does it.
    for flags in [
        &["-fsanitize=address"][..],
        &["-fsanitize=address", "-static-libasan"],
        &["-fsanitize=undefined"],
        &["-fsanitize=leak"],
        &["-fsanitize=thread"],
    ] {
        let program = launcher.build_with("asan", "sanitized", flags);
        let Output { status, stdout, stderr } = launcher.command(&program).output().unwrap();
        let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        assert_eq!((&*stdout, &*stderr), ("hi\nfrom the shell\n", ""), "{flags:?}: {status}");
        assert!(status.success(), "{flags:?}: {status}");
        if flags.contains(&"-fsanitize=address") {
            let guilty = launcher.command(&program).arg("x").output().unwrap();
            let stderr = String::from_utf8_lossy(&guilty.stderr);
            assert!(stderr.contains("heap-buffer-overflow"), "{stderr}");
        }
    }
}

/// Steps: jemalloc is preloaded before the shim and after it, and linked; each time it is there and the pod is reached.
#[test]
fn another_allocator_works_beside_the_shim() {
    let launcher = launcher();
    let jemalloc = library("libjemalloc.so.2");
    let program = launcher.build("asan");
    let linked = launcher.build_with("asan", "linked", &["-Wl,--no-as-needed", jemalloc.to_str().unwrap()]);
    // Without it a program says nothing to this.
    let options = ("MALLOC_CONF", "stats_print:true");
    for mut command in [
        preloading(&launcher, &program, &jemalloc, true),
        preloading(&launcher, &program, &jemalloc, false),
        launcher.command(&linked),
    ] {
        let output = command.env(options.0, options.1).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "hi\nfrom the shell\n");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.contains("jemalloc statistics"), "{command:?}: {stderr}");
    }
}
