//! What the pod's own kernel says about a port and the pod's routes, by proc_net_tcp(5) and its kin.
//!
//! The agent shares the pod's network namespace and none of its processes, so it sees sockets and not whose they are.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::wire::Protocol;

/// States of proc_net_tcp(5), which UDP borrows: a socket that waits for whoever comes.
const LISTENING: &str = "0A";
const UNCONNECTED: &str = "07";
/// A connection whose client has not answered yet.
const OPENING: &str = "03";
/// `RTF_GATEWAY` of route(8).
const VIA_GATEWAY: u32 = 2;

/// Some socket of the pod serves that port.
pub(super) fn is_served(protocol: Protocol, port: u16) -> bool {
    match protocol {
        Protocol::Tcp => any(&["tcp", "tcp6"], port, LISTENING),
        Protocol::Udp => any(&["udp", "udp6"], port, UNCONNECTED),
    }
}

/// Somebody is in the middle of connecting to that port.
pub(super) fn is_being_opened(port: u16) -> bool {
    any(&["tcp", "tcp6"], port, OPENING)
}

fn any(tables: &[&str], port: u16, state: &str) -> bool {
    tables.iter().any(|table| has(&read(table), port, state))
}

fn read(table: &str) -> String {
    // Without IPv6 there is no table of it.
    std::fs::read_to_string(format!("/proc/self/net/{table}")).unwrap_or_default()
}

fn has(table: &str, port: u16, state: &str) -> bool {
    table.lines().skip(1).any(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let bound = fields.next().and_then(|bound| u16::from_str_radix(bound.rsplit_once(':')?.1, 16).ok());
        bound == Some(port) && fields.nth(1) == Some(state)
    })
}

/// The gateways of the pod's default routes: with many networks it is from there that the kubelet's probes come.
pub(super) fn gateways() -> Vec<IpAddr> {
    let (v4, v6) = (read("route"), read("ipv6_route"));
    v4.lines().skip(1).filter_map(v4_gateway).chain(v6.lines().filter_map(v6_gateway)).collect()
}

/// `Iface Destination Gateway Flags ...`, in the byte order of the machine.
fn v4_gateway(line: &str) -> Option<IpAddr> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let mut number = || u32::from_str_radix(fields.next()?, 16).ok();
    let (to, via, flags) = (number()?, number()?, number()?);
    (to == 0 && flags & VIA_GATEWAY != 0).then(|| Ipv4Addr::from(via.to_ne_bytes()).into())
}

/// `to prefix from prefix via ...`
fn v6_gateway(line: &str) -> Option<IpAddr> {
    let fields: Vec<_> = line.split_ascii_whitespace().collect();
    let [to, prefix, _, _, via, ..] = fields.get(..)? else { return None };
    let number = |hex: &str| u128::from_str_radix(hex, 16).ok();
    let via = number(via).filter(|via| *via != 0)?;
    (number(to) == Some(0) && *prefix == "00").then(|| Ipv6Addr::from(via).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_found_by_port_and_state_in_both_families() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue\n   \
             0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000\n   \
             1: 0100007F:0051 0100007F:E0F4 03 00000000:00000000 00:00000000 00000000\n   \
             2: 00000000000000000000000000000000:0052 00000000000000000000000000000000:0000 07 00000000\n";
        assert!(has(table, 8080, LISTENING) && !has(table, 8080, OPENING));
        assert!(has(table, 81, OPENING) && has(table, 82, UNCONNECTED) && !has(table, 80, LISTENING));
        assert!(!has("", 80, LISTENING));
    }

    #[test]
    fn the_default_routes_gateways_are_read() {
        let line = format!("eth0\t00000000\t{:08X}\t0003\t0", u32::from_ne_bytes([10, 244, 0, 1]));
        assert_eq!(v4_gateway(&line), Some(Ipv4Addr::new(10, 244, 0, 1).into()));
        assert_eq!(v4_gateway("eth0\t0000F40A\t00000000\t0001\t0"), None);
        let (any, via) = ("0".repeat(32), "fe80000000000000000000000000000a");
        let line = format!("{any} 00 {any} 00 {via} 00000400 00000001 00000000 00000003     eth0");
        assert_eq!(v6_gateway(&line), "fe80::a".parse().ok());
        let line = format!("{any} 00 {any} 00 {any} ffffffff 00000001 00000000 00200200       lo");
        assert_eq!(v6_gateway(&line), None);
    }

    #[test]
    fn this_machines_tables_are_read() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(is_served(Protocol::Tcp, port) && !is_served(Protocol::Udp, port));
    }
}
