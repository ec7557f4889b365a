//! Datagrams between the apps and the pod.
//!
//! # Theory of operation
//! UDP has no open that could be held until the far end agrees, so nothing is parked here: for each destination there is
//! a [`Relay`], a loopback socket of ours, and the shim has the app's own socket send to it. A *flow* is what one
//! socket of an app says to one destination; it is a stream of its own to the agent, which has a connected socket for
//! it. Answers leave the relay's socket, so that the app's kernel sees them come from where it sent to.
//!
//! | relay | for | lives |
//! |---|---|---|
//! | shared | all unconnected sockets that send to one destination | until nobody used it for [`RELAY_KEPT`] |
//! | own | one socket that is connect()ed to its destination | as long as the kernel knows a socket connected to it |
//!
//! A connected socket has a relay of its own because ICMP errors are for it alone ([`refuse`]).
//!
//! Invariants: a shim may believe in a relay for ten seconds after the last answer (`shim/src/relays.rs`), and a relay
//! lives longer than that; a flow whose stream stalls drops datagrams, and neither buffers without bound nor keeps others
//! waiting. What an own relay's socket sends meanwhile is not even received.
//!
//! Loopback belongs to all users of the machine: another user who finds a shared relay's port can send to its destination.

pub(crate) mod carry;
mod keep;
mod owner;
mod refuse;
mod relay;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;
use tp_abi::errno::code;
use tracing::{Instrument as _, debug, debug_span, warn};

use crate::pod::Pod;

use carry::{Flow, Pushed};
use owner::Owner;
use relay::Relay;

/// A shared relay that nobody asked for or sent to for so long has ended.
const RELAY_KEPT: Duration = Duration::from_secs(60);
/// A flow without a datagram for so long has ended, as in many a NAT.
const FLOW_IDLE: Duration = Duration::from_secs(60);
/// The same for flows of one question and one answer: those to a nameserver.
const DNS_IDLE: Duration = Duration::from_secs(10);
const DNS_PORT: u16 = 53;
/// Flows at one time; one agent has room for 4096.
const FLOWS_MAX: usize = 4000;
/// Relays at one time; each is a descriptor.
const RELAYS_MAX: usize = 4000;

/// Carries the apps' datagrams.
pub struct Flows {
    pod: Arc<dyn Pod>,
    runtime: Handle,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Shared relays by destination.
    shared: HashMap<SocketAddr, Arc<Relay>>,
    /// All relays by their own address.
    relays: HashMap<SocketAddr, Arc<Relay>>,
    /// Flows by the relay's and the app's address.
    flows: HashMap<(SocketAddr, SocketAddr), Arc<Flow<Relay>>>,
}

/// Where a shim sends datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// The relay.
    pub relay: SocketAddr,
    /// Whether a socket is connected to the destination by a relay of its own.
    pub connected: bool,
}

impl Flows {
    /// Flows to `pod`, carried by the runtime that this is called in.
    #[must_use]
    pub fn new(pod: Arc<dyn Pod>) -> Arc<Self> {
        let flows = Arc::new(Self { pod, runtime: Handle::current(), state: Mutex::default() });
        flows.runtime.spawn(keep::keep(Arc::downgrade(&flows)));
        flows
    }

    /// The way to `asked` for sockets that are not connected.
    ///
    /// # Errors
    /// The errno for the app where there is none.
    pub fn shared(self: &Arc<Self>, asked: SocketAddr) -> Result<Way, i32> {
        if !self.pod.carries_datagrams(asked) {
            return Err(code::ENETUNREACH);
        }
        let mut state = self.state();
        let connected =
            state.relays.values().any(|relay| relay.owner.is_some() && relay.destination == asked);
        let relay = match state.shared.get(&asked) {
            Some(relay) => {
                relay.used.touch();
                relay.at
            }
            None => {
                let relay = self.relay(&mut state, asked, None)?;
                state.shared.insert(asked, Arc::clone(&relay));
                relay.at
            }
        };
        Ok(Way { relay, connected })
    }

    /// The way to `asked` for a socket that is about to be connected there: descriptor `fd` of process `pid`.
    ///
    /// # Errors
    /// The errno for the app where there is none.
    pub fn connected(
        self: &Arc<Self>,
        asked: SocketAddr,
        socket: OwnedFd,
        (pid, fd): (libc::pid_t, i32),
    ) -> Result<Way, i32> {
        if !self.pod.carries_datagrams(asked) {
            return Err(code::ENETUNREACH);
        }
        let owner = Owner::of(&socket, pid, fd).map_err(|_| code::EACCES)?;
        // Whoever holds a copy keeps the app's port bound after the app's close().
        drop(socket);
        let relay = self.relay(&mut self.state(), asked, Some(owner))?;
        Ok(Way { relay: relay.at, connected: true })
    }

    /// The destination behind a relay.
    #[must_use]
    pub fn behind(&self, relay: SocketAddr) -> Option<SocketAddr> {
        self.state().relays.get(&relay).map(|relay| {
            relay.used.touch();
            relay.destination
        })
    }

