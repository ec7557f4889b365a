//! DNS messages as far as the resolver looks into them (RFC 1035, section 4), with hickory-proto's codec.
//!
//! Answers are passed on byte for byte, so that TTLs, CNAME chains and record types that nobody here knows survive.
//! What is read is the header and the one question: an answer counts only if both are those of the question.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Header, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

/// Bytes of a message's header; nothing shorter is a message.
pub const HEADER_LEN: usize = 12;
/// UDP payload that our own questions allow: no fragments on any network that is in use (DNS flag day 2020).
const EDNS_PAYLOAD: u16 = 1232;
/// TTL of answers from `/etc/hosts` in seconds: short, as the kubelet rewrites that file.
const HOSTS_TTL: u32 = 5;

/// The header and question of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// It is a response.
    pub response: bool,
    /// It was cut to fit its datagram.
    pub truncated: bool,
    /// The response code, without EDNS' upper bits.
    pub code: ResponseCode,
    /// Records in the answer section.
    pub answers: u16,
    /// The one question.
    pub query: Query,
    /// Where the question ends in the message.
    pub end: usize,
}

impl Head {
    /// Reads the head of a message; `None` if it has no header or not exactly one question. A question's name has
    /// nothing before it but the header, so one that points there is refused: it would change with the flags.
    #[must_use]
    pub fn read(message: &[u8]) -> Option<Self> {
        let mut decoder = BinDecoder::new(message);
        let header = Header::read(&mut decoder).ok()?;
        if header.counts.queries != 1 {
            return None;
        }
        let query = Query::read(&mut decoder).ok()?;
        if !is_spelled_out(message) {
            return None;
        }
        Some(Self {
            response: header.metadata.message_type == MessageType::Response,
            truncated: header.metadata.truncation,
            code: header.metadata.response_code,
            answers: header.counts.answers,
            query,
            end: decoder.index(),
        })
    }

    /// Whether this is the head of an answer to `question`.
    #[must_use]
    pub fn answers(&self, question: &Self) -> bool {
        self.response && self.query == question.query
    }

    /// The nameserver had something to say, be it "no such name": another one need not be asked (res_send(3) goes on
    /// to the next one for the three codes that are left out here).
    #[must_use]
    pub fn settles(&self) -> bool {
        !matches!(self.code, ResponseCode::ServFail | ResponseCode::NotImp | ResponseCode::Refused)
    }

    /// There are records.
    #[must_use]
    pub fn found(&self) -> bool {
        self.code == ResponseCode::NoError && self.answers > 0
    }
}

/// Whether the name right after the header has no compression pointer in it (RFC 1035, 4.1.4).
fn is_spelled_out(message: &[u8]) -> bool {
    let mut rest = message.get(HEADER_LEN..).unwrap_or_default();
    while let Some((length, after)) = rest.split_first() {
        match length {
            0 => return true,
            1..=63 => rest = after.get(usize::from(*length)..).unwrap_or_default(),
            _ => return false,
        }
    }
    false
}

/// Whether a message says that its sender cannot make sense of the question, as servers that do not know EDNS do
/// (RFC 6891, 7). Some leave the question out of it, so there may be no [`Head`].
#[must_use]
pub fn is_rejection(message: &[u8]) -> bool {
    let header = Header::read(&mut BinDecoder::new(message));
    header.is_ok_and(|header| {
        header.metadata.message_type == MessageType::Response
            && matches!(header.metadata.response_code, ResponseCode::FormErr | ResponseCode::NotImp)
    })
}

/// The message's id.
#[must_use]
pub fn id(message: &[u8]) -> Option<[u8; 2]> {
    message.first_chunk().copied()
}

/// The message with another id.
#[must_use]
pub fn with_id(message: &[u8], id: [u8; 2]) -> Vec<u8> {
    let mut copy = message.to_vec();
    if let Some(place) = copy.first_chunk_mut() {
        *place = id;
    }
    copy
}

/// A question for `name`, with EDNS or without; its id is 0, as [`exchange`](mod@super::exchange) sets its own. `None`
/// for a name that DNS cannot carry.
#[must_use]
pub fn question(name: &Name, kind: RecordType, edns: bool) -> Option<Vec<u8>> {
    let mut message = Message::new(0, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name.clone(), kind));
    if edns {
        let mut options = Edns::new();
        options.set_max_payload(EDNS_PAYLOAD);
        message.set_edns(options);
    }
    message.to_vec().ok()
}

/// The answer that says "server failure" to `question`, for when no nameserver said anything.
#[must_use]
pub fn failure(question: &[u8]) -> Vec<u8> {
    let end = Head::read(question).map_or(HEADER_LEN, |head| head.end);
    let mut answer = question.get(..end).unwrap_or(question).to_vec();
    answer.resize(end.max(HEADER_LEN), 0);
    if let Some([_, _, flags, code, _, queries, counts @ ..]) = answer.first_chunk_mut::<HEADER_LEN>() {
        // QR; opcode and RD stay the question's.
        *flags = 0x80 | (*flags & 0x79);
        // RA, SERVFAIL.
        *code = 0x82;
        *queries = u8::from(end > HEADER_LEN);
        counts.fill(0);
    }
    if let Some(high) = answer.get_mut(4) {
        *high = 0;
    }
    answer
}

