//! `tp leave`: gives back what runs that are dead have left in the cluster, from any machine.
//!
//! Everything tp changes has a record beside it, and everything it makes a label (see
//! [`record`]), so nothing but the API server is asked. A run is dead when it has no pod left in which its agent runs or may
//! still start: an agent ends some 30 s after its laptop is gone. One to which Services lead goes on, and says in its log that
//! nobody is there. Each step is one that the run itself would have taken, and is harmless if it was taken already; two that
//! leave at once do not disturb each other, and one that is interrupted is done by the next.

use std::io::{self, Write as _};

use k8s_openapi::api::core::v1::Pod;

use crate::cli;
use crate::kube::own_pod::{self, WHO};
use crate::kube::record::{self, Given, Looked, Record};
use crate::kube::stand_in;
use crate::kube::turning;
use crate::kube::{ApiError, Cluster};
use crate::report::Failure;
use crate::session::SessionError;
use crate::tell::tell;

/// `tp leave`: says what it did.
///
/// # Errors
/// The first thing that went wrong; all else is done and said.
pub async fn leave(options: cli::Leave) -> Result<u8, Failure> {
    let connected = Cluster::connect(options.context.as_deref(), options.namespace.as_deref()).await;
    let cluster = connected.map_err(SessionError::Config)?;
    let mut leaving = Leaving { cluster, all: options.all, said: Vec::new(), failed: None };
    leaving.run().await;
    if leaving.said.is_empty() && leaving.failed.is_none() {
        leaving.said.push(format!("nothing to give back in namespace `{}`", leaving.cluster.namespace()));
    }
    let text: String = leaving.said.iter().map(|line| format!("{line}\n")).collect();
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(Failure::Output(error)),
        _ => {}
    }
    match leaving.failed {
        Some(error) => Err(SessionError::Api(error).into()),
        None => Ok(0),
    }
}

struct Leaving {
    cluster: Cluster,
    all: bool,
    said: Vec<String>,
    failed: Option<ApiError>,
}

impl Leaving {
    async fn run(&mut self) {
        for kind in record::KINDS {
            for (looked, record) in self.known(record::all(&self.cluster, kind).await) {
                let given = self.give_back(&looked, &record).await;
                self.say(&looked.workload.to_string(), given);
            }
        }
        for (name, record) in self.known(turning::record::all(&self.cluster).await) {
            let given = self.turn_back(&name, &record).await;
            self.say(&format!("service/{name}"), given);
        }
        for made in [stand_in::services(&self.cluster).await, stand_in::deployments(&self.cluster).await] {
            for left in self.known(made) {
                let removed = self.remove(&left).await;
                self.say(&left.what, removed);
            }
        }
        for pod in self.known(own_pod::all(&self.cluster, None).await) {
            let removed = self.remove_pod(&pod).await;
            self.say(&format!("pod/{}", pod.metadata.name.as_deref().unwrap_or_default()), removed);
        }
    }

    /// What this user may not know is said, and keeps nothing else from being given back.
    fn known<T>(&mut self, listed: Result<Vec<T>, ApiError>) -> Vec<T> {
        listed.unwrap_or_else(|error| {
            // One word about it is enough.
            if self.failed.as_ref().is_none_or(|known| known.to_string() != error.to_string()) {
                tell(format_args!("not all is known: {error}"));
            }
            self.failed.get_or_insert(error);
            Vec::new()
        })
    }

    fn say(&mut self, what: &str, outcome: Result<Option<String>, ApiError>) {
        match outcome {
            Ok(Some(done)) => self.said.push(format!("{what}: {done}")),
            Ok(None) => {}
            Err(error) => {
                tell(format_args!("{what}: {error}"));
                self.failed.get_or_insert(error);
            }
        }
    }

    async fn give_back(&self, looked: &Looked, record: &Record) -> Result<Option<String>, ApiError> {
        let held = format!("held by {} since {}", record.who, record.age());
        if self.is_alive(&record.session, record.since).await? {
            return Ok(Some(alive(&held)));
        }
        let workload = &looked.workload;
        let given = stand_in::give_back(&self.cluster, workload, &record.session, true).await?;
        record::remove(&self.cluster, workload, &record.session).await?;
        Ok(match given {
            Given::Back { replicas } => Some(format!("given back with {replicas} replicas; it was {held}")),
            Given::AsItIs { replicas } => {
                Some(format!("left with the {replicas} replicas that somebody else gave it; it was {held}"))
            }
            Given::Nothing => None,
        })
    }

    async fn turn_back(
        &self,
        name: &str,
        record: &turning::record::Record,
    ) -> Result<Option<String>, ApiError> {
        let held = format!("held by {} since {}", record.who, record.age());
        if self.is_alive(&record.session, record.since).await? {
            return Ok(Some(alive(&held)));
        }
        Ok(match turning::give_back(&self.cluster, name, &record.session).await? {
            turning::record::Given::Back => Some(format!("leads to the app again; it was {held}")),
            turning::record::Given::AsItIs(selector) => Some(format!(
                "left led to {}, as somebody else has it; it was {held}",
                turning::record::said(&selector)
            )),
            turning::record::Given::Nothing => None,
        })
    }

    async fn remove(&self, left: &stand_in::Left) -> Result<Option<String>, ApiError> {
        if self.is_alive(&left.session, left.since).await? {
            return Ok(Some(alive(&format!("made by {}", left.who))));
        }
        let removed = stand_in::remove_made(&self.cluster, left).await?;
        Ok(removed.then(|| format!("deleted; it was made by {}", left.who)))
    }

    async fn remove_pod(&self, pod: &Pod) -> Result<Option<String>, ApiError> {
        if pod.metadata.deletion_timestamp.is_some() {
            return Ok(None);
        }
        let who = pod.metadata.annotations.as_ref().and_then(|all| all.get(WHO));
        let made = format!("made by {}", who.map_or("somebody", String::as_str));
        let session = pod.metadata.labels.as_ref().and_then(|all| all.get(own_pod::SESSION));
        let session = session.map_or("", String::as_str);
        if !own_pod::has_ended(pod) && self.is_alive(session, own_pod::made_at(&pod.metadata)).await? {
            return Ok(Some(alive(&made)));
        }
        own_pod::remove(&self.cluster, pod.metadata.name.as_deref().unwrap_or_default()).await?;
        Ok(Some(format!("deleted; it was {made}")))
    }

    /// If a run is to be left in peace.
    async fn is_alive(&self, session: &str, since: u64) -> Result<bool, ApiError> {
        if self.all {
            return Ok(false);
        }
        record::is_alive(&self.cluster, session, since).await
    }
}

fn alive(held: &str) -> String {
    format!("{held}, and its run is alive: left as it is (--all gives it back)")
}
