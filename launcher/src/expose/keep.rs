//! Keeps the ports of all pods: new pods are taken, gone ones forgotten, and what was lost is taken again.
//!
//! The agent gives a port back when it hears nothing from here for some seconds, and the launcher takes it again; in between
//! the app serves. Neither needs the other for that.

use std::collections::BTreeSet;
use std::future::pending;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::try_join_all;
use socks_proxy::expose::wire::{ALIVE_EVERY, MESSAGE_MAX, ToAgent, ToLauncher};
use socks_proxy::messages;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::Shared;
use super::beside::{self, Stream, Up, said};
use super::carry::carry;
use crate::kube::pods::ByUid;
use crate::session::link::Link;
use crate::tell::tell;
use crate::tries::Tries;

/// How long a pod that is not ready is left in peace.
const NOT_READY: Duration = Duration::from_secs(1);
/// How long the agent may take to say that a port is the app's again.
const ENDED_LIMIT: Duration = Duration::from_secs(3);
/// How long what the program has said last may take to be delivered.
const DRAIN_LIMIT: Duration = Duration::from_secs(1);

type PodsRx = watch::Receiver<ByUid>;

/// Keeps the ports in all pods, until `done` and until all are given back.
pub(super) async fn supervise(
    shared: Arc<Shared>,
    ups: Vec<(String, Up)>,
    mut pods_rx: PodsRx,
    done: CancellationToken,
) {
    let mut tasks = JoinSet::new();
    let mut known = BTreeSet::new();
    for (uid, up) in ups {
        known.insert(uid.clone());
        tasks.spawn(keep(Arc::clone(&shared), uid, Some(up), pods_rx.clone(), done.clone()));
    }
    while !done.is_cancelled() {
        let serving: Vec<String> = {
            let pods = pods_rx.borrow_and_update();
            let serves = |pod| shared.pods.serving(pod, shared.container.as_deref()).is_some();
            pods.iter().filter(|(_, pod)| serves(pod)).map(|(uid, _)| uid.clone()).collect()
        };
        for uid in serving {
            if known.insert(uid.clone()) {
                tasks.spawn(keep(Arc::clone(&shared), uid, None, pods_rx.clone(), done.clone()));
            }
        }
        tokio::select! {
            Ok(()) = pods_rx.changed() => {}
            Some(Ok(uid)) = tasks.join_next() => drop(known.remove(&uid)),
            () = done.cancelled() => {}
        }
    }
    while tasks.join_next().await.is_some() {}
}

/// Keeps the ports in one pod, until it is gone or `done`. Gives its uid.
async fn keep(
    shared: Arc<Shared>,
    uid: String,
    mut up: Option<Up>,
    pods_rx: PodsRx,
    done: CancellationToken,
) -> String {
    let ports = said(&shared.exposed);
    loop {
        let this = match up.take() {
            Some(up) => up,
            None => {
                let Some(this) = restore(&shared, &uid, &pods_rx, &done).await else { return uid };
                tell(format_args!("took {ports} of pod {}", this.agent.pod));
                this
            }
        };
        let pod = this.agent.pod.clone();
        let reason = tokio::select! {
            reason = serve(&shared, this, &done) => reason,
            () = gone(pods_rx.clone(), &uid) => Some("it was deleted".to_owned()),
        };
        let Some(reason) = reason else { return uid };
        if is_going(&pods_rx, &uid) {
            tell(format_args!("pod {pod} is gone, and {ports} of it"));
            return uid;
        }
        warn!(pod, reason, "lost");
        tell(format_args!("lost {ports} of pod {pod} to the app ({reason}); taking back"));
    }
}

/// Returns when the pod is there no more.
async fn gone(mut pods_rx: PodsRx, uid: &str) {
    if pods_rx.wait_for(|pods| !pods.contains_key(uid)).await.is_err() {
        pending().await
    }
}

