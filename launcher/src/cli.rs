//! The command line, as clap sees it. Nothing is decided here.
// A comment on a flattened field would become the help text of its parent.
#![allow(missing_docs)]

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::PossibleValue;
use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use glob::Pattern;

use crate::environment::Setting;
use crate::environment::syntax::Syntax;
use crate::expose::wanted::{self, Header, Options, Wanted};
use crate::kube::stand_in;
use crate::kube::target::{Kind, Workload};
use crate::mounts::chosen::{Choice, Word};
use crate::placement::{METHOD, Method};
use crate::pod::proxy::ProxyAddress;
use crate::scope::Rule;

/// Run a local command with the network, DNS and environment of a Kubernetes pod.
#[derive(Debug, Parser)]
#[command(name = "tp", version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Action,
}

/// What tp can do.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Run a command as if it were in the pod
    Run(Box<Run>),
    /// Make sure that a pod has an agent, and print how other SOCKS5 clients can use it
    Agent(Box<Agent>),
    /// Print the environment of a pod's container
    Env(Box<Env>),
    /// Print the workloads of a namespace, and who exposes what of them
    List(List),
    /// Print your runs on this machine
    Status(Status),
    /// Say what this machine allows, which methods of `tp run` work on it, and what to do about the others
    Doctor(Doctor),
    /// Give back what runs that are dead have left in the cluster
    Leave(Leave),
}

/// `tp run`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("where").required(true).args(["deployment", "pod", "statefulset", "target", "proxy", "swap_deployment", "swap_statefulset", "new_deployment"]))]
pub struct Run {
    #[command(flatten)]
    pub place: Place,

    #[command(flatten)]
    pub stead: Stead,

    /// Use this SOCKS5 server instead of a cluster
    #[arg(long, value_name = "socks5://[USER:PASSWORD@]HOST:PORT", conflicts_with_all = ["context", "namespace", "container", "env_file", "env_json", "env_exclude"])]
    pub proxy: Option<ProxyAddress>,

    /// Keep this on the laptop: NAME, *.DOMAIN, ADDRESS or CIDR, each with :PORT if need be (repeatable)
    #[arg(long, value_name = "NAME|CIDR[:PORT]")]
    pub local: Vec<Rule>,

    /// Have nothing but this go to the cluster; --local comes before it (repeatable)
    #[arg(long, value_name = "NAME|CIDR[:PORT]")]
    pub only: Vec<Rule>,

    /// How the command is kept under tp
    #[arg(long, value_enum, value_name = "METHOD", env = METHOD, default_value_t = Method::Auto)]
    pub method: Method,

    #[command(flatten)]
    pub files: EnvFiles,

    #[command(flatten)]
    pub changes: EnvChanges,

    #[command(flatten)]
    pub expose: Expose,

    #[command(flatten)]
    pub volumes: Volumes,

    #[command(flatten)]
    pub log: Log,

    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// What comes to the pod and is for the command.
#[derive(Debug, Args)]
pub struct Expose {
    /// Have what comes to this port of the pods go to the command: a number or a port's name, with the command's own port in
    /// front if that is another (repeatable)
    #[arg(long, value_name = "[LOCAL:]REMOTE[/udp]", conflicts_with = "proxy")]
    pub expose: Vec<Wanted>,

    /// Give the command a copy, and leave it to the app to answer
    #[arg(long, requires = "expose", conflicts_with_all = ["http_header", "http_path"])]
    pub mirror: bool,

    /// Take only HTTP requests with this header, and leave the others to the app (repeatable: all must match)
    #[arg(long, requires = "expose", value_name = "NAME=VALUE")]
    pub http_header: Vec<Header>,

