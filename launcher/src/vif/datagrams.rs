//! Datagrams of the programs inside.
//!
//! nftables hands every datagram that arrives in the gateway to one socket of ours, which learns where it was sent to
//! (`tproxy`, `IP_RECVORIGDSTADDR`). From there on it is a [flow](crate::flows) as any: what one socket says to one
//! destination. Answers go back as whole packets, so that they come from where the program sent to and no socket of ours
//! is needed for each; so do refusals, as the ICMP message that the far end's host sent.

use std::collections::HashMap;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sockaddr_in, sockaddr_in6};
use socks_proxy::proto::DATAGRAM_MAX;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tracing::{Instrument as _, debug, debug_span};

use super::connections::Ends;
use super::{Network, packet};
use crate::flows::carry::{Back, Flow, Pushed};

/// Flows at one time; one agent has room for 4096.
const FLOWS_MAX: usize = 4000;
/// Datagrams taken before others get their turn.
const IN_A_ROW: usize = 64;

/// The flows of one network.
#[derive(Default)]
pub(super) struct Datagrams {
    flows: Mutex<HashMap<Ends, Arc<Flow<Network>>>>,
}

impl Datagrams {
    fn flows(&self) -> MutexGuard<'_, HashMap<Ends, Arc<Flow<Network>>>> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget(&self, flow: &Arc<Flow<Network>>) {
        let mut flows = self.flows();
        let ends = (flow.app, flow.destination);
        if flows.get(&ends).is_some_and(|known| Arc::ptr_eq(known, flow)) {
            flows.remove(&ends);
        }
    }

    /// Waits until what was sent a moment ago has left for the pod.
    pub(super) async fn drain(&self, recent: std::time::Duration) {
        let recent: Vec<_> =
            self.flows().values().filter(|flow| flow.used.idle() < recent).cloned().collect();
        for flow in &recent {
            flow.finish();
        }
        for flow in &recent {
            flow.ended().await;
        }
    }
}

impl Network {
    /// Takes what programs send, until the network's end.
    pub(super) async fn receive(self: Arc<Self>, socket: AsyncFd<OwnedFd>) {
        let mut room = vec![0; DATAGRAM_MAX];
        loop {
            let received = tokio::select! {
                received = socket.async_io(Interest::READABLE, |fd| self.receive_some(fd, &mut room)) => received,
                () = self.end.cancelled() => return,
            };
            match received {
                Ok(()) => tokio::task::yield_now().await,
                // One that a program's port refused (ICMP): its flow ends by itself.
                Err(error) => debug!(%error, "datagrams"),
            }
        }
    }

    fn receive_some(self: &Arc<Self>, socket: &OwnedFd, room: &mut [u8]) -> io::Result<()> {
        for taken in 0..IN_A_ROW {
            match receive_one(socket, room) {
                Ok((Some(ends), length)) => self.send(ends, room.get(..length).unwrap_or_default()),
                Ok((None, _)) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && taken > 0 => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn send(self: &Arc<Self>, ends: Ends, datagram: &[u8]) {
        if self.take_question(ends, datagram) {
            return;
        }
        let known = self.datagrams.flows().get(&ends).cloned();
        if known.is_none_or(|flow| flow.push(datagram) == Pushed::Over) {
            self.flow(ends).push(datagram);
        }
    }

    fn flow(self: &Arc<Self>, (app, asked): Ends) -> Arc<Flow<Self>> {
        let flow = Arc::new(Flow::new(Arc::clone(self), app, asked));
        let mut flows = self.datagrams.flows();
        if flows.len() >= FLOWS_MAX {
            let oldest = flows.values().max_by_key(|flow| flow.used.idle()).cloned();
            oldest.inspect(|flow| {
                flow.end();
                flows.remove(&(flow.app, flow.destination));
            });
        }
        flows.insert((app, asked), Arc::clone(&flow));
        drop(flows);
        let network = Arc::clone(self);
        let carried = Arc::clone(&flow);
        let carry = async move {
            tokio::select! {
                () = carried.carry(network.datagrams_to(asked)) => {}
                () = network.end.cancelled() => {}
            }
            network.datagrams.forget(&carried);
        };
        self.tasks.spawn(carry.instrument(debug_span!("flow", %app, %asked)));
        flow
    }
}

impl Back for Network {
    fn send(&self, app: SocketAddr, from: SocketAddr, datagram: &[u8]) {
        if let Some(packet) = packet::datagram(from, app, datagram) {
            self.raw(app.ip(), packet);
        }
    }

    async fn tell(&self, app: SocketAddr, to: SocketAddr, errno: i32) {
        if let Some(packet) = packet::undelivered(app, to, errno) {
            self.raw(app.ip(), packet);
        }
    }
}

/// A datagram's ends and its length, if the kernel told where it was sent to.
fn receive_one(socket: &OwnedFd, room: &mut [u8]) -> io::Result<(Option<Ends>, usize)> {
    let mut control = nix::cmsg_space!(sockaddr_in, sockaddr_in6);
    let mut parts = [IoSliceMut::new(room)];
    let received = recvmsg::<SockaddrStorage>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut control),
        MsgFlags::MSG_DONTWAIT,
    )?;
    let asked = received.cmsgs()?.find_map(|part| match part {
        ControlMessageOwned::Ipv4OrigDstAddr(asked) => Some(v4(asked)),
        ControlMessageOwned::Ipv6OrigDstAddr(asked) => Some(v6(asked)),
        _ => None,
    });
    let app = received.address.as_ref().and_then(|address| {
        let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::V4((*v4).into()));
        v4.or(address.as_sockaddr_in6().map(|v6| SocketAddr::V6((*v6).into())))
    });
    Ok((app.zip(asked), received.bytes))
}

fn v4(address: sockaddr_in) -> SocketAddr {
    let ip = u32::from_be(address.sin_addr.s_addr).to_be_bytes();
    (ip, u16::from_be(address.sin_port)).into()
}

fn v6(address: sockaddr_in6) -> SocketAddr {
    (address.sin6_addr.s6_addr, u16::from_be(address.sin6_port)).into()
}
