//! What this machine allows, each found out by doing it in a process of its own (`tp-inside probe`), and what can be done
//! about what it does not.

mod advice;

use std::fmt;
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tp_abi::env;
use tp_inside::probe::{FILTER, NAMESPACES, Need, RIGHTS};

use crate::{nested, sys};

/// The kernel may have to load a module first.
const LIMIT: Duration = Duration::from_secs(10);

/// How a step ended.
#[derive(Debug)]
pub enum Outcome {
    /// It was done.
    Works,
    /// It was refused.
    Fails(io::Error),
    /// A step before it was refused.
    Untried,
}

/// One step.
#[derive(Debug)]
pub struct Finding {
    /// What was tried.
    pub need: Need,
    /// What came of it.
    pub outcome: Outcome,
}

impl Finding {
    /// Whether it was done.
    #[must_use]
    pub fn works(&self) -> bool {
        matches!(self.outcome, Outcome::Works)
    }

    /// What is to be said of it, if it was refused.
    #[must_use]
    pub fn complaint(&self) -> Option<Complaint> {
        let Outcome::Fails(error) = &self.outcome else { return None };
        Some(Complaint {
            what: format!("{}: {error}", spelled(self.need)),
            advice: advice::on(self.need, error),
        })
    }
}

/// Something that this machine does not allow.
#[derive(Clone, Debug)]
pub struct Complaint {
    /// What, and what the system said.
    pub what: String,
    /// What can be done about it, in lines.
    pub advice: Vec<String>,
}

impl Complaint {
    /// An error of which no more is known.
    #[must_use]
    pub fn of(error: &dyn std::error::Error) -> Self {
        let mut what = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            what.push_str(&format!(": {error}"));
            cause = error.source();
        }
        Self { what, advice: Vec::new() }
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        self.advice.iter().flat_map(|advice| advice.lines()).try_for_each(|line| write!(f, "\n  {line}"))
    }
}

/// What keeps `--method vif` from working; nothing if it works. `inside` is the path of `tp-inside`.
pub async fn vif(inside: &Path) -> Vec<Complaint> {
    if let Some(complaint) = filtered() {
        return vec![complaint];
    }
    let of_vif = |finding: &Finding| !matches!(finding.need, Need::Tun | Need::Fuse);
    complaints(inside, namespaces(inside).await.map(|all| all.into_iter().filter(of_vif).collect()))
}

/// What keeps `--method vif` from working on most machines on which it does not; found soon.
pub async fn rights(inside: &Path) -> Vec<Complaint> {
    match filtered() {
        Some(complaint) => vec![complaint],
        None => complaints(inside, tried(inside, RIGHTS).await),
    }
}

/// What to say if tp itself is in a run that answers its calls.
#[must_use]
pub fn filtered() -> Option<Complaint> {
    nested::is_filtered().then(|| Complaint {
        what: "tp is in a `tp run` itself, of which a filter answers all calls (--method trap)".to_owned(),
        advice: Vec::new(),
    })
}

/// What keeps `--method trap` from working; nothing if it works.
pub async fn trap(inside: &Path) -> Vec<Complaint> {
    complaints(inside, filter(inside).await)
}

fn complaints(inside: &Path, findings: io::Result<Vec<Finding>>) -> Vec<Complaint> {
    match findings {
        Ok(findings) => findings.iter().filter_map(Finding::complaint).collect(),
        Err(error) => {
            let what = format!("{} cannot be used: {error}", inside.display());
            vec![Complaint {
                what,
                advice: vec!["install tp again, with bin/ and lib/ side by side".to_owned()],
            }]
        }
    }
}

/// A step as a person reads it.
#[must_use]
pub fn spelled(need: Need) -> &'static str {
    match need {
        Need::Users => "user namespaces",
        Need::Networks => "network namespaces",
        Need::Mounts => "mount namespaces",
        Need::Link => "links between network namespaces (veth)",
        Need::Packets => "packet sockets",
        Need::Rules => "rules for packets (nf_tables)",
        Need::Tproxy => "redirected datagrams (nft_tproxy)",
        Need::Sockets => "rules with an owner that look for sockets (nft_socket)",
        Need::Filter => "seccomp user notification",
        Need::Reach => "descriptors of other processes (pidfd_getfd)",
        Need::Memory => "memory of other processes (process_vm_readv)",
        Need::Tun => "network devices of programs (/dev/net/tun)",
        Need::Fuse => "file systems of programs (/dev/fuse)",
    }
}

