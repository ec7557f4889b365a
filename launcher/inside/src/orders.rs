//! What the launcher and the holder of a private network say to each other.
//!
//! They share one `SOCK_SEQPACKET` socket, which is the holder's standard input. The holder speaks first: that all is
//! ready, or which step the system refused. From then on each [`Order`] of the launcher has one answer, in order. The
//! end of the socket is an order, too: the launcher is gone ([`hold`](crate::hold)).
//!
//! The launcher has no rights in the namespaces, so all sockets that belong there are made by the holder, and come as
//! `SCM_RIGHTS`. To have one: [`Order::Sockets`] with the [`Place`] and the [`Kind`].

use std::ffi::c_int;

/// Longest message either way.
pub const MESSAGE_MAX: usize = 512;
/// Longest message to the holder of volumes, which is a path (`PATH_MAX`, limits.h).
pub const PATH_MAX: usize = 4096;
/// Descriptors that one message carries at the most (`SCM_MAX_FD`, unix(7)).
pub const SOCKETS_MAX: u8 = 253;

/// One of the two network namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Place {
    /// Where the programs are.
    App,
    /// The other side of the programs' only link. Every address is local here.
    Gateway,
}

/// What a socket is for. All are non-blocking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// TCP that may be bound to any address (`IP_TRANSPARENT`, ip(7)).
    Tcp4,
    /// The same of IPv6.
    Tcp6,
    /// UDP that may be bound to any address.
    Udp4,
    /// The same of IPv6.
    Udp6,
    /// Sees what asks to be answered, TCP SYNs and ICMP echo requests, from the IP header on (packet(7)): those that come
    /// over the programs' link in the gateway, and over loopback in the app's namespace.
    Watch4,
    /// The same of IPv6.
    Watch6,
    /// A UDP socket on a loopback port that takes what nftables' `tproxy` sends there, whatever its destination, and
    /// tells that (`IP_RECVORIGDSTADDR`).
    Receive4,
    /// The same of IPv6.
    Receive6,
    /// Sends whole packets, IP header included (raw(7)).
    Raw4,
    /// The same of IPv6.
    Raw6,
    /// Lists the sockets of its namespace (sock_diag(7)).
    Diagnose,
    /// A stream of `AF_UNIX`: abstract names (unix(7)) are those of its namespace.
    UnixStream,
    /// The same of messages.
    UnixSeqPacket,
}

/// What the launcher wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// New sockets, at most [`SOCKETS_MAX`] of them.
    Sockets {
        /// Where.
        place: Place,
        /// Of what kind.
        kind: Kind,
        /// How many.
        count: u8,
    },
    /// The run's `resolv.conf` and `hosts` are other files now.
    Files,
    /// The run is over in good order: take the network away, and leave the processes that are still in it alone.
    End,
}

/// What the holder answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Done; what was ordered comes along.
    Done,
    /// The first answer: all is there. Along come the namespaces (user, network of the app, mount), and for each family
    /// that the kernel knows a `Watch`, a `Receive` and a `Raw` of the gateway, then the same of the app's loopback; at the end a `Diagnose` of
    /// the app.
    Ready {
        /// The kernel knows IPv6.
        v6: bool,
    },
    /// The system refused.
    Refused {
        /// Its errno.
        errno: c_int,
        /// What was tried.
        step: String,
    },
}

impl Place {
    fn decode(byte: u8) -> Option<Self> {
        [Self::App, Self::Gateway].into_iter().find(|place| *place as u8 == byte)
    }
}

impl Kind {
    const ALL: [Self; 13] = [
        Self::Tcp4,
        Self::Tcp6,
        Self::Udp4,
        Self::Udp6,
        Self::Watch4,
        Self::Watch6,
        Self::Receive4,
        Self::Receive6,
        Self::Raw4,
        Self::Raw6,
        Self::Diagnose,
        Self::UnixStream,
        Self::UnixSeqPacket,
    ];

    fn decode(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }
}

impl Order {
    /// The message.
    #[must_use]
    pub fn encode(self) -> [u8; 4] {
        match self {
            Self::Sockets { place, kind, count } => [1, place as u8, kind as u8, count],
            Self::Files => [2, 0, 0, 0],
            Self::End => [3, 0, 0, 0],
        }
    }

    /// Reads a message; [`None`] if it is not one.
    #[must_use]
    pub fn decode(message: &[u8]) -> Option<Self> {
        match *message {
            [1, place, kind, count] => {
                Some(Self::Sockets { place: Place::decode(place)?, kind: Kind::decode(kind)?, count })
            }
            [2, 0, 0, 0] => Some(Self::Files),
            [3, 0, 0, 0] => Some(Self::End),
            _ => None,
        }
    }
}

impl Answer {
    /// The message.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Done => vec![0],
            Self::Ready { v6 } => vec![1, u8::from(*v6)],
            Self::Refused { errno, step } => {
                let mut message = vec![2];
                message.extend(errno.to_ne_bytes());
                message.extend(step.bytes().take(MESSAGE_MAX / 2));
                message
            }
        }
    }

    /// Reads a message; [`None`] if it is not one.
    #[must_use]
    pub fn decode(message: &[u8]) -> Option<Self> {
        match *message {
            [0] => Some(Self::Done),
            [1, v6] => Some(Self::Ready { v6: v6 != 0 }),
            [2, ref rest @ ..] => {
                let (errno, step) = rest.split_first_chunk()?;
                let step = String::from_utf8_lossy(step).into_owned();
                Some(Self::Refused { errno: c_int::from_ne_bytes(*errno), step })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_as_they_were_written() {
        for kind in Kind::ALL {
            for place in [Place::App, Place::Gateway] {
                let order = Order::Sockets { place, kind, count: 7 };
                assert_eq!(Order::decode(&order.encode()), Some(order));
            }
        }
        for order in [Order::Files, Order::End] {
            assert_eq!(Order::decode(&order.encode()), Some(order));
        }
        let refused = Answer::Refused { errno: libc::EPERM, step: "a step".to_owned() };
        for answer in [Answer::Done, Answer::Ready { v6: true }, Answer::Ready { v6: false }, refused] {
            assert_eq!(Answer::decode(&answer.encode()), Some(answer));
        }
        for message in [&b""[..], &[4, 0, 0, 0], &[1, 2, 0, 1], &[1, 0, 99, 1], &[2, 0]] {
            assert_eq!(Order::decode(message), None);
        }
        assert_eq!(Answer::decode(&[2, 0, 0]), None);
    }
}
