//! `cargo xtask dist`: tp as it is installed on people's machines.
//!
//! A build for each kind, because their parts live under different laws: the launcher is an ordinary program, the shim
//! has no std and its own profile, and the agent and tp-inside are linked statically: they run where there is no libc.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use miette::{IntoDiagnostic as _, WrapErr as _, miette};
use tp_tests::Layout;

use crate::step;

/// One installed file and how it is built.
struct Part {
    /// Where it is installed, below the prefix.
    place: &'static str,
    mode: u32,
    build: Vec<String>,
    rustflags: Option<&'static str>,
}

/// Builds all parts and installs them; the prefix.
pub(crate) fn run(prefix: Option<PathBuf>) -> miette::Result<PathBuf> {
    let prefix = prefix.unwrap_or_else(|| Layout::from_env().dist());
    let make = |part: &Part| install(&build(part)?, &prefix.join(part.place), part.mode);
    // A link of everything keeps one processor busy for a minute, and cargo locks each profile's folder by itself.
    let (inside, outside): (Vec<_>, Vec<_>) = parts()?.into_iter().partition(|part| part.rustflags.is_some());
    thread::scope(|scope| {
        let inside = scope.spawn(|| inside.iter().try_for_each(make));
        outside.iter().try_for_each(make)?;
        inside.join().unwrap_or_else(|_| Err(miette!("a build panicked")))
    })?;
    eprintln!("installed in {}", prefix.display());
    Ok(prefix)
}

fn parts() -> miette::Result<Vec<Part>> {
    let host = host_triple()?;
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    Ok(vec![
        Part { place: "bin/tp", mode: 0o755, build: words("-p tp --bin tp --release"), rustflags: None },
        Part {
            place: "lib/tp/libtp_shim.so",
            mode: 0o644,
            build: words("-p tp-shim --profile shim"),
            rustflags: None,
        },
        Part {
            place: "lib/tp/tp-inside",
            mode: 0o755,
            // Static: it must start wherever the program can, and in no time.
            build: words(&format!("-p tp-inside --bin tp-inside --profile agent --target {host}")),
            rustflags: Some("-C target-feature=+crt-static"),
        },
        Part {
            place: "lib/tp/tp-agent",
            mode: 0o755,
            // With --target the flags are the agent's alone: build scripts and macros stay dynamic.
            build: words(&format!("-p socks-proxy --bin tp-agent --profile agent --target {host}")),
            rustflags: Some("-C target-feature=+crt-static"),
        },
    ])
}

/// The file that cargo says it made: the target folder is cargo's business.
fn build(part: &Part) -> miette::Result<PathBuf> {
    let mut command = step::cargo(["build", "--quiet", "--message-format=json-render-diagnostics"]);
    command.args(&part.build).stderr(Stdio::inherit());
    if let Some(flags) = part.rustflags {
        command.env("RUSTFLAGS", flags).env_remove("CARGO_ENCODED_RUSTFLAGS");
    }
    let output = command.output().into_diagnostic().wrap_err("start cargo")?;
    if !output.status.success() {
        return Err(miette!("{}: {}", tp_tests::run::shown(&command), output.status));
    }
    let name = Path::new(part.place).file_name().unwrap_or_default();
    let messages = String::from_utf8_lossy(&output.stdout);
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message.get("reason").is_some_and(|reason| reason == "compiler-artifact"))
        .flat_map(|message| {
            message.get("filenames").and_then(|files| files.as_array()).cloned().unwrap_or_default()
        })
        .filter_map(|file| file.as_str().map(PathBuf::from))
        .find(|file| file.file_name() == Some(name))
        .ok_or_else(|| miette!("{} made no {}", tp_tests::run::shown(&command), name.to_string_lossy()))
}

/// Under a new name first: a running tp keeps the file it has, and nobody ever sees half of one.
fn install(built: &Path, place: &Path, mode: u32) -> miette::Result<()> {
    let mut name = place.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.new", std::process::id()));
    let new = place.with_file_name(name);
    let folder = place.parent().unwrap_or(place);
    let install = || {
        fs::create_dir_all(folder)?;
        fs::copy(built, &new)?;
        fs::set_permissions(&new, fs::Permissions::from_mode(mode))?;
        fs::rename(&new, place)
    };
    install().into_diagnostic().wrap_err_with(|| format!("install {}", place.display()))
}

fn host_triple() -> miette::Result<String> {
    let output = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
        .arg("-vV")
        .output()
        .into_diagnostic()
        .wrap_err("start rustc")?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines()
        .find_map(|line| line.strip_prefix("host: "))
        .map(str::to_owned)
        .ok_or_else(|| miette!("rustc -vV names no host"))
}
