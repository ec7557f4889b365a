//! Building the cluster's own programs from the Go module in `cluster/`, and those of cases from `apps/go`: a module of
//! its own, since all of the cluster is built anew when the cluster's changes.
//!
//! A cold build of Kubernetes takes minutes, so binaries are kept in a cache outside the checkout, under a name made
//! of all that can change them: a fresh clone of the same sources builds nothing.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use crate::{Error, Layout, host, layout, run};

/// Kubernetes' version, as the components report it; the module's go.mod pins the same.
const VERSION: (&str, &str, &str) = ("v1.34.4", "1", "34");
/// Binaries of earlier sources that are kept, for those who work on two checkouts.
const KEPT: usize = 2;

/// Where the built programs lie.
#[derive(Debug, Clone)]
pub struct Binaries {
    /// etcd, the control plane, kubelet, kube-proxy and kubectl.
    pub kubernetes: PathBuf,
    /// CoreDNS.
    pub coredns: PathBuf,
    /// The sample application.
    pub sample: PathBuf,
    /// The first process of each pod sandbox.
    pub pause: PathBuf,
}

/// What the build is doing, for a display.
#[derive(Debug)]
pub enum Progress<'a> {
    /// A program is not in the cache; `packages` is how many it is made of.
    Start {
        /// The program.
        program: &'a str,
        /// Its packages, most of which the Go cache may already have.
        packages: u64,
    },
    /// A package is compiled.
    Package {
        /// Its import path.
        name: &'a str,
    },
    /// A program is there.
    Done {
        /// The program.
        program: &'a str,
        /// How long it took.
        took: Duration,
    },
}

