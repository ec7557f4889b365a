use super::*;

const V4: Address = Address { ip: Ip::V4([10, 96, 0, 7]), port: 80, scope: 0 };
const V6: Address =
    Address { ip: Ip::V6([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]), port: 443, scope: 3 };

#[test]
fn every_question_comes_back_as_itself() {
    for question in [
        Question::Connect { cookie: 7, asked: V4, v6_socket: true },
        Question::Connect { cookie: u64::MAX, asked: V6, v6_socket: false },
        Question::Peer { cookie: 1 },
        Question::Why { cookie: 2 },
        Question::Lookup { want: WANT_V4 | WANT_V6, name: b"backend" },
        Question::Lookup { want: WANT_V6, name: b"" },
        Question::Reverse { address: V6 },
        Question::Exec,
        Question::Opened { cookie: 8, asked: V6 },
        Question::Resolver,
        Question::Nameserver { address: V4 },
        Question::Local { v6: true },
        Question::Flow { asked: V6 },
        Question::Connected { cookie: 3, fd: -1, asked: V4 },
        Question::Relayed { relay: V4 },
        Question::Enter,
        Question::Trapped { listener: 7 },
    ] {
        let mut buffer = [0; MESSAGE_MAX];
        let length = question.encode(&mut buffer).unwrap();
        assert_eq!(Question::decode(&buffer[..length]), Some(question));
        assert_eq!(Question::decode(&buffer[..length - 1]), None);
        assert_eq!(Question::decode(&buffer[..length + 1]), None);
    }
}

#[test]
fn every_answer_comes_back_as_itself() {
    let mut list = [0; 2 * ADDRESS_LEN];
    let at = put_address(&mut list, 0, V4).unwrap();
    assert_eq!(put_address(&mut list, at, V6), Some(2 * ADDRESS_LEN));
    let addresses = AddressList::new(&list);
    assert!(addresses.eq([V4, V6]));
    for answer in [
        Answer::Pass,
        Answer::Errno(111),
        Answer::Park(V4),
        Answer::Peer(V6),
        Answer::Addresses {
            seconds: 30,
            canonical: b"backend.default.svc.cluster.local",
            aliases: b"a\0bc\0",
            addresses,
        },
        Answer::Addresses { seconds: 0, canonical: b"", aliases: b"", addresses: AddressList::new(&[]) },
        Answer::Failed(errno_of_a_missing_name()),
        Answer::Name(b"kubernetes.default.svc.cluster.local"),
        Answer::Resolver(Resolver {
            options: 0x4000,
            timeout: 5,
            attempts: 2,
            ndots: 5,
            nameservers: addresses,
            search: b"svc.cluster.local\0cluster.local\0",
        }),
        Answer::Nameserver(V6),
        Answer::Local(V6),
        Answer::Relay { relay: V4, connected: true },
        Answer::Relay { relay: V6, connected: false },
        Answer::Enter(c"/usr/lib/tp/tp-inside"),
        Answer::Namespaces,
        Answer::Trap,
    ] {
        let mut buffer = [0; MESSAGE_MAX];
        let length = answer.encode(&mut buffer).unwrap();
        assert_eq!(Answer::decode(&buffer[..length]), Some(answer));
    }
}

fn errno_of_a_missing_name() -> i32 {
    crate::errno::eai::NONAME
}

#[test]
fn the_largest_answer_fits_one_message() {
    let mut list = [0; ADDRESSES_MAX * ADDRESS_LEN];
    let mut at = 0;
    for _ in 0..ADDRESSES_MAX {
        at = put_address(&mut list, at, V6).unwrap();
    }
    let answer = Answer::Addresses {
        seconds: u32::MAX,
        canonical: &[b'a'; NAME_MAX],
        aliases: b"",
        addresses: AddressList::new(&list[..at]),
    };
    assert!(answer.encode(&mut [0; MESSAGE_MAX]).is_some());
}

#[test]
fn a_family_that_is_neither_is_refused() {
    let mut buffer = [0; MESSAGE_MAX];
    let length = Answer::Park(V4).encode(&mut buffer).unwrap();
    buffer[HEADER_LEN] = 5;
    assert_eq!(Answer::decode(&buffer[..length]), None);
}

#[test]
fn a_message_does_not_outgrow_its_buffer() {
    assert_eq!(Question::Exec.encode(&mut [0; 7]), None);
    assert_eq!(Answer::Name(b"abc").encode(&mut [0; 10]), None);
}
