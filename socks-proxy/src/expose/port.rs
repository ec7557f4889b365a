//! One port of the pod, and who has a share in it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::mux::Opener;
use crate::proto::Target;
use crate::route::{Probed, Registration, Routes, Visitor};
use crate::serve::Agent;

use super::guarded::Guarded;
use super::intake::{self, Refused, Sockets, accept, step, until_none_is_half_open, waiting};
use super::steal::Rules;
use super::wire::{Expose, Way};
use super::{arrivals, datagrams, pod};

/// Lines for a launcher that may wait.
const NOTES_WAITING: usize = 16;

/// What one launcher wants of a port.
#[derive(Debug)]
pub(super) struct Share {
    pub(super) expose: Expose,
    /// Opens streams to its launcher.
    pub(super) opener: Opener,
    /// Cancelled when nothing new is to go there.
    pub(super) left: CancellationToken,
    /// Cancelled when nothing that is open can go on.
    pub(super) lost: CancellationToken,
    /// What is open.
    pub(super) open: TaskTracker,
    /// whatever happens to its clients --a line for the user--> its conversation
    notes_tx: mpsc::Sender<String>,
}

impl Share {
    pub(super) fn new(expose: Expose, opener: Opener) -> (Arc<Self>, mpsc::Receiver<String>) {
        let (notes_tx, notes_rx) = mpsc::channel(NOTES_WAITING);
        let (left, lost, open) = (CancellationToken::new(), CancellationToken::new(), TaskTracker::new());
        (Arc::new(Self { expose, opener, left, lost, open, notes_tx }), notes_rx)
    }

    /// Tells its user; what is too much to be told is not.
    pub(super) fn note(&self, line: String) {
        drop(self.notes_tx.try_send(line));
    }

    const fn owns(&self) -> bool {
        self.expose.filter.is_none() && !matches!(self.expose.way, Way::Mirror)
    }
}

/// Where clients go that no program on a laptop takes.
#[derive(Clone, Debug)]
pub(super) enum App {
    /// It is in this pod, at the address that the client asked for.
    Beside,
    /// It is elsewhere.
    At(Target, Arc<Agent>),
    /// There is none.
    Nobody,
}

impl App {
    /// Of an exposing.
    pub(super) fn of(expose: &Expose, agent: &Arc<Agent>) -> Result<Self, Refused> {
        match (expose.way, &expose.app) {
            (Way::Steal | Way::Mirror, _) => Ok(Self::Beside),
            (Way::Listen, None) => Ok(Self::Nobody),
            (Way::Listen, Some(place)) => match target(place) {
                Some(target) => Ok(Self::At(target, agent.clone())),
                None => Err(step(&format!("pass on to {place:?}"))(io::ErrorKind::InvalidInput.into())),
            },
        }
    }

    pub(super) async fn dial(&self, visitor: Visitor) -> io::Result<Guarded> {
        let refused = |code| io::Error::other(format!("the dial failed with reply {code}"));
        Guarded::new(match self {
            Self::Beside => TcpStream::connect(visitor.to).await?,
            Self::At(target, agent) => {
                crate::dial::connect(&agent.resolver, target).await.map_err(refused)?
            }
            Self::Nobody => return Err(io::ErrorKind::NotConnected.into()),
        })
    }

    pub(super) async fn datagrams(&self, visitor: Visitor) -> io::Result<UdpSocket> {
        let refused = |code| io::Error::other(format!("the dial failed with reply {code}"));
        let addresses = match self {
            Self::Beside => vec![visitor.to],
            Self::At(target, agent) => {
                crate::dial::addresses(&agent.resolver, target).await.map_err(refused)?
            }
            Self::Nobody => return Err(io::ErrorKind::NotConnected.into()),
        };
        crate::datagrams::connect(&addresses).await.map_err(refused)
    }
}

fn target(place: &str) -> Option<Target> {
    if let Ok(address) = place.parse::<SocketAddr>() {
        return Some(address.into());
    }
    let (host, port) = place.rsplit_once(':')?;
    Some(Target::Name(host.to_owned(), port.parse().ok()?))
}

/// A share and what it is registered as; mirrors have no part in where requests go.
#[derive(Debug)]
struct Member {
    share: Arc<Share>,
    #[expect(dead_code, reason = "registered until it is dropped")]
    registration: Option<Registration>,
}

/// One port, for as long as anybody has a share in it.
#[derive(Debug)]
pub(super) struct Port {
    number: u16,
    app: App,
    /// What comes when no launcher is left is still passed on.
    outlives_launchers: bool,
    routes: Routes,
    members: Mutex<Vec<Member>>,
    rules: Mutex<Option<Rules>>,
    gateways: Vec<IpAddr>,
    /// Cancelled when the rules are gone.
    pub(super) closed: CancellationToken,
}

