//! What is said on an EXPOSE stream, and at the head of each stream that the agent opens for it.
//!
//! One EXPOSE stream is one exposed port. After reply 0 the launcher says [`ToAgent::Expose`], then [`ToAgent::Alive`] every
//! [`ALIVE_EVERY`]; the agent answers once ([`ToLauncher::Ready`] or why not, and ends the stream then), and later whatever
//! else there is to tell. The stream's end, or [`ALIVE_LIMIT`] without a word, is a loss.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Longest message in bytes, either way.
pub const MESSAGE_MAX: usize = 64 * 1024;
/// Longest [`Arrival`] in bytes.
pub const ARRIVAL_MAX: usize = 256;
/// How often the launcher says that it is there.
pub const ALIVE_EVERY: Duration = Duration::from_secs(2);
/// Without a word for so long the launcher is taken for gone.
pub const ALIVE_LIMIT: Duration = Duration::from_secs(8);

/// First byte that the launcher sends on a TCP arrival's stream: the program has the connection, whose bytes follow.
pub const TAKEN: u8 = 1;
/// In its place: the program is gone, and the connection is the app's. The stream ends.
pub const TO_THE_APP: u8 = 0;

/// Of the transport layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// How the agent comes by what arrives at the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Way {
    /// In place of the app that listens in the same pod, by nf_tables.
    Steal,
    /// As [`Way::Steal`], but the app answers, and the laptop's program gets a copy.
    Mirror,
    /// The pod is tp's own, and the agent listens.
    Listen,
}

/// Which requests are meant; all of it must match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// Names, of any case, and values: exact, without the blanks around them, or with a `*` at their end or beginning that
    /// stands for anything. One of a request's lines of that name has to match; HTTP/2's `:authority` is one of `host`.
    pub headers: Vec<(String, String)>,
    /// What the path begins with, as it was sent: `/api` takes `/apis`, `/api/` does not.
    pub path_prefix: Option<String>,
}

/// One port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expose {
    /// The launcher's number for it, which each [`Arrival`] repeats.
    pub id: u32,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The port in the pod.
    pub port: u16,
    /// By which way.
    pub way: Way,
    /// Only these HTTP requests; the others are the app's.
    pub filter: Option<Filter>,
    /// "alice@laptop": shown to whoever wants the same port.
    pub who: String,
    /// Any number, one a run: what the same run had before, by a link that was lost, makes room for it.
    pub run: u64,
    /// The app's container has an httpGet or grpc probe on this port: requests of `kube-probe/…` are the app's.
    pub probes: bool,
    /// One of these asks by HTTPS: TLS connections from where probes come from are the app's.
    pub tls_probes: bool,
    /// Where the kubelet's probes come from (status.hostIPs), beside the gateway of the agent's default route.
    pub nodes: Vec<IpAddr>,
    /// The port is among those that the pod's containers declare: then it does not matter whether somebody listens.
    pub declared: bool,
    /// [`Way::Listen`]: `HOST:PORT` for what does not match, and for all that comes when the launcher is lost.
    pub app: Option<String>,
}

/// What the launcher says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToAgent {
    /// The first message.
    Expose(Expose),
    /// The launcher is there.
    Alive,
    /// No new connections from now on; those that are open go on to their end.
    Done,
}

/// What the agent says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToLauncher {
    /// What arrives from now on comes to the laptop.
    Ready,
    /// Somebody else has the port. The stream ends.
    Held {
        /// [`Expose::who`] of theirs.
        by: String,
    },
    /// The port is not declared, and no socket of the pod is bound to it. The stream ends; nothing was changed.
    NobodyListens,
    /// The kernel did not let the agent do it. The stream ends; nothing is left behind.
    Refused {
        /// The kernel's number.
        errno: i32,
        /// What was tried, to be read as "cannot …".
        step: String,
    },
    /// A line for the user's eyes.
    Note(String),
    /// The answer to [`ToAgent::Done`], or the agent is about to stop: no arrival comes after this, and
    /// the launcher may end the stream. The agent does when the last open connection has ended.
    Ended,
}

/// The head of a stream that the agent opens for who came to an exposed port. Behind it are the client's
/// bytes (TCP), which do not wait for [`TAKEN`]; or datagrams, each with its length in front (16 bits, big-endian), as in
/// DATAGRAMS. What comes back of a [`Way::Mirror`]'s is not looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arrival {
    /// [`Expose::id`].
    pub expose: u32,
    /// Who came.
    pub peer: SocketAddr,
    /// The address in the pod that was asked for.
    pub to: SocketAddr,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::encode;

    #[test]
    fn the_longest_arrival_and_an_expose_keep_to_their_limits() {
        let far = SocketAddr::from(([u16::MAX; 8], u16::MAX));
        let arrival = Arrival { expose: u32::MAX, peer: far, to: far };
        assert!(encode(&arrival).unwrap().len() <= ARRIVAL_MAX);
    }
    /// Agents of two versions meet in one pod, and know by [`share`](crate::expose)'s revision whether they understand each other.
    #[test]
    fn a_changed_encoding_has_another_revision() {
        let expose = Expose {
            id: 1,
            protocol: Protocol::Udp,
            port: 300,
            way: Way::Listen,
            filter: Some(Filter { headers: vec![("a".into(), "b".into())], path_prefix: Some("/".into()) }),
            who: "w".into(),
            run: 2,
            probes: true,
            tls_probes: false,
            nodes: vec![[127, 0, 0, 1].into()],
            declared: true,
            app: Some("x".into()),
        };
        let bytes = encode(&ToAgent::Expose(expose)).unwrap();
        let expected = b"\0\0\0\x1e\0\x01\x01\xac\x02\x02\x01\x01\x01a\x01b\x01\x01/\x01w\x02\x01\0\x01\0\x7f\0\0\x01\x01\x01\x01x";
        assert_eq!(bytes, expected, "raise the revision in share.rs, then change this");
    }
}