    /// Waits until what the apps sent has left for the pod, at most for `limit`.
    pub async fn drain(&self, limit: Duration) {
        let drained = async {
            while self.state().relays.values().any(|relay| relay.has_unread()) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            // What was sent longer ago is gone already.
            let recent: Vec<_> =
                self.state().flows.values().filter(|flow| flow.used.idle() < limit).cloned().collect();
            for flow in &recent {
                flow.finish();
            }
            for flow in &recent {
                flow.ended().await;
            }
        };
        if tokio::time::timeout(limit, drained).await.is_err() {
            debug!("datagrams were left behind: the pod did not take them in time");
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn relay(
        self: &Arc<Self>,
        state: &mut State,
        destination: SocketAddr,
        owner: Option<Owner>,
    ) -> Result<Arc<Relay>, i32> {
        if state.relays.len() >= RELAYS_MAX {
            let oldest = state.relays.values().max_by_key(|relay| relay.used.idle()).cloned();
            oldest.inspect(|relay| state.end_relay(relay));
        }
        let _inside = self.runtime.enter();
        let relay = Relay::open(destination, owner).map_err(|error| {
            warn!(%error, %destination, "no relay for datagrams");
            code::ENETUNREACH
        })?;
        let relay = Arc::new(relay);
        state.relays.insert(relay.at, Arc::clone(&relay));
        let span = debug_span!("relay", asked = %destination, at = %relay.at);
        self.runtime.spawn(Arc::clone(self).receive(Arc::clone(&relay)).instrument(span));
        Ok(relay)
    }

    /// Takes what the apps send to a relay, until it ends.
    async fn receive(self: Arc<Self>, relay: Arc<Relay>) {
        let mut flow: Option<Arc<Flow<Relay>>> = None;
        let ended = loop {
            let mut full = false;
            let taken = relay.datagrams(|app, datagram| {
                // Mostly the same app as before.
                let same = flow.as_ref().filter(|flow| flow.app == app).map(|flow| flow.push(datagram));
                let pushed = same
                    .filter(|pushed| *pushed != Pushed::Over)
                    .unwrap_or_else(|| flow.insert(self.flow(&relay, app)).push(datagram));
                full = pushed == Pushed::Full && relay.owner.is_some();
                !full
            });
            if let Err(error) = taken.await {
                break error;
            }
            match &flow {
                // What else its one socket sends waits in the kernel, or is dropped there while it is being sent: that costs
                // nobody else anything.
                Some(flow) if full => tokio::select! {
                    () = flow.room() => {}
                    () = relay.ended() => {}
                },
                _ => tokio::task::yield_now().await,
            }
        };
        debug!(%ended, "relay ended");
        self.state().end_relay(&relay);
    }

    /// The flow of an app's socket through a relay, a new one if there is none.
    fn flow(self: &Arc<Self>, relay: &Arc<Relay>, app: SocketAddr) -> Arc<Flow<Relay>> {
        let mut state = self.state();
        let key = (relay.at, app);
        if let Some(flow) = state.flows.get(&key).filter(|flow| !flow.has_ended()) {
            return Arc::clone(flow);
        }
        if state.flows.len() >= FLOWS_MAX {
            let oldest = state.flows.values().max_by_key(|flow| flow.used.idle()).cloned();
            oldest.inspect(|flow| state.end_flow(flow));
        }
        let flow = Arc::new(Flow::new(Arc::clone(relay), app, relay.destination));
        state.flows.insert(key, Arc::clone(&flow));
        let span = debug_span!("flow", asked = %relay.destination, %app);
        self.runtime.spawn(Arc::clone(self).carry(Arc::clone(&flow)).instrument(span));
        flow
    }
}

impl State {
    fn end_relay(&mut self, relay: &Arc<Relay>) {
        relay.end();
        self.relays.remove(&relay.at);
        if self.shared.get(&relay.destination).is_some_and(|shared| Arc::ptr_eq(shared, relay)) {
            self.shared.remove(&relay.destination);
        }
        let of_it: Vec<_> = self.flows.values().filter(|flow| flow.back.at == relay.at).cloned().collect();
        for flow in of_it {
            self.end_flow(&flow);
        }
    }

    fn end_flow(&mut self, flow: &Arc<Flow<Relay>>) {
        flow.end();
        let key = (flow.back.at, flow.app);
        if self.flows.get(&key).is_some_and(|known| Arc::ptr_eq(known, flow)) {
            self.flows.remove(&key);
        }
    }
}

/// When something was last used.
#[derive(Debug)]
pub(crate) struct Used {
    since: Instant,
    /// Milliseconds after `since`.
    at: std::sync::atomic::AtomicU64,
}

impl Used {
    fn now() -> Self {
        Self { since: Instant::now(), at: Default::default() }
    }

    #[cfg(test)]
    fn ago(idle: Duration) -> Self {
        Self { since: Instant::now() - idle, at: Default::default() }
    }

    fn touch(&self) {
        self.at.store(self.age_in_ms(), std::sync::atomic::Ordering::Relaxed);
    }

    pub(crate) fn idle(&self) -> Duration {
        let at = self.at.load(std::sync::atomic::Ordering::Relaxed);
        Duration::from_millis(self.age_in_ms().saturating_sub(at))
    }

    fn age(&self) -> Duration {
        self.since.elapsed()
    }

    fn age_in_ms(&self) -> u64 {
        u64::try_from(self.age().as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests;
