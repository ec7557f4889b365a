//! More clients than there is room for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use socks_proxy::expose::wire::*;
use socks_proxy::messages;
use tokio::net::UdpSocket;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::net::{Launcher, POD, Pod, echo_datagrams, soon, steal};

/// As come to a nameserver within the time for which flows of one question are kept, and more than are kept at once.
const CLIENTS: u16 = 5000;
/// Of theirs, below those that the kernel gives.
const FIRST_PORT: u16 = 20_000;
/// That wait for an answer.
const AT_ONCE: usize = 32;

/// Has a program answer datagrams; gives the number of flows that have come.
fn answered(mut launcher: Launcher) -> Arc<AtomicU32> {
    let flows = Arc::new(AtomicU32::new(0));
    let count = flows.clone();
    tokio::spawn(async move {
        while let Some(mut stream) = launcher.arrivals.next().await {
            count.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(async move {
                let _: Arrival = messages::read(&mut stream, ARRIVAL_MAX).await.unwrap();
                echo_datagrams("laptop", stream).await;
            });
        }
    });
    flows
}

async fn ask(client: &UdpSocket) -> String {
    client.send(b"q").await.unwrap();
    let mut room = [0; 64];
    let length = soon("an answer", client.recv(&mut room)).await.unwrap();
    String::from_utf8_lossy(&room[..length]).into_owned()
}

/// Each of many clients, one question each, is answered by `who`; one of them goes on asking.
async fn all_are_answered(pod: &Arc<Pod>, who: &'static str) {
    let faithful = pod.udp_client(POD[0], 53).await;
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        while let Some(asked) = clients.try_join_next() {
            asked.unwrap();
        }
        if number % 500 == 0 {
            assert_eq!(ask(&faithful).await, who);
        }
        let (pod, place) = (pod.clone(), places.clone().acquire_owned().await.unwrap());
        clients.spawn(async move {
            assert_eq!(ask(&pod.udp_client_from(FIRST_PORT + number, POD[0], 53).await).await, who);
            drop(place);
        });
    }
    while let Some(asked) = clients.join_next().await {
        asked.unwrap();
    }
    assert_eq!(ask(&faithful).await, who);
}

#[tokio::test]
async fn a_resolvers_many_ports_lose_nothing() {
    let Some(pod) = Pod::make().map(Arc::new) else { return };
    pod.udp_app(53);
    let agent = pod.agent(&[]).await;
    let all = u32::from(CLIENTS) + 1;
    for (way, who) in [(Way::Steal, "laptop: q"), (Way::Mirror, "app: q")] {
        let launcher = pod.launcher(&agent).await;
        let mut exposing = launcher.exposes(Expose { way, protocol: Protocol::Udp, ..steal(53) }).await;
        let flows = answered(launcher);
        all_are_answered(&pod, who).await;
        // Whoever goes on asking has one flow all the time; and a mirror hears everybody.
        soon("all flows", async {
            while flows.load(Ordering::Relaxed) < all {
                tokio::task::yield_now().await;
            }
        })
        .await;
        assert_eq!(flows.load(Ordering::Relaxed), all, "{way:?}");
        exposing.done().await;
    }
}

#[tokio::test]
async fn a_mirrors_standstill_costs_the_app_nothing() {
    let Some(pod) = Pod::make() else { return };
    pod.app(8080);
    pod.udp_app(53);
    let agent = pod.agent(&[]).await;
    // Nobody reads what arrives.
    let launcher = pod.launcher(&agent).await;
    let _tcp = launcher.exposes(Expose { way: Way::Mirror, ..steal(8080) }).await;
    let udp = Expose { id: 8, way: Way::Mirror, protocol: Protocol::Udp, ..steal(53) };
    let _udp = launcher.exposes(udp).await;
    let line = "x".repeat(400_000);
    let mut clients = Vec::new();
    // Without a limit for all of them it would be 160 MB.
    for _ in 0..200 {
        let mut client = pod.client(POD[0], 8080).await;
        for _ in 0..2 {
            assert_eq!(client.ask(&line).await.len(), line.len() + 5);
        }
        clients.push(client);
    }
    let resident = agent.resident();
    assert!(resident < 100, "the agent has {resident} MiB");
    let asking = pod.udp_client(POD[1], 53).await;
    for _ in 0..10 {
        assert_eq!(ask(&asking).await, "app: q");
    }
}
