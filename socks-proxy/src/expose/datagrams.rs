//! Datagrams that have come to an exposed port. What one client says to one address of the pod is a flow: one stream to the
//! launcher, or one socket to the app.
//!
//! Nobody says when a flow has ended, and clients can be many: each question of a resolver comes from another port. So what
//! looks like a question and its answer is kept for a short time only, and where there are too many flows a new one takes
//! the place of one that is idle.
//!
//! Invariants: what waits for programs is bounded, for a flow and in all; what is the app's waits for nobody.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, duplex};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use crate::limits::{Limit, Permit};
use crate::proto::{DATAGRAM_ERROR, DATAGRAM_MAX};
use crate::route::{Probed, Visitor};

use super::arrivals::announce;
use super::port::{App, Port, Share};

mod receiver;

pub(super) use receiver::Receiver;

use receiver::Datagram;

/// A flow without a datagram for so long has ended; and so long one that was a question and its answer: clients of
/// nameservers and their like take another port for the next.
const IDLE: Duration = Duration::from_secs(60);
const ANSWERED: Duration = Duration::from_secs(10);
/// A client that still says something so long after its first word has more than a question.
const QUESTION: Duration = Duration::from_secs(2);
/// Flows of one socket; the next one takes the place of those that were idle for longest, of so many at once.
const FLOWS_MAX: usize = 4096;
const EVICTED_AT_ONCE: usize = 64;
/// Datagrams of one flow that may wait; further ones are lost, as in a full network.
const WAITING_MAX: usize = 256;
/// Bytes between a flow and the app's socket.
const PIPE: usize = 128 * 1024;
/// Rest after recvmsg(2) failed.
const REST: Duration = Duration::from_millis(10);

/// A datagram on its way, with its place among all that may wait for programs.
type Waiting = (Vec<u8>, Option<Permit>);

/// When a flow was used.
struct Uses {
    first: Instant,
    /// By either side.
    last: Instant,
    /// It is over when it was not used for so long.
    patience: Duration,
}

impl Uses {
    fn new(now: Instant) -> Self {
        Self { first: now, last: now, patience: IDLE }
    }

    fn is_young(&self) -> bool {
        self.last.duration_since(self.first) < QUESTION
    }

    fn asked(&mut self, now: Instant) {
        self.last = now;
        if !self.is_young() {
            self.patience = IDLE;
        }
    }

    fn answered(&mut self, now: Instant) {
        self.last = now;
        if self.is_young() {
            self.patience = ANSWERED;
        }
    }
}

#[derive(Clone)]
struct Used(Arc<Mutex<Uses>>);

impl Used {
    fn now() -> Self {
        Self(Arc::new(Mutex::new(Uses::new(Instant::now()))))
    }

    fn uses(&self) -> MutexGuard<'_, Uses> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when it is idle.
    async fn is_over(&self) {
        loop {
            let until = {
                let uses = self.uses();
                uses.last + uses.patience
            };
            if until <= Instant::now() {
                return;
            }
            sleep_until(until).await;
        }
    }
}

/// A flow, as its port's socket knows it.
struct Flow {
    datagrams_tx: mpsc::Sender<Waiting>,
    used: Used,
    /// The app has it.
    is_apps: bool,
}

impl Flow {
    /// Has a datagram wait for its turn, if there is room for it.
    fn carry(&self, bytes: Vec<u8>, limit: &Limit) {
        // What the app takes does not wait, and must not be lost because others' datagrams do.
        let place = if self.is_apps { None } else { limit.take_many(bytes.len()) };
        if self.is_apps || place.is_some() {
            drop(self.datagrams_tx.try_send((bytes, place)));
        }
    }
}

/// The flows of one socket, by client and address of the pod.
#[derive(Default)]
struct Flows(HashMap<(SocketAddr, IpAddr), Flow>);

