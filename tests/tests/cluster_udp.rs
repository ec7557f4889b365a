//! Datagrams: what a program sends and receives, and is told, is what it would be in the pod.
#![allow(clippy::unwrap_used, reason = "what is not as expected is a failed case")]

use tp_tests::case::{Folder, app, ran};
use tp_tests::{Case, PodNetwork, Target};

/// Builds a C program of `apps/` where the laptop's user can run it; its path.
fn build(folder: &Folder, name: &str) -> String {
    let path = folder.file(name);
    let source = app(&format!("{name}.c"));
    // Fortified, as distributions build: that calls `__recvfrom_chk`.
    let flags = ["-O2", "-D_FORTIFY_SOURCE=2", "-Wall", "-Werror", "-pthread", "-o", path.as_str()];
    ran(std::process::Command::new("cc").args(flags).arg(source)).succeeds();
    path
}

/// Steps: one program in the pod's own network and one under `tp run` send and receive in every way that libc has, over
/// both families: sources, sizes up to 65,507 bytes, MSG_PEEK and MSG_TRUNC, connected and not, many at once, refused
/// ports, one port bound again at once, control messages. They print the same.
#[test]
fn every_way_to_send_and_receive_does_what_it_does_in_the_pod() {
    let case = Case::new();
    let Some(laptop) = case.laptop("the network of a pod") else { return };
    let Target::Laptop(cluster, _) = case.target() else { return };
    let folder = Folder::new(laptop);
    let program = build(&folder, "udp");
    let oracle = PodNetwork::find(cluster, laptop, "default", "app=web").unwrap();
    let truth = ran(oracle.command(&program).unwrap().args(["udp-echo", "refuse"]));
    let truth = truth.succeeds();
    for line in
        ["v6 connect 0, send 1, recv ECONNREFUSED", "v4 sendto 65507, recvfrom 65507 whole from the service"]
    {
        assert!(truth.contains(line), "the pod's own network has no {line:?}:\n{truth}");
    }
    case.web([program.as_str(), "udp-echo", "refuse"]).prints(truth);
}