/// An answer of our own making: those of `addresses` that `kind` asks for.
#[must_use]
pub fn from_addresses(name: &Name, kind: RecordType, addresses: &[IpAddr]) -> Option<Vec<u8>> {
    let records = addresses.iter().filter_map(|address| match (address, kind) {
        (IpAddr::V4(address), RecordType::A) => Some(RData::A(A(*address))),
        (IpAddr::V6(address), RecordType::AAAA) => Some(RData::AAAA(AAAA(*address))),
        _ => None,
    });
    respond(name, kind, records)
}

/// An answer of our own making that names an address.
#[must_use]
pub fn from_name(question: &Name, name: Name) -> Option<Vec<u8>> {
    respond(question, RecordType::PTR, std::iter::once(RData::PTR(PTR(name))))
}

fn respond(name: &Name, kind: RecordType, records: impl Iterator<Item = RData>) -> Option<Vec<u8>> {
    let mut message = Message::response(0, OpCode::Query);
    message.metadata.authoritative = true;
    message.metadata.recursion_desired = true;
    message.metadata.recursion_available = true;
    message.add_query(Query::query(name.clone(), kind));
    message.add_answers(records.map(|data| Record::from_rdata(name.clone(), HOSTS_TTL, data)));
    message.to_vec().ok()
}

/// The addresses in a message's answer section, in its order.
#[must_use]
pub fn addresses(message: &[u8]) -> Vec<IpAddr> {
    let Ok(message) = Message::from_vec(message) else { return Vec::new() };
    let address = |record: &Record| match &record.data {
        RData::A(A(address)) => Some(IpAddr::V4(*address)),
        RData::AAAA(AAAA(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    };
    message.answers.iter().filter_map(address).collect()
}

/// The first name that a PTR record of a message tells.
#[must_use]
pub fn pointer(message: &[u8]) -> Option<Name> {
    let message = Message::from_vec(message).ok()?;
    message.answers.into_iter().find_map(|record| match record.data {
        RData::PTR(PTR(name)) => Some(name),
        _ => None,
    })
}

/// Text as an absolute name, whatever bytes its labels have; `None` if a label or the whole is empty or too long.
#[must_use]
pub fn name(text: &str) -> Option<Name> {
    // The root, as a candidate has it: without its dot.
    if text.is_empty() {
        return Some(Name::root());
    }
    let text = text.strip_suffix('.').unwrap_or(text);
    let mut name = Name::from_labels(text.split('.').map(str::as_bytes)).ok()?;
    name.set_fqdn(true);
    // 255 octets on the wire, and a label may not be empty.
    (name.len() <= 254 && !text.split('.').any(str::is_empty)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_has_one_query_and_leaves_room_for_an_answer() {
        let name = name("_sip._tcp.backend.default").unwrap();
        let message = question(&name, RecordType::SRV, true).unwrap();
        let head = Head::read(&message).unwrap();
        assert_eq!((head.response, head.query.query_type()), (false, RecordType::SRV));
        assert_eq!(Message::from_vec(&message).unwrap().max_payload(), EDNS_PAYLOAD);
        assert!(Message::from_vec(&question(&name, RecordType::A, false).unwrap()).unwrap().edns.is_none());
    }

    #[test]
    fn an_answer_to_another_question_does_not_count() {
        let asked = Head::read(&question(&name("a.example").unwrap(), RecordType::A, true).unwrap()).unwrap();
        let of = |text, kind| Head::read(&from_addresses(&name(text).unwrap(), kind, &[]).unwrap()).unwrap();
        assert!(of("A.Example", RecordType::A).answers(&asked));
        assert!(!of("b.example", RecordType::A).answers(&asked));
        assert!(!of("a.example", RecordType::AAAA).answers(&asked));
        assert!(!asked.answers(&asked));
    }

    #[test]
    fn a_failure_keeps_id_and_question_and_nothing_else() {
        let message = with_id(&question(&name("a.example").unwrap(), RecordType::A, true).unwrap(), [7, 9]);
        let answer = Message::from_vec(&failure(&message)).unwrap();
        assert_eq!((answer.metadata.id, answer.metadata.response_code), (0x0709, ResponseCode::ServFail));
        assert_eq!((answer.queries.len(), answer.additionals.len(), answer.answers.len()), (1, 0, 0));
        assert!(answer.metadata.recursion_desired);
        assert_eq!(failure(b"xy").len(), HEADER_LEN);
    }

    #[test]
    fn an_answer_of_our_own_has_the_family_that_was_asked_for() {
        let addresses_of = |kind| {
            let list = ["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
            addresses(&from_addresses(&name("db").unwrap(), kind, &list).unwrap())
        };
        assert_eq!(addresses_of(RecordType::A), ["10.0.0.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(addresses_of(RecordType::AAAA), ["fd00::1".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn a_name_that_dns_cannot_carry_is_none() {
        for text in [".", "..", "a..b", &"a".repeat(64), &"abcdefg.".repeat(32)] {
            assert_eq!(name(text), None, "{text}");
        }
        assert_eq!(name("we!rd.na_me").unwrap(), name("We!rd.na_me.").unwrap());
    }
}
