//! `tp doctor`: what this machine allows, which methods work on it, and what to do about those that do not.
//!
//! Nothing is believed that was not tried ([`probes`]).

use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use tp_abi::env;
use tp_inside::probe::Need;

use crate::installed::Installed;
use crate::mounts;
use crate::placement::Method;
use crate::probes::{self, Finding, Outcome, spelled};
use crate::report::Failure;
use crate::show;

/// What is no part of a method, and what it would be good for.
const OTHER: [Need; 1] = [Need::Tun];
/// What the pod's volumes take at their own paths.
const VOLUMES: [Need; 3] = [Need::Users, Need::Mounts, Need::Fuse];
/// Says whether the library whose path is `$1` is in this shell.
const IS_LOADED: &str =
    "while read -r line; do case $line in *\"$1\") exit 0;; esac; done < /proc/self/maps; exit 1";

/// Tells what there is; gives the exit code: 0 if any program can be run.
///
/// # Errors
/// If tp is not installed whole, or nobody reads.
pub async fn doctor() -> Result<u8, Failure> {
    let installed = Installed::find()?;
    let shim = installed.shim()?;
    let inside = installed.inside();
    let broken = |source| Failure::NoInside { path: inside.clone(), source };
    let namespaces = probes::namespaces(&inside).await.map_err(broken)?;
    let filter = probes::filter(&inside).await.map_err(broken)?;
    let loads = enters(&shim).map_err(Failure::SetUp)?;
    let in_place = namespaces.iter().filter(|found| VOLUMES.contains(&found.need)).all(Finding::works);
    let below = mounts::try_fusermount().await;
    let (other, rest): (Vec<_>, Vec<_>) =
        namespaces.into_iter().partition(|found| OTHER.contains(&found.need));
    let (fuse, vif): (Vec<_>, Vec<_>) = rest.into_iter().partition(|found| found.need == Need::Fuse);
    let works = |findings: &[Finding]| findings.iter().all(Finding::works);
    let mut text = String::new();
    let any = works(&vif) || works(&filter);
    say_method(&mut text, Method::Shim, loads, "dynamically linked programs, but for Go's");
    say_method(&mut text, Method::Vif, works(&vif), "any program, in a private network");
    say_findings(&mut text, &vif);
    say_method(&mut text, Method::Trap, works(&filter), "any program, under a seccomp filter");
    say_findings(&mut text, &filter);
    say_volumes(&mut text, in_place, &below);
    say_findings(&mut text, &fuse);
    text.push_str("used by no method\n");
    say_findings(&mut text, &other);
    text.push_str(match (loads, works(&vif), works(&filter)) {
        (false, ..) => "\nThe dynamic loader does not load tp's shim; use --method vif or trap.\n",
        (_, true, _) => "\nAny program can be run: by the shim, and by vif where that cannot enter it.\n",
        (_, _, true) => "\nAny program can be run: by the shim, and by trap where that cannot enter it.\n",
        _ => "\nPrograms that the shim cannot enter are refused.\n",
    });
    show::print(&text)?;
    Ok(u8::from(!(loads && any)))
}

fn say_method(text: &mut String, method: Method, works: bool, what: &str) {
    let verdict = if works { "works" } else { "does not work here" };
    // A string takes all that is written to it.
    let _ = writeln!(text, "{method:<5} {verdict} ({what})");
}

/// Where the pod's volumes appear, and what keeps fusermount3 from it where that is wanted.
fn say_volumes(text: &mut String, in_place: bool, below: &io::Result<()>) {
    let how = match (in_place, below) {
        (true, _) => "at their own paths",
        (_, Ok(())) => {
            "below the folder in TP_ROOT, by fusermount3; at their own paths with user namespaces and /dev/fuse"
        }
        _ => {
            "do not work here: they take user namespaces and /dev/fuse, or fusermount3 (Debian's package fuse3) and that"
        }
    };
    let _ = writeln!(text, "the pod's volumes: {how}");
    let _ = match below {
        Ok(()) => writeln!(text, "  yes  mounts by fusermount3"),
        Err(error) => writeln!(text, "  no   mounts by {error}"),
    };
}

fn say_findings(text: &mut String, findings: &[Finding]) {
    for finding in findings {
        let _ = match (&finding.outcome, finding.complaint()) {
            (Outcome::Works, _) => writeln!(text, "  yes  {}", spelled(finding.need)),
            (Outcome::Untried, _) => {
                writeln!(text, "  ?    {}: not tried after that", spelled(finding.need))
            }
            (Outcome::Fails(_), complaint) => {
                let complaint = complaint.map(|complaint| complaint.to_string()).unwrap_or_default();
                writeln!(text, "  no   {}", complaint.replace('\n', "\n     "))
            }
        };
    }
}

/// Whether a program that is started with the shim has it.
fn enters(shim: &Path) -> io::Result<bool> {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", IS_LOADED, "sh"]).arg(shim).env(env::LD_PRELOAD, shim).env_remove(env::SOCKET);
    Ok(shell.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()?.success())
}