impl Port {
    /// Opens the way in for a first share, which has to be admitted then.
    pub(super) fn open(expose: &Expose, agent: &Arc<Agent>) -> Result<Arc<Self>, Refused> {
        let app = App::of(expose, agent)?;
        let (sockets, rules) = intake::open(expose.protocol, expose.port, expose.way)?;
        let port = Arc::new(Self {
            number: expose.port,
            outlives_launchers: matches!(app, App::At(..)),
            routes: Routes::new(Arc::new(app.clone())),
            app,
            members: Mutex::default(),
            rules: Mutex::new(rules),
            gateways: pod::gateways(),
            closed: CancellationToken::new(),
        });
        port.serve(sockets, agent);
        Ok(port)
    }

    fn serve(self: &Arc<Self>, sockets: Sockets, agent: &Arc<Agent>) {
        match sockets {
            Sockets::Tcp(listeners) => {
                for listener in listeners {
                    tokio::spawn(self.clone().take_in(listener, agent.clone()));
                }
            }
            Sockets::Udp(receivers) => {
                for receiver in receivers {
                    tokio::spawn(datagrams::serve(self.clone(), receiver, agent.limits.waiting.clone()));
                }
            }
        }
    }

    /// Accepts until the port is closed, and after that whoever was half in.
    async fn take_in(self: Arc<Self>, listener: TcpListener, agent: Arc<Agent>) {
        let closed = async {
            self.closed.cancelled().await;
            until_none_is_half_open(self.number).await;
        };
        let mut closed = std::pin::pin!(closed);
        loop {
            tokio::select! {
                (client, peer) = accept(&listener) => self.let_in(client, peer, &agent),
                () = &mut closed => break,
            }
        }
        // What the kernel has for us and the runtime has not heard of yet would be reset with the listener.
        for (client, peer) in waiting(listener) {
            self.let_in(client, peer, &agent);
        }
    }

    fn let_in(self: &Arc<Self>, client: TcpStream, peer: SocketAddr, agent: &Agent) {
        // Without a share in what the agent can do, the client is reset.
        let Some(visitor) = agent.limits.visitors.take() else {
            drop(client.set_zero_linger());
            return;
        };
        let served = arrivals::serve(self.clone(), client, peer, agent.limits.waiting.clone());
        tokio::spawn(agent.relays.track_future(async move {
            served.await;
            drop(visitor);
        }));
    }

    pub(super) const fn number(&self) -> u16 {
        self.number
    }

    pub(super) const fn app(&self) -> &App {
        &self.app
    }

    pub(super) const fn routes(&self) -> &Routes {
        &self.routes
    }

    fn members(&self) -> MutexGuard<'_, Vec<Member>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whose everything is that no filter wants.
    pub(super) fn owner(&self) -> Option<Arc<Share>> {
        self.members().iter().map(|member| &member.share).find(|share| share.owns()).cloned()
    }

    /// Who listens in.
    pub(super) fn mirrors(&self) -> Vec<Arc<Share>> {
        let members = self.members();
        let mirrors = members.iter().filter(|member| matches!(member.share.expose.way, Way::Mirror));
        mirrors.map(|member| member.share.clone()).collect()
    }

    /// What of a client of that address may be the kubelet's.
    pub(super) fn probed_from(&self, ip: IpAddr) -> Probed {
        let members = self.members();
        let asked = |probes: fn(&Expose) -> bool| {
            members
                .iter()
                .map(|member| &member.share.expose)
                .any(|expose| probes(expose) && (expose.nodes.contains(&ip) || self.gateways.contains(&ip)))
        };
        if asked(|expose| expose.tls_probes) {
            Probed::ByTls
        } else if asked(|expose| expose.probes) {
            Probed::ByHttp
        } else {
            Probed::No
        }
    }

    /// Gives a launcher its share.
    ///
    /// # Errors
    /// Who else has the port.
    pub(super) fn admit(&self, share: &Arc<Share>) -> Result<(), String> {
        let mut members = self.members();
        let same = |other: &Share| (other.expose.run, other.expose.id) == (share.expose.run, share.expose.id);
        if let Some(earlier) = members.extract_if(.., |member| same(&member.share)).next() {
            earlier.share.left.cancel();
            earlier.share.lost.cancel();
        }
        if share.owns()
            && let Some(owner) = members.iter().find(|member| member.share.owns())
        {
            return Err(owner.share.expose.who.clone());
        }
        let registration = match share.expose.way {
            Way::Mirror => None,
            Way::Steal | Way::Listen => Some(self.routes.add(share.expose.filter.clone(), share.clone())),
        };
        members.push(Member { share: share.clone(), registration });
        Ok(())
    }

    /// Takes a share back; `true` if the port is nobody's then and was closed: the rules are gone when this returns.
    pub(super) fn dismiss(&self, share: &Arc<Share>, lost: bool) -> bool {
        let mut members = self.members();
        members.retain(|member| !Arc::ptr_eq(&member.share, share));
        share.left.cancel();
        if !members.is_empty() || lost && self.outlives_launchers {
            return false;
        }
        drop(self.rules.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.closed.cancel();
        true
    }
}
