//! What DNS messages say about a name's addresses.
//!
//! The agent hands over nameservers' messages whole (RFC 1035), one a family, so that time to live, aliases and the
//! difference between "no such name" and "no address of that family" survive the way.

use std::net::IpAddr;
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RData;
use tp_abi::errno::eai;

use super::{Found, LookupError};

/// Reads the addresses out of the answers for each family.
///
/// # Errors
/// The `getaddrinfo` failure that they amount to.
pub fn addresses(messages: &[Vec<u8>]) -> Result<Found, LookupError> {
    let mut addresses = Vec::new();
    let mut canonical = None;
    let mut aliases = Vec::new();
    let mut ttl = None;
    let mut failure: Option<LookupError> = None;
    for bytes in messages {
        let message = Message::from_vec(bytes).map_err(|error| {
            LookupError::passing(format!("the nameserver's answer could not be read: {error}"))
        })?;
        let before = addresses.len();
        for record in &message.answers {
            let address = match &record.data {
                RData::A(a) => IpAddr::V4(a.0),
                RData::AAAA(aaaa) => IpAddr::V6(aaaa.0),
                data => {
                    let alias = undotted(record.name.to_utf8());
                    if matches!(data, RData::CNAME(_)) && !aliases.contains(&alias) {
                        aliases.push(alias);
                    }
                    shorten(&mut ttl, record.ttl);
                    continue;
                }
            };
            addresses.push(address);
            shorten(&mut ttl, record.ttl);
            canonical.get_or_insert_with(|| record.name.to_utf8());
        }
        if addresses.len() == before {
            let found_nothing = failure_of(&message);
            // What is known for sure outweighs what may pass, and "no such name" outweighs "no such address".
            if failure.as_ref().is_none_or(|known| weight(known.eai) < weight(found_nothing.eai)) {
                failure = Some(found_nothing);
            }
        }
    }
    if addresses.is_empty() {
        return Err(failure.unwrap_or_else(|| LookupError::passing("the agent sent no answer")));
    }
    // An answer for one family beside a failure that may pass for the other must not be kept.
    let passing = failure.is_some_and(|failure| failure.eai == eai::AGAIN);
    let ttl = if passing { 0 } else { ttl.unwrap_or(0) };
    let canonical = undotted(canonical.unwrap_or_default());
    Ok(Found { addresses, canonical, aliases, ttl: Duration::from_secs(u64::from(ttl)) })
}

/// Orders `addresses` as `order` has them, 16 bytes an address, IPv4 as v4-mapped; those that it has not come last.
pub fn order(addresses: &mut [IpAddr], order: &[u8]) {
    let wide = |address: &IpAddr| match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    let order = order.as_chunks().0;
    addresses
        .sort_by_key(|address| order.iter().position(|known| *known == wide(address)).unwrap_or(order.len()));
}

fn shorten(ttl: &mut Option<u32>, other: u32) {
    *ttl = Some(ttl.map_or(other, |ttl| ttl.min(other)));
}

fn undotted(mut name: String) -> String {
    if name.ends_with('.') {
        name.pop();
    }
    name
}

fn weight(eai: i32) -> u8 {
    match eai {
        eai::NODATA => 1,
        eai::NONAME => 2,
        _ => 3,
    }
}

fn failure_of(message: &Message) -> LookupError {
    let code = message.metadata.response_code;
    let (eai, reason) = match code {
        ResponseCode::NoError => (eai::NODATA, "the name has no address of this family".to_owned()),
        ResponseCode::NXDomain => (eai::NONAME, "no such name".to_owned()),
        ResponseCode::ServFail => return LookupError::passing("the nameserver failed (SERVFAIL)"),
        other => (eai::FAIL, format!("the nameserver answered {other}")),
    };
    LookupError { eai, ttl: negative_ttl(message), reason }
}

/// How long a negative answer holds: the smaller of the SOA record's own TTL and its minimum (RFC 2308, 5).
fn negative_ttl(message: &Message) -> Duration {
    message
        .authorities
        .iter()
        .find_map(|record| match &record.data {
            RData::SOA(soa) => Some(Duration::from_secs(u64::from(record.ttl.min(soa.minimum)))),
            _ => None,
        })
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::str::FromStr as _;

    use hickory_proto::op::OpCode;
    use hickory_proto::rr::rdata::{A, CNAME, SOA};
    use hickory_proto::rr::{Name, Record};

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_str(text).unwrap()
    }

    fn message(code: ResponseCode, answers: Vec<Record>, authorities: Vec<Record>) -> Vec<u8> {
        let mut message = Message::response(1, OpCode::Query);
        message.metadata.response_code = code;
        message.answers = answers;
        message.authorities = authorities;
        message.to_vec().unwrap()
    }

    fn soa() -> Record {
        let soa = SOA::new(name("ns."), name("root."), 1, 1, 1, 1, 7);
        Record::from_rdata(name("cluster.local."), 30, RData::SOA(soa))
    }

    #[test]
    fn an_alias_gives_its_targets_name_and_the_shortest_time_to_live() {
        let answers = vec![
            Record::from_rdata(name("external."), 5, RData::CNAME(CNAME(name("backend.")))),
            Record::from_rdata(name("backend."), 30, RData::A(A::new(10, 96, 0, 9))),
        ];
        let found = addresses(&[message(ResponseCode::NoError, answers, vec![])]).unwrap();
        assert_eq!(found.addresses, [IpAddr::from([10, 96, 0, 9])]);
        assert_eq!((found.canonical.as_str(), found.aliases), ("backend", vec!["external".to_owned()]));
        assert_eq!(found.ttl, Duration::from_secs(5));
    }

    #[test]
    fn no_such_name_and_no_such_address_are_told_apart_and_kept_by_the_soas_minimum() {
        for (code, eai) in [(ResponseCode::NXDomain, eai::NONAME), (ResponseCode::NoError, eai::NODATA)] {
            let error = addresses(&[message(code, vec![], vec![soa()])]).unwrap_err();
            assert_eq!((error.eai, error.ttl), (eai, Duration::from_secs(7)));
        }
    }

    #[test]
    fn one_familys_failing_server_does_not_hide_the_other_familys_address() {
        let a = Record::from_rdata(name("backend."), 30, RData::A(A::new(10, 96, 0, 9)));
        let found = addresses(&[
            message(ResponseCode::NoError, vec![a], vec![]),
            message(ResponseCode::ServFail, vec![], vec![]),
        ])
        .unwrap();
        assert_eq!(found.ttl, Duration::ZERO, "half an answer must be asked again");
    }

    #[test]
    fn the_pods_order_is_kept_and_what_it_does_not_know_comes_last() {
        let [v4, v6, other]: [IpAddr; 3] =
            ["10.96.0.1", "fd00::1", "10.96.0.2"].map(|text| text.parse().unwrap());
        let mut addresses = [other, v4, v6];
        let known = [
            [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 96, 0, 1],
        ];
        order(&mut addresses, &known.concat());
        assert_eq!(addresses, [v6, v4, other]);
        order(&mut addresses, b"none at all");
        assert_eq!(addresses, [v6, v4, other]);
    }

    #[test]
    fn a_servers_failure_may_pass() {
        let error = addresses(&[message(ResponseCode::ServFail, vec![], vec![])]).unwrap_err();
        assert_eq!((error.eai, error.ttl), (eai::AGAIN, Duration::ZERO));
        assert_eq!(addresses(&[b"junk".to_vec()]).unwrap_err().eai, eai::AGAIN);
        assert_eq!(addresses(&[]).unwrap_err().eai, eai::AGAIN);
    }
}
