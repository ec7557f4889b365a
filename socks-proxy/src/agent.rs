//! The agent as a process: its environment, its port, its signals, its end.
//!
//! It is PID 1 of its container, for which the kernel ignores every signal that has no handler; the attach
//! that started it goes away while it runs, so nothing may depend on its standard streams; and nobody deletes it when
//! the laptop is gone, so it ends by itself when it was not needed for a while.

use std::io::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::task::TaskTracker;

use crate::expose::Exposures;
use crate::limits::{BLOCKING_THREADS, DRAIN, Limits};
use crate::link::TokenDigest;
use crate::resolve::Resolver;
use crate::serve::{Agent, serve};

const LINGER: Duration = Duration::from_secs(600);
/// Rest after accept(2) failed: it fails again at once while the process has no descriptor left.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// Why the agent did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A variable is missing, or its value is not what it should be.
    #[error("{name} is not {wanted}")]
    Variable {
        /// The variable.
        name: &'static str,
        /// What belongs there.
        wanted: &'static str,
    },
    /// The port could not be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// Address and port.
        address: SocketAddr,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// The runtime or a signal handler could not be set up.
    #[error("cannot {what}")]
    Setup {
        /// What failed.
        what: &'static str,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
}

/// What the environment says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `TP_AGENT_TOKEN_SHA256`.
    pub token: TokenDigest,
    /// `TP_AGENT_PORT`; 0 takes any free one.
    pub port: u16,
    /// `TP_AGENT_LINGER`, in seconds there; 600 s by default.
    pub linger: Duration,
}

impl Config {
    /// Reads the variables by `get`.
    ///
    /// # Errors
    /// [`StartError::Variable`].
    pub fn read(get: impl Fn(&str) -> Option<String>) -> Result<Self, StartError> {
        let token = get("TP_AGENT_TOKEN_SHA256")
            .and_then(|hex| TokenDigest::from_hex(&hex))
            .ok_or(StartError::Variable { name: "TP_AGENT_TOKEN_SHA256", wanted: "64 hexadecimal digits" })?;
        let port = get("TP_AGENT_PORT").and_then(|port| port.parse().ok());
        let port = port.ok_or(StartError::Variable { name: "TP_AGENT_PORT", wanted: "a port number" })?;
        let linger = match get("TP_AGENT_LINGER").filter(|seconds| !seconds.is_empty()) {
            Some(seconds) => Duration::from_secs(seconds.parse().map_err(|_| StartError::Variable {
                name: "TP_AGENT_LINGER",
                wanted: "a number of seconds",
            })?),
            None => LINGER,
        };
        Ok(Self { token, port, linger })
    }
}

/// Runs the agent by the process' environment; returns when it has ended in order.
///
/// # Errors
/// [`StartError`].
pub fn run() -> Result<(), StartError> {
    let config = Config::read(|name| std::env::var(name).ok())?;
    raise_descriptor_limit();
    // Files that are made for a program on the laptop have been through its own mask already.
    rustix::process::umask(rustix::fs::Mode::empty());
    // One thread: the agent waits for sockets, and its pod's CPU share belongs to the app.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .build();
    let runtime = runtime.map_err(|source| StartError::Setup { what: "start the runtime", source })?;
    let outcome = runtime.block_on(listen(config));
    runtime.shutdown_background();
    outcome
}

/// Container runtimes start programs with 1024 descriptors, for `select`; each connection needs one.
fn raise_descriptor_limit() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // Without it there are fewer connections, and accept and dial say so.
        let _unchanged = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// The signals that matter: two that stop, and one that the closing terminal of an attach sends and nothing needs.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn install() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for one that stops.
    async fn stop(&mut self) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hangup.recv() => {}
            }
        }
    }
}

async fn listen(config: Config) -> Result<(), StartError> {
    let signals =
        Signals::install().map_err(|source| StartError::Setup { what: "install signal handlers", source })?;
    let (ipv4, ipv6) = bind(config.port).await?;
    let port = ipv4.local_addr().map_or(config.port, |address| address.port());
    announce(port);

    let (stopping_tx, stopping_rx) = watch::channel(false);
    let (present_tx, present_rx) = watch::channel(0);
    let agent = Arc::new(Agent {
        token: config.token,
        resolver: Resolver::new("/etc/resolv.conf", "/etc/hosts"),
        limits: Limits::default(),
        stopping_rx,
        relays: TaskTracker::new(),
        present_tx,
        exposures: Exposures::default(),
    });
    run_until_stopped(&agent, signals, [Some(ipv4), ipv6], present_rx, config.linger, &stopping_tx).await;
    Ok(())
}

