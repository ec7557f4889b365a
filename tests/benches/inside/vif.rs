//! The private network alone: a stream from a program up to the launcher, which ends there.
//!
//! `vif INSIDE BULK up|down MIB` makes a private network with tp's own code, whose pod is a service in memory, and runs
//! `bulk` in it.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tp::flows::Flows;
use tp::gate::{Gate, Parks};
use tp::names::Names;
use tp::nameserver::Nameservers;
use tp::pod::datagrams::Datagrams;
use tp::pod::{DialError, Found, LookupError, Pod, Stream, Want};
use tp::questions::Questions;
use tp::scope::Scope;
use tp::services::Services;
use tp::vif::Vif;

use super::service::Service;

/// Anywhere: every address is the pod's.
const FAR: &str = "10.96.0.7";
const PORT: &str = "7";

pub(crate) fn main(words: &[String]) -> ExitCode {
    match run(words) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("vif: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[String]) -> Result<bool, Box<dyn std::error::Error>> {
    let [inside, bulk, direction, mib] = words else { return Err("usage: see the head of vif.rs".into()) };
    // As many threads as tp has.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let folder = tempfile::tempdir()?;
        let vif = Vif::start(Path::new(inside), folder.path(), services()?, None).await?;
        let mut program = Command::new(bulk);
        program.args([direction, FAR, PORT, mib]);
        let namespaces = vif.namespaces().each_ref().map(|namespace| namespace.as_raw_fd());
        // SAFETY: setns(2) is a system call; the descriptors are open for as long as `vif` lives.
        unsafe {
            program.pre_exec(move || {
                for namespace in namespaces {
                    if libc::setns(namespace, 0) != 0 {
                        return Err(std::io::Error::last_os_error());
                    }
                }
                Ok(())
            });
        }
        let status = tokio::task::spawn_blocking(move || program.status()).await??;
        vif.end().await;
        Ok(status.success())
    })
}

fn services() -> Result<Arc<Services>, Box<dyn std::error::Error>> {
    let pod: Arc<dyn Pod> = Arc::new(Ends);
    let scope = Arc::new(Scope::new(Vec::new(), Vec::new()));
    let names = Arc::new(Names::new(Arc::clone(&pod), Arc::clone(&scope)));
    Ok(Arc::new(Services {
        gate: Gate::new(Parks::open()?, Arc::clone(&pod)),
        flows: Flows::new(Arc::clone(&pod)),
        questions: Questions::new(Arc::clone(&pod), Arc::clone(&names), Arc::clone(&scope), None),
        nameservers: Nameservers::new(Arc::clone(&pod)),
        names,
        scope,
        resolver: None,
        pod,
    }))
}

/// A pod in which every connection is one to the service in memory.
struct Ends;

impl Pod for Ends {
    fn dial(&self, _: SocketAddr) -> BoxFuture<'_, Result<Stream, DialError>> {
        async { Ok(Box::new(Service::default()) as Stream) }.boxed()
    }

    fn carries_datagrams(&self, _: SocketAddr) -> bool {
        false
    }

    fn datagrams(&self, _: SocketAddr) -> BoxFuture<'_, Result<Datagrams, DialError>> {
        async { Err(DialError::from_reply(7)) }.boxed()
    }

    fn lookup(&self, _: String, _: Want) -> BoxFuture<'_, Result<Found, LookupError>> {
        async { Err(LookupError::from_reply(4)) }.boxed()
    }

    fn reverse(&self, _: IpAddr) -> BoxFuture<'_, Result<String, LookupError>> {
        async { Err(LookupError::from_reply(4)) }.boxed()
    }
}