impl Flows {
    /// Makes room for one more: those that have ended leave, and if that is too few, those that were idle for longest.
    fn make_room(&mut self) {
        if self.0.len() < FLOWS_MAX {
            return;
        }
        self.0.retain(|_, flow| !flow.datagrams_tx.is_closed());
        if self.0.len() >= FLOWS_MAX {
            let mut times: Vec<_> = self.0.values().map(|flow| flow.used.uses().last).collect();
            let (_, last, _) = times.select_nth_unstable(EVICTED_AT_ONCE);
            let last = *last;
            self.0.retain(|_, flow| flow.used.uses().last > last);
        }
    }
}

/// Carries all flows of one socket until the port closes; of what waits for programs at most `limit` bytes.
pub(super) async fn serve(port: Arc<Port>, receiver: Receiver, limit: Limit) {
    let receiver = Arc::new(receiver);
    let mut flows = Flows::default();
    let mut room = vec![0; DATAGRAM_MAX];
    loop {
        let datagram = tokio::select! {
            received = receiver.receive(&mut room) => received,
            () = port.closed.cancelled() => return,
        };
        let Ok(datagram) = datagram else {
            sleep(REST).await;
            continue;
        };
        // Who speaks to the socket itself, past the rules, has no business here.
        if datagram.to.port() != port.number() {
            continue;
        }
        let key = (datagram.peer, datagram.to.ip());
        if let Some(flow) = flows.0.get(&key).filter(|flow| !flow.datagrams_tx.is_closed()) {
            flow.carry(datagram.bytes, &limit);
            continue;
        }
        flows.make_room();
        let flow = begin(&port, &receiver, &datagram, &limit);
        flow.carry(datagram.bytes, &limit);
        flows.0.insert(key, flow);
    }
}

/// Begins a flow with whoever the port's datagrams are for at this moment.
fn begin(port: &Arc<Port>, receiver: &Arc<Receiver>, first: &Datagram, limit: &Limit) -> Flow {
    let (datagrams_tx, datagrams) = mpsc::channel(WAITING_MAX);
    let visitor = Visitor { peer: first.peer, to: first.to, probed: Probed::No };
    let owner = port.owner();
    let used = Used::now();
    let flow = Flow { datagrams_tx, used: used.clone(), is_apps: owner.is_none() };
    let copies = port.mirrors().into_iter().map(|share| copy(share, visitor)).collect();
    let answers = Some(receiver.clone());
    let way = Carrying { visitor, datagrams, copies, answers, used, limit: limit.clone() };
    let port = port.clone();
    tokio::spawn(async move {
        let carried = async {
            match owner {
                Some(share) => tokio::select! {
                    done = way.carry_to_launcher(&share) => done,
                    () = share.left.cancelled() => Ok(()),
                },
                None => way.carry_to_app(port.app()).await,
            }
        };
        tokio::select! {
            // A flow that breaks off is begun anew by the client's next datagram.
            _ = carried => {}
            () = port.closed.cancelled() => {}
        }
    });
    flow
}

/// A copy of a flow for a program that only listens in.
fn copy(share: Arc<Share>, visitor: Visitor) -> mpsc::Sender<Waiting> {
    let (datagrams_tx, datagrams) = mpsc::channel(WAITING_MAX);
    tokio::spawn(async move {
        let used = Used::now();
        let (copies, limit) = (Vec::new(), Limit::new(0));
        let way = Carrying { visitor, datagrams, copies, answers: None, used, limit };
        tokio::select! {
            // The flow goes on without it.
            _ = way.carry_to_launcher(&share) => {}
            () = share.left.cancelled() => {}
        }
    });
    datagrams_tx
}

/// One flow on its way.
struct Carrying {
    visitor: Visitor,
    datagrams: mpsc::Receiver<Waiting>,
    copies: Vec<mpsc::Sender<Waiting>>,
    /// Where answers leave, if anybody is to have them.
    answers: Option<Arc<Receiver>>,
    used: Used,
    /// Of bytes that may wait in copies.
    limit: Limit,
}