/// What a private network takes, and what needs the same rights.
///
/// # Errors
/// If that cannot be started or does not end.
pub async fn namespaces(inside: &Path) -> io::Result<Vec<Finding>> {
    tried(inside, NAMESPACES).await
}

async fn tried(inside: &Path, subject: &str) -> io::Result<Vec<Finding>> {
    let mut prober = start(inside, subject)?;
    let mut said = String::new();
    let all = async {
        if let Some(out) = &mut prober.stdout {
            out.read_to_string(&mut said).await?;
        }
        prober.wait().await
    };
    tokio::time::timeout(LIMIT, all).await??;
    let of_these = |need: &Need| !matches!(need, Need::Filter | Need::Reach | Need::Memory);
    Ok(Need::ALL.into_iter().filter(of_these).map(|need| finding(need, &said)).collect())
}

/// What a filter takes.
///
/// # Errors
/// As for [`namespaces`].
pub async fn filter(inside: &Path) -> io::Result<Vec<Finding>> {
    let mut prober = start(inside, FILTER)?;
    let mut said = String::new();
    if let Some(out) = &mut prober.stdout {
        tokio::time::timeout(LIMIT, BufReader::new(out).read_line(&mut said)).await??;
    }
    let [reached, memory] = reach(&prober, &said);
    // It ends with its standard input.
    drop(prober.stdin.take());
    tokio::time::timeout(LIMIT, prober.wait()).await??;
    Ok(vec![
        finding(Need::Filter, &said),
        Finding { need: Need::Reach, outcome: reached },
        Finding { need: Need::Memory, outcome: memory },
    ])
}

/// Takes the listener whose number is in the line out of the prober, and looks into its memory. Containers may have
/// filters that allow the one and not the other.
fn reach(prober: &Child, said: &str) -> [Outcome; 2] {
    let pid = prober.id().and_then(|pid| i32::try_from(pid).ok());
    let listener = said.split_whitespace().nth(2).and_then(|number| number.parse().ok());
    let outcome = |done: io::Result<()>| done.map_or_else(Outcome::Fails, |()| Outcome::Works);
    match (pid, listener) {
        (Some(pid), Some(listener)) => [
            outcome(sys::process::descriptor_of(pid, listener).map(drop)),
            outcome(sys::process::memory_of(pid)),
        ],
        _ => [Outcome::Untried, Outcome::Untried],
    }
}

fn start(inside: &Path, subject: &str) -> io::Result<Child> {
    Command::new(inside)
        .args(["probe", subject])
        .env_remove(env::PROGRAM)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
}

fn finding(need: Need, said: &str) -> Finding {
    let errno = said.lines().find_map(|line| {
        let mut words = line.split(' ');
        (words.next() == Some(need.name())).then(|| words.next()?.parse().ok()).flatten()
    });
    let outcome = match errno {
        Some(0) => Outcome::Works,
        Some(errno) => Outcome::Fails(io::Error::from_raw_os_error(errno)),
        None => Outcome::Untried,
    };
    Finding { need, outcome }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_a_step_ended() {
        let said = "users 0\nnetworks 1\nfilter 0 3\n";
        assert!(finding(Need::Users, said).works());
        assert!(finding(Need::Filter, said).works());
        let Outcome::Fails(error) = finding(Need::Networks, said).outcome else { panic!("it works") };
        assert_eq!(error.raw_os_error(), Some(1));
        assert!(matches!(finding(Need::Link, said).outcome, Outcome::Untried));
    }

    #[test]
    fn what_works_is_not_complained_about() {
        assert!(finding(Need::Users, "users 0\n").complaint().is_none());
        let complaint = finding(Need::Users, "users 28\n").complaint().unwrap();
        assert!(complaint.what.starts_with("user namespaces: "), "{complaint}");
    }
}
