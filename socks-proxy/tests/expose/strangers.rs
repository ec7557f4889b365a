//! Others in the pod who have the name of a port, or come by it.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

use nix::sys::socket::{Backlog, listen};
use socks_proxy::expose::wire::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::net::{POD, Pod, soon, steal};

fn name() -> SocketAddr {
    SocketAddr::from_abstract_name("tp-expose-tcp-8080").unwrap()
}

/// Does something as a user of the pod's who is not the agent's.
fn as_another<T: Send>(pod: &Pod, work: impl FnOnce() -> T + Send) -> T {
    pod.inside(|| {
        // Of this thread alone, which ends with its work.
        let nobody = rustix::process::Uid::from_raw(65_534);
        rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
        work()
    })
}

#[tokio::test]
async fn a_name_in_strange_hands_is_told_and_holds_nothing_else_up() {
    let Some(pod) = Pod::make() else { return };
    pod.app(8080);
    pod.app(8081);
    let agent = pod.agent(&[]).await;
    let launcher = pod.launcher(&agent).await;
    let stranger = as_another(&pod, || UnixListener::bind_addr(&name()).unwrap());
    let (mut exposing, answer) = launcher.expose(steal(8080)).await;
    let ToLauncher::Refused { errno: libc::EPERM, step } = answer else { panic!("{answer:?}") };
    assert!(step.contains("user 65534"), "{step}");
    exposing.is_over().await;
    drop(stranger);

    // One of the agent's user that answers nobody, and whose queue is full.
    let silent = pod.inside(|| UnixListener::bind_addr(&name()).unwrap());
    listen(&silent, Backlog::new(0).unwrap()).unwrap();
    let waiting = pod.inside(|| UnixStream::connect_addr(&name()).unwrap());
    let waited_for = launcher.expose(steal(8080));
    let others = async {
        let other = pod.launcher(&agent).await;
        let mut exposing = other.exposes(Expose { id: 8, ..steal(8081) }).await;
        exposing.done().await;
    };
    let ((_, answer), ()) = tokio::join!(waited_for, others);
    let ToLauncher::Refused { errno: libc::ETIMEDOUT, step } = answer else { panic!("{answer:?}") };
    assert!(step.contains("the agent that has the port"), "{step}");
    drop((silent, waiting));
    launcher.exposes(steal(8080)).await;
}

#[tokio::test]
async fn an_agent_of_another_version_is_told_of() {
    let Some(pod) = Pod::make() else { return };
    pod.app(8080);
    let agent = pod.agent(&[]).await;
    let launcher = pod.launcher(&agent).await;
    let other = pod.inside(|| UnixListener::bind_addr(&name()).unwrap());
    other.set_nonblocking(true).unwrap();
    let other = tokio::net::UnixListener::from_std(other).unwrap();
    let holder = tokio::spawn(async move {
        let (mut stream, _) = other.accept().await.unwrap();
        stream.write_u32(0x7470_ffff).await.unwrap();
        stream.read_u32().await.unwrap()
    });
    let (mut exposing, answer) = launcher.expose(steal(8080)).await;
    let ToLauncher::Refused { step, .. } = answer else { panic!("{answer:?}") };
    assert!(step.contains("another version of tp"), "{step}");
    exposing.is_over().await;
    let revision = holder.await.unwrap();

    // The other way round: of this version is served, of another is not, and a stranger is not even greeted.
    let _exposing = launcher.exposes(steal(8080)).await;
    for (said, is_greeted) in [(revision, true), (revision ^ 1, true), (revision, false)] {
        let come = || UnixStream::connect_addr(&name()).unwrap();
        let stream = if is_greeted { pod.inside(come) } else { as_another(&pod, come) };
        stream.set_nonblocking(true).unwrap();
        let mut stream = tokio::net::UnixStream::from_std(stream).unwrap();
        // A stranger's connection may be closed before this.
        drop(stream.write_u32(said).await);
        let greeting = soon("a greeting or the end", stream.read_u32()).await.ok();
        assert_eq!(greeting, is_greeted.then_some(revision));
        if said != revision {
            assert_eq!(soon("the end", stream.read(&mut [0])).await.unwrap_or(0), 0);
        }
    }
    assert_eq!(pod.client(POD[0], 8080).await.stream().peer_addr().unwrap().port(), 8080);
}