fn is_going(pods_rx: &PodsRx, uid: &str) -> bool {
    let pods = pods_rx.borrow();
    let Some(pod) = pods.get(uid) else { return true };
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    pod.metadata.deletion_timestamp.is_some() || matches!(phase, Some("Succeeded" | "Failed"))
}

/// Takes the ports, however often it has to be tried; [`None`] when there is nothing to take any more.
async fn restore(shared: &Shared, uid: &str, pods_rx: &PodsRx, done: &CancellationToken) -> Option<Up> {
    let mut tries = Tries::default();
    loop {
        if is_going(pods_rx, uid) {
            return None;
        }
        let target = {
            let pods = pods_rx.borrow();
            pods.get(uid).and_then(|pod| shared.pods.serving(pod, shared.container.as_deref()))
        };
        let tried = async {
            // It may be about to go.
            let Some(target) = target else {
                sleep(NOT_READY).await;
                return None;
            };
            let what = format!("{} of pod {} cannot be taken yet", said(&shared.exposed), target.pod_name());
            match beside::open(shared, target).await {
                Ok(up) => return Some(up),
                Err(error) => tries.failed(what, &error, error.lasts()).await,
            }
            None
        };
        tokio::select! {
            Some(up) = tried => return Some(up),
            () = done.cancelled() => return None,
            else => {}
        }
    }
}

/// Carries what arrives. [`None`] when all was given back in order, else what went wrong.
pub(super) async fn serve(shared: &Arc<Shared>, up: Up, done: &CancellationToken) -> Option<String> {
    let Up { agent, link: Link { opener, mut arrivals, mut driver }, streams } = up;
    let carried = TaskTracker::new();
    let take = |stream| {
        let (shared, pod) = (Arc::clone(shared), agent.pod.clone());
        carried.spawn(async move { carry(stream, &shared.exposed, &shared.program, &pod).await });
    };
    let reason = {
        let mut ports = pin!(try_join_all(streams.into_iter().map(|stream| hold(stream, &agent.pod, done))));
        loop {
            tokio::select! {
                ended = &mut ports => break ended.err(),
                Some(stream) = arrivals.next() => take(stream),
                ended = &mut driver => break Some(match ended {
                    Ok(Err(error)) => error.to_string(),
                    Err(error) => error.to_string(),
                    Ok(Ok(())) => "the port-forward was closed".to_owned(),
                }),
            }
        }
    };
    if reason.is_none() {
        // Those that came before the agent's last word.
        while let Some(Some(stream)) = arrivals.next().now_or_never() {
            take(stream);
        }
        carried.close();
        tokio::select! {
            _ = timeout(DRAIN_LIMIT, carried.wait()) => {}
            _ = &mut driver => {}
        }
    }
    drop(opener);
    reason
}

/// Keeps one port by a word now and then, until `done` and the agent's answer to that.
pub(super) async fn hold(stream: Stream, pod: &str, done: &CancellationToken) -> Result<(), String> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let listen = async {
        loop {
            match messages::read(&mut reader, MESSAGE_MAX).await {
                Ok(ToLauncher::Note(note)) => tell(format_args!("pod {pod}: {note}")),
                Ok(ToLauncher::Ended) if done.is_cancelled() => return Ok(()),
                Ok(ToLauncher::Ended) => return Err("its agent stops".to_owned()),
                Ok(other) => return Err(format!("the agent says {other:?}")),
                Err(error) => return Err(error.to_string()),
            }
        }
    };
    let beat = async {
        let mut ticks = interval(ALIVE_EVERY);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = done.cancelled() => break,
            }
            messages::write(&mut writer, &ToAgent::Alive).await.map_err(|error| error.to_string())?;
        }
        messages::write(&mut writer, &ToAgent::Done).await.map_err(|error| error.to_string())?;
        sleep(ENDED_LIMIT).await;
        warn!(pod, "the agent did not answer in time");
        Ok(())
    };
    tokio::select! {
        heard = listen => heard,
        ended = beat => ended,
    }
}
