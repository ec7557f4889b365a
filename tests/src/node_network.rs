//! The network of the node and its wire to the laptop.
//!
//! The node's namespace has no interface that leads anywhere: its default route goes into a bridge without ports, so
//! that whatever pods send to the rest of the world vanishes as on a network that drops. The kernel answers with the
//! errors that a real network would give only for the ranges named here. The API server's address is on that bridge.
//!
//! The laptop's packets are judged in `prerouting`, before anything else sees them: TCP to the API server passes,
//! neighbour discovery passes, and every other packet is counted and dropped.

use crate::layout::{
    API_PORT, GATEWAY_V4, GATEWAY_V6, LAPTOP_NETNS, LAPTOP_V4, LAPTOP_V6, NODE_NETNS, NODE_V4, NODE_V6,
};
use crate::{Error, netns, run};

/// Packets to these vanish without an answer.
pub const SILENT: [&str; 2] = ["192.0.2.0/24", "2001:db8:2::/64"];
/// The node answers for these: host (address) unreachable, which a program sees as EHOSTUNREACH.
pub const HOST_UNREACHABLE: [&str; 2] = ["198.51.100.0/24", "2001:db8:51::/64"];
/// The node answers for these: network unreachable (no route), which a program sees as ENETUNREACH.
pub const NET_UNREACHABLE: [&str; 2] = ["203.0.113.0/24", "2001:db8:113::/64"];

/// The node's end of the wire to the laptop.
const WIRE: &str = "tp-lap0";

/// Makes the node's namespace and its addresses.
pub fn create_node() -> Result<(), Error> {
    netns::create(NODE_NETNS)?;
    netns::sysctl(
        NODE_NETNS,
        &[
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
            // An address must be usable when `up` goes on, not a second later.
            ("net/ipv6/conf/default/accept_dad", "0"),
            ("net/ipv6/conf/default/accept_ra", "0"),
            ("net/ipv6/conf/all/accept_dad", "0"),
            // Unreachable is said every time: at the default of one answer a second, cases would starve each other.
            ("net/ipv4/icmp_ratelimit", "0"),
            ("net/ipv6/icmp/ratelimit", "0"),
        ],
    )?;
    netns::ip(
        NODE_NETNS,
        &[
            "link add tp-void type bridge",
            // Without address resolution the node never waits for a neighbour that is not there.
            "link set tp-void arp off up",
            &format!("addr add {NODE_V4}/32 dev tp-void"),
            &format!("addr add {NODE_V6}/128 dev tp-void nodad"),
            "route add 0.0.0.0/0 dev tp-void",
            "route add ::/0 dev tp-void",
        ],
    )?;
    netns::nft(NODE_NETNS, &edges())
}

/// What the rest of the world answers to pods.
fn edges() -> String {
    let [silent4, silent6] = SILENT;
    let [host4, host6] = HOST_UNREACHABLE;
    let [net4, net6] = NET_UNREACHABLE;
    format!(
        "table inet tp_edges {{
            chain forward {{
                type filter hook forward priority 10; policy accept;
                ip daddr {silent4} drop
                ip6 daddr {silent6} drop
                ip daddr {host4} reject with icmp type host-unreachable
                ip6 daddr {host6} reject with icmpv6 type addr-unreachable
                ip daddr {net4} reject with icmp type net-unreachable
                ip6 daddr {net6} reject with icmpv6 type no-route
                oifname tp-void drop
            }}
        }}\n"
    )
}

/// Makes the laptop's namespace and the wire; an earlier one is replaced.
pub fn create_laptop() -> Result<(), Error> {
    netns::delete(LAPTOP_NETNS)?;
    // The wire's two ends die together, but the kernel may take a moment after the namespace's name is gone.
    let _ = run::attempt(&mut run::command("ip", ["-n", NODE_NETNS, "link", "del", WIRE]));
    netns::create(LAPTOP_NETNS)?;
    netns::sysctl(
        LAPTOP_NETNS,
        &[
            ("net/ipv6/conf/default/accept_dad", "0"),
            ("net/ipv6/conf/default/accept_ra", "0"),
            ("net/ipv6/conf/default/router_solicitations", "0"),
            // What people's machines allow; kernels and distributions differ in the default.
            ("net/ipv4/ping_group_range", "0 2147483647"),
        ],
    )?;
    netns::nft(NODE_NETNS, &customs())?;
    netns::ip(
        NODE_NETNS,
        &[
            &format!("link add {WIRE} type veth peer name eth0 netns {LAPTOP_NETNS}"),
            &format!("addr add {GATEWAY_V4}/24 dev {WIRE}"),
            &format!("addr add {GATEWAY_V6}/64 dev {WIRE} nodad"),
            &format!("link set {WIRE} up"),
        ],
    )?;
    netns::ip(
        LAPTOP_NETNS,
        &[
            &format!("addr add {LAPTOP_V4}/24 dev eth0"),
            &format!("addr add {LAPTOP_V6}/64 dev eth0 nodad"),
            "link set eth0 up",
            &format!("route add 0.0.0.0/0 via {GATEWAY_V4}"),
            &format!("route add ::/0 via {GATEWAY_V6}"),
        ],
    )
}

/// The rules for what comes from the laptop. MLD reports are sent by the kernel itself whenever an address is added,
/// and end at the wire, so they are no leak.
fn customs() -> String {
    format!(
        "table inet tp_laptop {{}}
        delete table inet tp_laptop
        table inet tp_laptop {{
            counter leaks {{}}
            chain prerouting {{
                type filter hook prerouting priority -350; policy accept;
                iifname {WIRE} goto from_laptop
            }}
            chain from_laptop {{
                ip daddr {NODE_V4} tcp dport {API_PORT} accept
                ip6 daddr {NODE_V6} tcp dport {API_PORT} accept
                icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert, mld-listener-report, mld2-listener-report, \
         mld-listener-done }} accept
                counter name leaks drop
            }}
        }}\n"
    )
}

/// Packets that the laptop tried to send elsewhere than to the API server.
pub fn leaks() -> Result<u64, Error> {
    let list = ["-j", "list", "counter", "inet", "tp_laptop", "leaks"];
    let answer = run::output(netns::command(NODE_NETNS, "nft").args(list))?;
    packets(&answer).ok_or(Error::Answer { what: "nft, asked for the leak counter,", answer })
}

/// Sets the count back to zero.
pub fn reset_leaks() -> Result<(), Error> {
    let reset = ["reset", "counter", "inet", "tp_laptop", "leaks"];
    run::output(netns::command(NODE_NETNS, "nft").args(reset)).map(drop)
}

fn packets(json: &str) -> Option<u64> {
    let answer: serde_json::Value = serde_json::from_str(json).ok()?;
    answer
        .get("nftables")?
        .as_array()?
        .iter()
        .find_map(|object| object.get("counter")?.get("packets")?.as_u64())
}

#[cfg(test)]
mod tests {
    use super::packets;

    #[test]
    fn the_counter_is_read_from_nft_json() {
        let json = r#"{"nftables": [{"metainfo": {"version": "1.0.6"}}, {"counter": {"family": "inet", "name":
            "leaks", "table": "tp_laptop", "handle": 1, "packets": 42, "bytes": 2520}}]}"#;
        assert_eq!(packets(json), Some(42));
        assert_eq!(packets("{}"), None);
    }
}