    /// Take only HTTP requests whose path begins with this, and leave the others to the app
    #[arg(long, requires = "expose", value_name = "PREFIX", value_parser = wanted::path_prefix)]
    pub http_path: Option<String>,
}

impl Expose {
    /// What the user wants; [`None`] if nothing is to be exposed.
    #[must_use]
    pub fn options(&self) -> Option<Options> {
        let Self { expose, mirror, http_header, http_path } = self;
        Options::new(expose.clone(), *mirror, http_header.clone(), http_path.clone())
    }
}

/// `tp agent`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("where").required(true).args(["deployment", "pod", "statefulset", "target"]))]
pub struct Agent {
    #[command(flatten)]
    pub place: Place,

    #[command(flatten)]
    pub log: Log,

    /// Print the token, which lets whoever has it use the pod's network
    #[arg(long)]
    pub show_token: bool,
}

/// `tp env`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("where").required(true).args(["deployment", "pod", "statefulset", "target"]))]
pub struct Env {
    #[command(flatten)]
    pub place: Place,

    /// The syntax of it
    #[arg(long, value_enum, value_name = "SYNTAX", default_value = "dotenv")]
    pub format: Syntax,

    /// Print what comes from Secrets, too
    #[arg(long)]
    pub show_secrets: bool,

    #[command(flatten)]
    pub changes: EnvChanges,

    #[command(flatten)]
    pub log: Log,
}

/// `tp list`.
#[derive(Debug, Args)]
pub struct List {
    /// The kubeconfig's context [default: its current one]
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,

    /// The namespace [default: the context's]
    #[arg(long, short, value_name = "NAME")]
    pub namespace: Option<String>,

    /// How it is printed
    #[arg(long, short, value_enum, value_name = "FORM", default_value = "text")]
    pub output: Output,

    #[command(flatten)]
    pub log: Log,
}

/// `tp status`.
#[derive(Debug, Args)]
pub struct Status {
    /// How it is printed
    #[arg(long, short, value_enum, value_name = "FORM", default_value = "text")]
    pub output: Output,

    #[command(flatten)]
    pub log: Log,
}

/// How lists are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Columns
    Text,
    /// An array of objects
    Json,
}

impl ValueEnum for Syntax {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let readers = match self {
            Self::Dotenv => "for dotenv libraries and Docker Compose",
            Self::Json => "an object of strings",
            Self::Shell => "for `source` and `eval`",
            Self::Docker => "for `docker run --env-file`; no values of several lines",
        };
        Some(PossibleValue::new(self.name()).help(readers))
    }
}

/// Where the environment is written to as well.
#[derive(Debug, Args)]
pub struct EnvFiles {
    /// Write the pod's environment to this file too, in dotenv syntax
    #[arg(long, value_name = "FILE")]
    pub env_file: Option<PathBuf>,

    /// Write the pod's environment to this file too, as JSON
    #[arg(long, value_name = "FILE")]
    pub env_json: Option<PathBuf>,
}

/// What is otherwise than in the pod.
#[derive(Debug, Args)]
pub struct EnvChanges {
    /// Set this variable, whatever the pod's is (repeatable)
    #[arg(long, value_name = "NAME=VALUE")]
    pub env: Vec<Setting>,

    /// Leave the pod's variables out whose names match this, with `*`, `?` and `[…]` (repeatable)
    #[arg(long, value_name = "PATTERN")]
    pub env_exclude: Vec<Pattern>,
}

/// `tp doctor`.
#[derive(Debug, Args)]
pub struct Doctor {
    #[command(flatten)]
    pub log: Log,
}

/// `tp leave`.
#[derive(Debug, Args)]
pub struct Leave {
    /// The kubeconfig's context [default: its current one]
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,

    /// The namespace [default: the context's]
    #[arg(long, short, value_name = "NAME")]
    pub namespace: Option<String>,

    /// Also what runs that are alive have: everybody's
    #[arg(long)]
    pub all: bool,

    #[command(flatten)]
    pub log: Log,
}

/// What the command stands in for.
#[derive(Debug, Args)]
pub struct Stead {
    /// Take this deployment's place: it is scaled to 0 and given back at the end
    #[arg(long, value_name = "NAME", conflicts_with_all = ["mirror", "http_header", "http_path"])]
    pub swap_deployment: Option<String>,

