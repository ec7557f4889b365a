//! Ports of a pod of our own: its agent listens on them itself, since there is no app to take them from.
//!
//! The pod stands in for a workload ([`StandIn`]), or Services are turned to it ([`Turning`]); and they find it when one more
//! port is listened on, which its readiness probe asks for. That one is opened last, when the program here listens on all
//! of its own: nobody is sent to a program that is still to start, and the workload's pods serve until then. When the link
//! is lost, the agent of a stand-in closes it with all others, and Services find nobody rather than somebody who does not
//! answer; where the app goes on behind it, the agent keeps all ports and passes on what comes.

use std::future::pending;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use socks_proxy::expose::wire::{Expose, Protocol, Way};
use socks_proxy::mux::Opener;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::beside::{self, Up, said};
use super::{ExposeError, Exposing, Options, Origin, Shared, exposed, keep};
use crate::kube::agent::Agent;
use crate::kube::own_pod::OwnPod;
use crate::kube::pods::Pods;
use crate::kube::stand_in::{StandIn, StandInError};
use crate::kube::turning::{App, TurnError, Turning};
use crate::session::SessionError;
use crate::tell::tell;
use crate::tries::Tries;

/// How often it is looked if the program listens.
const EVERY: Duration = Duration::from_millis(50);
/// How long a program may take to listen before its user is told that nobody is sent to it.
const LISTEN_LIMIT: Duration = Duration::from_secs(30);
/// How long the end of a link may take to be seen, which is the end of all that goes by it.
const LINK_LOST: Duration = Duration::from_secs(1);
/// The readiness port's number among the exposed ones: what arrives there is nobody's. Ports that are the app's count
/// down from there.
const READINESS: u32 = u32::MAX;

/// Whose place the pod has.
#[derive(Clone)]
pub(super) enum Seat {
    /// A workload's.
    Workload(Arc<StandIn>),
    /// The workload's pods', for some of its Services.
    Services(Arc<Turning>),
}

impl Seat {
    async fn pod(&self) -> Result<OwnPod, ExposeError> {
        match self {
            Self::Workload(stand_in) => Ok(stand_in.pod().await.map_err(SessionError::StandIn)?),
            Self::Services(turning) => Ok(turning.pod().await?),
        }
    }

    fn ready_port(&self) -> Option<u16> {
        match self {
            Self::Workload(stand_in) => stand_in.ready_port(),
            Self::Services(turning) => Some(turning.ready_port()),
        }
    }

    /// All ports that come to the pod and have an app behind.
    fn apps(&self) -> &[App] {
        match self {
            Self::Workload(_) => &[],
            Self::Services(turning) => turning.apps(),
        }
    }
}

/// Somebody else has given it back: there is nothing to take any more.
fn is_over(error: &ExposeError) -> bool {
    matches!(
        error,
        ExposeError::Session(SessionError::StandIn(StandInError::GivenBack { .. }))
            | ExposeError::Services(TurnError::GivenBack { .. })
    )
}

impl Exposing {
    /// Takes the ports in the pod of `stand_in`. They are taken when this returns; Services send there later.
    ///
    /// # Errors
    /// If they are not to be had.
    pub async fn in_place_of(
        options: Options,
        origin: Origin,
        stand_in: Arc<StandIn>,
    ) -> Result<Self, ExposeError> {
        let pods = Pods::of(&origin.cluster, &origin.workload).await?;
        let seat = Seat::Workload(stand_in);
        let own = seat.pod().await?;
        let exposed = exposed(&options, &own.target)?;
        let undo = Arc::clone(&origin.undo);
        let shared = origin.shared(pods, options, exposed, crate::kube::own_pod::who());
        let up = take(&shared, &own, &seat).await?;
        let done = CancellationToken::new();
        let supervisor = undo.spawn(supervise(Arc::clone(&shared), seat, up, done.clone()));
        Ok(Self { shared, done, supervisor, follower: None, turned: None })
    }
}

/// Takes the ports in the pod, and has its agent pass on what comes to the others that Services lead to it.
pub(super) async fn take(shared: &Shared, own: &OwnPod, seat: &Seat) -> Result<Up, ExposeError> {
    let mut exposes = beside::exposes(shared, &own.target)?;
    let is_at =
        |app: &App, expose: &Expose| (app.udp, app.port) == (expose.protocol == Protocol::Udp, expose.port);
    for expose in &mut exposes {
        // Nobody has to be there before, and the kubelet asks elsewhere.
        (expose.way, expose.declared) = (Way::Listen, true);
        (expose.probes, expose.tls_probes) = (false, false);
        let app = seat.apps().iter().find(|app| is_at(app, expose));
        expose.app = app.map(|app| app.at.to_string());
    }
    let others = seat.apps().iter().filter(|app| !exposes.iter().any(|expose| is_at(app, expose)));
    let others: Vec<_> = (1..).zip(others).map(|(number, app)| others_port(number, app, shared)).collect();
    let up = beside::take(shared, &own.agent, &exposes).await?;
    for other in others {
        let port = other.port;
        match beside::ask(&up.link.opener, other).await {
            // A launcher that is lost leaves the port to the app, and so does one that never wants it.
            Ok(Ok(stream)) => drop(stream),
            Ok(Err(no)) => return Err(no.explained(&own.agent.pod)),
            Err(error) => warn!(port, %error, "cannot be passed on"),
        }
    }
    Ok(up)
}