impl Carrying {
    async fn carry_to_launcher(self, share: &Share) -> io::Result<()> {
        let stream = announce(share, self.visitor).await?;
        self.carry(stream).await
    }

    async fn carry_to_app(self, app: &App) -> io::Result<()> {
        let socket = app.datagrams(self.visitor).await?;
        let (near, far) = duplex(PIPE);
        tokio::select! {
            done = crate::datagrams::carry(far, &socket) => done,
            done = self.carry(near) => done,
        }
    }

    /// Carries datagrams into a stream, and back if anybody is to have the answers, until it ends or is idle.
    async fn carry(self, stream: impl AsyncRead + AsyncWrite) -> io::Result<()> {
        let Self { visitor, mut datagrams, copies, answers, used, limit } = self;
        let (mut from_far, mut to_far) = tokio::io::split(stream);
        let there = async {
            while let Some((datagram, _place)) = datagrams.recv().await {
                used.uses().asked(Instant::now());
                for copy in &copies {
                    if let Some(place) = limit.take_many(datagram.len()) {
                        drop(copy.try_send((datagram.clone(), Some(place))));
                    }
                }
                let Ok(length) = u16::try_from(datagram.len()) else { continue };
                to_far.write_all(&length.to_be_bytes()).await?;
                to_far.write_all(&datagram).await?;
                to_far.flush().await?;
            }
            Ok(())
        };
        let back = async {
            let mut datagram = Vec::new();
            loop {
                let length = from_far.read_u16().await?;
                if length == DATAGRAM_ERROR {
                    // The client's kernel would be told by ICMP, which is not ours to send.
                    let _reason = from_far.read_u8().await?;
                    continue;
                }
                datagram.resize(length.into(), 0);
                from_far.read_exact(&mut datagram).await?;
                used.uses().answered(Instant::now());
                if let Some(receiver) = &answers {
                    receiver.answer(&datagram, visitor.peer, visitor.to.ip()).await;
                }
            }
        };
        tokio::select! {
            ended = there => ended,
            ended = back => ended,
            () = used.is_over() => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_and_its_answer_are_soon_over_and_a_conversation_is_not() {
        let begun = Instant::now();
        let later = |seconds| begun + Duration::from_secs(seconds);
        let mut uses = Uses::new(begun);
        uses.asked(begun);
        assert_eq!(uses.patience, IDLE);
        uses.answered(later(1));
        assert_eq!(uses.patience, ANSWERED);
        uses.asked(later(9));
        uses.answered(later(9));
        assert_eq!(uses.patience, IDLE);
    }

    #[tokio::test]
    async fn flows_that_are_idle_make_room() {
        let mut flows = Flows::default();
        let mut kept = Vec::new();
        for number in 0..FLOWS_MAX {
            let (datagrams_tx, datagrams) = mpsc::channel(1);
            let used = Used::now();
            used.uses().last += Duration::from_millis(number.try_into().unwrap());
            let port = number.try_into().unwrap();
            let key = (SocketAddr::from(([10, 0, 0, 1], port)), IpAddr::from([10, 0, 0, 2]));
            flows.0.insert(key, Flow { datagrams_tx, used, is_apps: false });
            kept.push(datagrams);
        }
        flows.make_room();
        assert_eq!(flows.0.len(), FLOWS_MAX - EVICTED_AT_ONCE - 1);
        assert!(flows.0.keys().all(|(peer, _)| usize::from(peer.port()) > EVICTED_AT_ONCE));
        // Those that have ended by themselves are enough.
        kept.truncate(FLOWS_MAX / 2);
        let half = FLOWS_MAX / 2 - EVICTED_AT_ONCE - 1;
        flows.0.extend((0..u16::MAX).map(|port| {
            let key = (SocketAddr::from(([10, 0, 0, 3], port)), IpAddr::from([10, 0, 0, 2]));
            (key, Flow { datagrams_tx: mpsc::channel(1).0, used: Used::now(), is_apps: false })
        }));
        flows.make_room();
        assert_eq!(flows.0.len(), half);
    }
}