    /// Take this stateful set's place, as its first pod
    #[arg(long, value_name = "NAME", conflicts_with_all = ["mirror", "http_header", "http_path"])]
    pub swap_statefulset: Option<String>,

    /// Make a deployment that there is not yet, with a Service for what is exposed, for as long as the command runs
    #[arg(long, value_name = "NAME", requires = "expose", conflicts_with_all = ["mirror", "http_header", "http_path"])]
    pub new_deployment: Option<String>,
}

impl Stead {
    /// In place of what the command is, if it is.
    #[must_use]
    pub fn place(&self, exposed: Option<&Options>) -> Option<stand_in::Place> {
        let swap = |kind, name: &Option<String>| {
            name.clone().map(|name| stand_in::Place::Swap(Workload { kind, name }))
        };
        let ports =
            || exposed.iter().flat_map(|options| &options.wanted).filter_map(Wanted::of_service).collect();
        swap(Kind::Deployment, &self.swap_deployment)
            .or_else(|| swap(Kind::StatefulSet, &self.swap_statefulset))
            .or_else(|| self.new_deployment.clone().map(|name| stand_in::Place::New { name, ports: ports() }))
    }
}

/// Which pod, and how its agent gets there.
#[derive(Debug, Args)]
pub struct Place {
    /// The kubeconfig's context [default: its current one]
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,

    /// The namespace [default: the context's]
    #[arg(long, short, value_name = "NAME")]
    pub namespace: Option<String>,

    /// Be a pod of this deployment
    #[arg(long, short, value_name = "NAME")]
    pub deployment: Option<String>,

    /// Be this pod
    #[arg(long, value_name = "NAME")]
    pub pod: Option<String>,

    /// Be a pod of this stateful set
    #[arg(long, value_name = "NAME")]
    pub statefulset: Option<String>,

    /// Be a pod of this workload: deployment/web, sts/db, pod/web-0, daemonset/…, replicaset/…, job/…
    #[arg(value_name = "TYPE/NAME")]
    pub target: Option<Workload>,

    /// The container whose environment is taken [default: as kubectl chooses it]
    #[arg(long, short, value_name = "NAME")]
    pub container: Option<String>,

    /// An image that has tp-agent built in, instead of streaming it into a small one
    #[arg(long, value_name = "IMAGE", env = "TP_AGENT_IMAGE")]
    pub agent_image: Option<String>,

    /// The image with `sh` into which the agent is streamed
    #[arg(long, value_name = "IMAGE", env = "TP_AGENT_BASE_IMAGE", default_value = "busybox:stable")]
    pub agent_base_image: String,
}

impl Place {
    /// What the user named.
    #[must_use]
    pub fn workload(&self) -> Option<Workload> {
        let named = |kind, name: &Option<String>| name.clone().map(|name| Workload { kind, name });
        named(Kind::Deployment, &self.deployment)
            .or_else(|| named(Kind::Pod, &self.pod))
            .or_else(|| named(Kind::StatefulSet, &self.statefulset))
            .or_else(|| self.target.clone())
    }
}

/// Which of the pod's volumes the command gets.
#[derive(Debug, Args)]
pub struct Volumes {
    /// Have the pod's volumes at their paths: all (true, the default), none (false), or that at PATH (repeatable)
    #[arg(long, value_name = "PATH|true|false", conflicts_with = "proxy")]
    pub mount: Vec<Word>,

    /// Let the command write to the pod's volumes, or to that at PATH (repeatable)
    #[arg(long, value_name = "PATH", num_args = 0..=1, require_equals = true, default_missing_value = "", conflicts_with = "proxy")]
    pub mount_rw: Vec<OsString>,
}