fn others_port(number: u32, app: &App, shared: &Shared) -> Expose {
    let protocol = if app.udp { Protocol::Udp } else { Protocol::Tcp };
    let at = Some(app.at.to_string());
    Expose { protocol, app: at, ..listening(READINESS.saturating_sub(number), app.port, shared) }
}

/// Keeps the ports in whatever pod stands in for the workload, until `done`.
pub(super) async fn supervise(shared: Arc<Shared>, seat: Seat, up: Up, done: CancellationToken) {
    let mut up = Some(up);
    loop {
        let this = match up.take() {
            Some(up) => up,
            None => {
                let Some(up) = restore(&shared, &seat, &done).await else { return };
                tell(format_args!("{} of pod {} now leads here", said(&shared.exposed), up.agent.pod));
                up
            }
        };
        let agent = this.agent.clone();
        let pod = &agent.pod;
        let opener = this.link.opener.clone();
        let reason = tokio::select! {
            reason = keep::serve(&shared, this, &done) => reason,
            () = be_ready(&shared, &seat, opener, &agent, &done) => None,
        };
        let Some(reason) = reason else { return };
        warn!(pod, reason, "lost");
        let to = if seat.apps().is_empty() { "nowhere" } else { "to the app" };
        tell(format_args!("{} of pod {pod} leads {to} ({reason}); taking it back", said(&shared.exposed)));
    }
}

/// Opens the readiness port when the program listens on all of its own, and holds it; never returns.
async fn be_ready(shared: &Shared, seat: &Seat, opener: Opener, agent: &Agent, done: &CancellationToken) {
    let pod = &agent.pod;
    if let Some(port) = seat.ready_port() {
        until_listening(shared).await;
        // Without a launcher somebody still has to take the kubelet's connections, which say nothing: the agent itself. One
        // that is reset at once counts as refused.
        let itself = SocketAddr::from((Ipv4Addr::LOCALHOST, agent.port));
        let app = (!seat.apps().is_empty()).then(|| itself.to_string());
        let asked = beside::ask(&opener, Expose { app, ..listening(READINESS, port, shared) }).await;
        drop(opener);
        let lost = match asked {
            Ok(Ok(stream)) => {
                info!(pod, "ready");
                keep::hold(stream, pod, done).await.err()
            }
            Ok(Err(no)) => Some(no.explained(pod).to_string()),
            Err(error) => Some(error.to_string()),
        };
        if let Some(why) = lost {
            // The link's end is told by whoever holds it, at the same time.
            warn!(pod, why, "not ready");
            sleep(LINK_LOST).await;
            tell(format_args!("pod {pod} is not ready, so no Service leads here: {why}"));
        }
    }
    pending().await
}

/// Waits for the program, which may take its time, or have other ports than was said.
async fn until_listening(shared: &Shared) {
    let mut told = false;
    let began = Instant::now();
    for exposed in &shared.exposed {
        let port = exposed.here.number;
        while !shared.program.listens(exposed.protocol, port).await {
            if !told && began.elapsed() > LISTEN_LIMIT {
                told = true;
                tell(format_args!(
                    "nothing listens on port {port} here yet: until then no Service leads here"
                ));
            }
            sleep(EVERY).await;
        }
    }
}

/// A port that is none of the program's.
fn listening(id: u32, port: u16, shared: &Shared) -> Expose {
    Expose {
        id,
        protocol: Protocol::Tcp,
        port,
        way: Way::Listen,
        filter: None,
        who: shared.who.clone(),
        run: shared.run,
        probes: false,
        tls_probes: false,
        nodes: Vec::new(),
        declared: true,
        app: None,
    }
}

/// Takes the ports again, in another pod if need be; [`None`] when there is nothing to take any more.
async fn restore(shared: &Shared, seat: &Seat, done: &CancellationToken) -> Option<Up> {
    let mut tries = Tries::default();
    loop {
        let tried = async {
            let own = seat.pod().await?;
            take(shared, &own, seat).await
        };
        let tried = tokio::select! {
            tried = tried => tried,
            () = done.cancelled() => return None,
        };
        let error = match tried {
            Ok(up) => return Some(up),
            Err(error) if is_over(&error) => {
                tell(format_args!("{error}; its ports do not lead here any more"));
                done.cancelled().await;
                return None;
            }
            Err(error) => error,
        };
        let what = format!("{} cannot be taken back yet", said(&shared.exposed));
        tokio::select! {
            () = tries.failed(what, &error, error.lasts()) => {}
            () = done.cancelled() => return None,
        }
    }
}
