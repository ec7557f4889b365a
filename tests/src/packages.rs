//! Packages of PyPI, npm, Maven Central and Debian that cases run: installed once, by the registries' own clients, into the cache.
//!
//! The laptop has no way to a registry, and its user may not read the caller's own packages; so the harness installs
//! them as the caller, into a folder that everybody can read, under a name made of what was asked for. A list of
//! packages names each with its version, and nothing beside the list is installed: the same list is the same code.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest as _, Sha256};

use crate::case::PYTHON;
use crate::{Error, Layout, image, run};

/// The folder for `PYTHONPATH` with these packages (`name==version`), all that they depend on among them. They are
/// for Debian's Python ([`PYTHON`]); its own packages are found besides.
///
/// # Errors
/// If pip is not there or does not get them.
pub fn pypi(packages: &[&str]) -> Result<PathBuf, Error> {
    installed("pypi", packages, |folder| {
        let mut pip = Command::new(PYTHON);
        // Nothing is compiled and no code of a package runs.
        pip.args(["-m", "pip", "install", "-q", "--no-deps", "--only-binary", ":all:", "--no-cache-dir"]);
        pip.args(["--root-user-action", "ignore", "--target"]).arg(folder).args(packages);
        pip
    })
}

/// The folder whose `node_modules` has these packages (`name@version`). What they depend on is chosen as of `day`
/// (`YYYY-MM-DD`), so that it is the same for ever.
///
/// # Errors
/// If npm is not there or does not get them.
pub fn npm(day: &str, packages: &[&str]) -> Result<PathBuf, Error> {
    let mut wanted = vec![day];
    wanted.extend(packages);
    installed("npm", &wanted, |folder| {
        let mut npm = Command::new("npm");
        npm.args(["install", "--silent", "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock"]);
        npm.args(["--before", day, "--prefix"]).arg(folder).args(packages);
        npm
    })
}

/// A local repository with all that `mvn GOALS` asks for in a project of these files (path and contents).
///
/// # Errors
/// If Maven is not there or a goal fails.
pub fn maven(files: &[(&str, &str)], goals: &[&str]) -> Result<PathBuf, Error> {
    let mut wanted: Vec<&str> = files.iter().flat_map(|(path, contents)| [*path, *contents]).collect();
    wanted.extend(goals);
    let project = tempfile::tempdir().map_err(Error::file("create a folder in", std::env::temp_dir()))?;
    for (path, contents) in files {
        let path = project.path().join(path);
        run::folder(path.parent().unwrap_or(project.path()))?;
        run::write(&path, contents)?;
    }
    installed("maven", &wanted, |folder| {
        let mut maven = Command::new("mvn");
        maven.args(["-B", "-q", "-f"]).arg(project.path().join("pom.xml"));
        maven.arg(format!("-Dmaven.repo.local={}", folder.display())).args(goals);
        maven
    })
}

/// The files of these Debian packages, as they lie below `/`. Nothing is installed on this machine: no daemon starts, no
/// user is made. `apt-get` must have been told its indexes, which [`crate::host::require_packages`] sees to.
///
/// # Errors
/// If a package cannot be had or unpacked.
pub fn debian(packages: &[&str]) -> Result<PathBuf, Error> {
    installed("debian", packages, |folder| download(folder, packages, "dpkg-deb -x \"$package\" ."))
}

/// One file of a Debian package, which is all that is kept of it; `path` is below `/`, as `usr/bin/NAME`.
///
/// # Errors
/// If the package cannot be had or has no such file.
pub fn debian_file(package: &str, path: &str) -> Result<PathBuf, Error> {
    let unpack = format!("dpkg-deb --fsys-tarfile \"$package\" | tar -x ./{path}");
    let folder = installed("debian", &[package, path], |folder| download(folder, &[package], &unpack))?;
    Ok(folder.join(path))
}

/// Gets the packages into the folder and does this with each.
fn download(folder: &Path, packages: &[&str], unpack: &str) -> Command {
    let script = format!(
        "cd \"$0\" && (apt-get download -q \"$@\" || {{ apt-get update -q && apt-get download -q \"$@\"; }}) &&
         for package in *.deb; do {unpack} && rm \"$package\" || exit; done"
    );
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]).arg(folder).args(packages);
    shell
}

/// The folder of `wanted`, which the command of `install` fills if it is not there yet.
fn installed(
    client: &str,
    wanted: &[&str],
    install: impl FnOnce(&Path) -> Command,
) -> Result<PathBuf, Error> {
    let cache = Layout::from_env().cache().join("packages");
    run::folder(&cache)?;
    let name: String = image::hex(&Sha256::digest(wanted.join("\n"))).chars().take(16).collect();
    let folder = cache.join(format!("{client}-{name}"));
    // Cases that want the same start at the same time; the first installs for all.
    let path = cache.join("lock");
    let lock = File::create(&path).map_err(Error::file("create", &path))?;
    lock.lock().map_err(Error::file("lock", &path))?;
    if !folder.exists() {
        let new = cache.join(format!(".{client}-{name}"));
        run::remove_folder(&new)?;
        run::folder(&new)?;
        run::output(&mut install(&new))?;
        fs::rename(&new, &folder).map_err(Error::file("install", &folder))?;
    }
    Ok(folder)
}