/// Binds both loopback addresses; a pod without IPv6 has only one.
async fn bind(port: u16) -> Result<(TcpListener, Option<TcpListener>), StartError> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let ipv4 = TcpListener::bind(address).await.map_err(|source| StartError::Listen { address, source })?;
    let port = ipv4.local_addr().map_or(port, |address| address.port());
    let address = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
    match TcpListener::bind(address).await {
        Ok(ipv6) => Ok((ipv4, Some(ipv6))),
        Err(source) if source.kind() == io::ErrorKind::AddrInUse => {
            Err(StartError::Listen { address, source })
        }
        Err(_) => Ok((ipv4, None)),
    }
}

/// Tells whoever started the agent. If nobody listens any more, that is no reason to stop.
fn announce(port: u16) {
    let mut stdout = io::stdout().lock();
    drop(writeln!(stdout, "tp-agent listening on {port}").and_then(|()| stdout.flush()));
}

async fn run_until_stopped(
    agent: &Arc<Agent>,
    mut signals: Signals,
    [ipv4, ipv6]: [Option<TcpListener>; 2],
    present_rx: watch::Receiver<usize>,
    linger: Duration,
    stopping_tx: &watch::Sender<bool>,
) {
    tokio::select! {
        () = signals.stop() => {}
        () = unneeded(present_rx, linger) => return,
        () = accept(agent, ipv4) => {}
        () = accept(agent, ipv6) => {}
    }
    // The listeners are closed by now: the next agent can have the port.
    stopping_tx.send_replace(true);
    agent.relays.close();
    tokio::select! {
        _ = timeout(DRAIN, agent.relays.wait()) => {}
        () = signals.stop() => return,
    }
    // The last bytes of the last relay are in the sessions' buffers; each session writes them and closes.
    let mut present_rx = agent.present_tx.subscribe();
    let closed = present_rx.wait_for(|count| *count == 0);
    drop(timeout(Duration::from_secs(1), closed).await);
}

/// Returns when no client was there for `linger`.
async fn unneeded(mut present_rx: watch::Receiver<usize>, linger: Duration) {
    loop {
        let empty = *present_rx.borrow_and_update() == 0;
        let ends_at = Instant::now() + linger;
        tokio::select! {
            changed = present_rx.changed() => if changed.is_err() { return },
            () = sleep_until(ends_at), if empty => return,
        }
    }
}

/// Accepts for ever; without a listener it only waits.
async fn accept(agent: &Arc<Agent>, listener: Option<TcpListener>) {
    let Some(listener) = listener else { return std::future::pending().await };
    loop {
        match listener.accept().await {
            Ok((connection, _)) => admit(agent, connection),
            Err(_) => sleep(ACCEPT_REST).await,
        }
    }
}

fn admit(agent: &Arc<Agent>, connection: TcpStream) {
    // Too many strangers at once: this one is closed, which costs it a new try and us nothing.
    if let Some(stranger) = agent.limits.strangers.take() {
        tokio::spawn(serve(agent.clone(), connection, stranger));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Config, StartError> {
        Config::read(|name| {
            pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_environment_is_read_and_a_fault_in_it_named() {
        let token = ("TP_AGENT_TOKEN_SHA256", &*TokenDigest::of(b"x").to_hex());
        let config = read(&[token, ("TP_AGENT_PORT", "1080")]).unwrap();
        assert_eq!((config.port, config.linger), (1080, LINGER));
        let config = read(&[token, ("TP_AGENT_PORT", "0"), ("TP_AGENT_LINGER", "7")]).unwrap();
        assert_eq!(config.linger, Duration::from_secs(7));
        for (pairs, wanted) in [
            (&[("TP_AGENT_PORT", "1")][..], "TP_AGENT_TOKEN_SHA256 is not 64 hexadecimal digits"),
            (&[token, ("TP_AGENT_PORT", "65536")], "TP_AGENT_PORT is not a port number"),
            (&[token], "TP_AGENT_PORT is not a port number"),
            (
                &[token, ("TP_AGENT_PORT", "1"), ("TP_AGENT_LINGER", "1 h")],
                "TP_AGENT_LINGER is not a number of seconds",
            ),
        ] {
            assert_eq!(read(pairs).unwrap_err().to_string(), wanted);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_only_after_nobody_was_there_for_the_whole_time() {
        let (present_tx, present_rx) = watch::channel(1);
        let started = Instant::now();
        let ended = tokio::spawn(unneeded(present_rx, Duration::from_secs(60)));
        sleep(Duration::from_secs(1000)).await;
        assert!(!ended.is_finished());
        present_tx.send_replace(0);
        sleep(Duration::from_secs(59)).await;
        present_tx.send_replace(1);
        present_tx.send_replace(0);
        ended.await.unwrap();
        assert!(started.elapsed() >= Duration::from_secs(1000 + 59 + 59));
    }
}