/// Builds what the cache lacks.
pub fn build(layout: &Layout, progress: &mut dyn FnMut(Progress<'_>)) -> Result<Binaries, Error> {
    let go = toolchain()?;
    let module = layout::sources("cluster");
    let version = run::output(Command::new(&go).arg("version").current_dir(&module))?;
    run::folder(layout.cache())?;
    let mut one =
        |program: &str| build_one(layout, &go, &module, version.trim(), (program, Build::Static), progress);
    Ok(Binaries {
        pause: one("pause")?,
        sample: one("sample")?,
        coredns: one("coredns")?,
        kubernetes: one("kubernetes")?,
    })
}

/// How a program is built.
#[derive(Clone, Copy, Debug)]
pub enum Build {
    /// Static, for this machine: Go's own resolver.
    Static,
    /// With this machine's libc: by default libc's resolver, but Go's own system calls for all else.
    Cgo,
    /// Static, for a machine that Go calls so (`GOARCH`).
    For(&'static str),
}

impl Build {
    /// What tells its binaries from those of others.
    fn prefix(self) -> String {
        match self {
            Self::Static => String::new(),
            Self::Cgo => "cgo.".to_owned(),
            Self::For(machine) => format!("{machine}."),
        }
    }

    fn variables(self) -> Vec<(&'static str, &'static str)> {
        match self {
            Self::Static => vec![("CGO_ENABLED", "0")],
            Self::Cgo => vec![("CGO_ENABLED", "1")],
            Self::For(machine) => vec![("CGO_ENABLED", "0"), ("GOARCH", machine)],
        }
    }
}

/// Builds a program of the Go module in `apps/go`, unless it is there.
///
/// # Errors
/// If Go is not there, or the build fails.
pub fn app(layout: &Layout, program: &str, build: Build) -> Result<PathBuf, Error> {
    let go = toolchain()?;
    let module = layout::sources("apps/go");
    let version = run::output(Command::new(&go).arg("version").current_dir(&module))?;
    run::folder(layout.cache())?;
    // Cases that want the same start at the same time.
    let path = layout.cache().join(format!(".{}{program}.lock", build.prefix()));
    let lock = fs::File::create(&path).map_err(Error::file("create", &path))?;
    lock.lock().map_err(Error::file("lock", &path))?;
    build_one(layout, &go, &module, version.trim(), (program, build), &mut |_| {})
}

fn toolchain() -> Result<PathBuf, Error> {
    host::find("go").ok_or_else(|| Error::Missing {
        programs: "go".to_owned(),
        packages: "golang (https://go.dev/dl, the version in tests/cluster/go.mod)".to_owned(),
    })
}

fn build_one(
    layout: &Layout,
    go: &Path,
    module: &Path,
    version: &str,
    (program, build): (&str, Build),
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<PathBuf, Error> {
    let file = format!("{}{program}", build.prefix());
    let binary = layout.cache().join(format!("{file}-{}", key(module, version, program)?));
    if binary.exists() {
        return Ok(binary);
    }
    let started = Instant::now();
    let package = format!("./{program}");
    let list = run::output(Command::new(go).args(["list", "-deps", &package]).current_dir(module))?;
    progress(Progress::Start { program, packages: list.lines().count() as u64 });
    let new = layout.cache().join(format!(".{file}-{}", std::process::id()));
    let mut command = Command::new(go);
    command
        .args(["build", "-v", "-trimpath", "-ldflags", &linker_flags(), "-o"])
        .args([new.as_os_str(), package.as_ref()])
        .current_dir(module)
        .envs(build.variables())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    watch(&mut command, progress)?;
    fs::rename(&new, &binary).map_err(Error::file("install", &binary))?;
    prune(layout.cache(), &file);
    progress(Progress::Done { program, took: started.elapsed() });
    Ok(binary)
}

/// `go build -v` names each package on stderr as it starts on it; errors are there too.
fn watch(command: &mut Command, progress: &mut dyn FnMut(Progress<'_>)) -> Result<(), Error> {
    let start = run::shown(command);
    let failed = |source| Error::Start { program: start.clone(), source };
    let mut child = command.spawn().map_err(failed)?;
    let mut said = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        for line in BufReader::new(stderr).lines() {
            let line = line.map_err(failed)?;
            if line.contains(' ') {
                said.push(line);
            } else {
                progress(Progress::Package { name: &line });
            }
        }
    }
    let status = child.wait().map_err(failed)?;
    if status.success() {
        return Ok(());
    }
    Err(Error::Failed { command: start, status, stderr: said.join("\n") })
}

fn linker_flags() -> String {
    let (version, major, minor) = VERSION;
    let variable = "k8s.io/component-base/version";
    format!(
        "-s -w -X {variable}.gitVersion={version} -X {variable}.gitMajor={major} -X {variable}.gitMinor={minor}"
    )
}

/// Names all that a binary depends on.
fn key(module: &Path, version: &str, program: &str) -> Result<String, Error> {
    let folder = module.join(program);
    let mut files = vec![module.join("go.mod"), module.join("go.sum")];
    for entry in fs::read_dir(&folder).map_err(Error::file("list", &folder))? {
        let path = entry.map_err(Error::file("list", &folder))?.path();
        if path.extension().is_some_and(|extension| extension == "go") {
            files.push(path);
        }
    }
    files.sort();
    let mut hash = Sha256::new();
    hash.update(version);
    hash.update(linker_flags());
    for file in files {
        let contents = fs::read(&file).map_err(Error::file("read", &file))?;
        hash.update(file.file_name().unwrap_or_default().as_encoded_bytes());
        hash.update(contents.len().to_le_bytes());
        hash.update(contents);
    }
    Ok(crate::image::hex(&hash.finalize()).chars().take(16).collect())
}

/// Removes the oldest binaries of a program; a running cluster keeps what it has mapped.
fn prune(cache: &Path, file: &str) {
    let prefix = format!("{file}-");
    let Ok(entries) = fs::read_dir(cache) else { return };
    let mut built: Vec<_> = entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    built.sort();
    for (_, path) in built.iter().rev().skip(KEPT) {
        let _ = fs::remove_file(path);
    }
}