impl Volumes {
    /// What the user said.
    #[must_use]
    pub fn choice(&self) -> Choice {
        Choice { mount: self.mount.clone(), writable: self.mount_rw.iter().map(PathBuf::from).collect() }
    }
}

/// What is told besides the command's own output.
#[derive(Debug, Args)]
pub struct Log {
    /// Write a log of what tp does to this file
    #[arg(long, value_name = "FILE")]
    pub log_file: Option<PathBuf>,

    /// Say what tp does, on standard error (twice: all of it)
    #[arg(long, short, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn exactly_one_place_is_named() {
        for line in [
            "tp run --deployment web -- env",
            "tp run --pod web-0 -- env",
            "tp run --statefulset db -- env",
            "tp run sts/db -- env",
            "tp run --proxy socks5://u:p@h:1 -- env",
            "tp run --swap-deployment web -- env",
            "tp run --swap-statefulset db --expose 8080 -- env",
            "tp run --new-deployment web --expose 8080 -- env",
        ] {
            parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
        for line in [
            "tp run -- env",
            "tp run --deployment web",
            "tp run --deployment web --pod x -- env",
            "tp run --proxy http://h:1 -- env",
            "tp run --proxy socks5://h:1 --deployment web -- env",
            "tp run service/web -- env",
            "tp run --swap-deployment web --deployment web -- env",
            "tp run --swap-deployment web --expose 8080 --mirror -- env",
            "tp run --new-deployment web -- env",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn what_stays_local_can_be_said_more_than_once() {
        let Action::Run(run) =
            parse("tp run -d web --local db --local 10.0.0.0/8:22 --only *.svc -- env").unwrap().command
        else {
            panic!("not a run");
        };
        assert_eq!((run.local.len(), run.only.len()), (2, 1));
        assert!(parse("tp run -d web --local db:0 -- env").is_err());
    }

    #[test]
    fn options_about_what_is_exposed_want_something_exposed() {
        for line in
            ["--expose 8080 --mirror", "--expose 80:http --expose 53/udp", "--expose 80 --http-path /x"]
        {
            let line = format!("tp run -d web {line} -- env");
            let Action::Run(run) = parse(&line).unwrap().command else { panic!("not a run") };
            assert!(run.expose.options().is_some());
        }
        for line in [
            "tp run -d web --mirror -- env",
            "tp run -d web --http-header a=b -- env",
            "tp run -d web --expose 80 --mirror --http-header a=b -- env",
            "tp run -d web --expose 0 -- env",
            "tp run --proxy socks5://h:1 --expose 80 -- env",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn variables_and_patterns_are_checked_before_anything_is_made() {
        assert!(parse("tp run -d web --env A=b=c --env B= --env-exclude *_KEY -- env").is_ok());
        for option in ["--env A", "--env =b", "--env-exclude a["] {
            assert!(parse(&format!("tp run -d web {option} -- env")).is_err(), "{option}");
        }
    }

    #[test]
    fn volumes_are_named_by_path_and_may_be_written_to_all_or_some() {
        let choice = |line: &str| {
            let Action::Run(run) = parse(line).unwrap().command else { panic!("not a run") };
            run.volumes.choice()
        };
        let chosen = choice("tp run -d web --mount /a --mount /b --mount-rw --mount-rw=/c -- env");
        assert_eq!(chosen.mount, [Word::Path("/a".into()), Word::Path("/b".into())]);
        assert_eq!(chosen.writable, [PathBuf::new(), PathBuf::from("/c")]);
        assert!(!choice("tp run -d web --mount false -- env").wants_any());
        assert!(parse("tp run --proxy socks5://h:1 --mount true -- env").is_err());
    }

    #[test]
    fn the_commands_own_options_are_the_commands() {
        let Action::Run(run) = parse("tp run -d web -- curl -v --pod x").unwrap().command else {
            panic!("not a run");
        };
        assert_eq!(run.command, ["curl", "-v", "--pod", "x"]);
        assert_eq!(run.place.workload().unwrap().name, "web");
    }
}
