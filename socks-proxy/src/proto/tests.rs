//! Round trips over all values, every prefix, and the conversations with a server.

use proptest::prelude::*;

use super::*;

fn targets() -> impl Strategy<Value = Target> {
    prop_oneof![
        (any::<[u8; 4]>(), any::<u16>()).prop_map(|(ip, port)| Target::Ip((ip, port).into())),
        (any::<[u8; 16]>(), any::<u16>()).prop_map(|(ip, port)| Target::Ip((ip, port).into())),
        ("[!-~]{1,255}", any::<u16>()).prop_map(|(name, port)| Target::Name(name, port)),
    ]
}

proptest! {
    #[test]
    fn a_request_comes_back_as_itself_and_leaves_what_follows(
        command in any::<u8>(), target in targets(), after in any::<Vec<u8>>(),
    ) {
        let request = Request { command: Command::from_byte(command), target };
        let mut bytes = Vec::new();
        request.encode(&mut bytes).unwrap();
        let length = bytes.len();
        prop_assert!(length <= MESSAGE_MAX);
        for cut in 0..length {
            prop_assert_eq!(Request::decode(&bytes[..cut]), Ok(None));
        }
        bytes.extend(after);
        prop_assert_eq!(Request::decode(&bytes), Ok(Some((request, length))));
    }

    #[test]
    fn a_reply_comes_back_as_itself(code in any::<u8>(), bound in targets()) {
        let reply = Reply { code, bound };
        let mut bytes = Vec::new();
        reply.encode(&mut bytes).unwrap();
        for cut in 0..bytes.len() {
            prop_assert_eq!(Reply::decode(&bytes[..cut]), Ok(None));
        }
        prop_assert_eq!(Reply::decode(&bytes), Ok(Some((reply, bytes.len()))));
    }

    #[test]
    fn credentials_come_back_as_themselves(
        user in prop::collection::vec(any::<u8>(), 1..=255),
        password in prop::collection::vec(any::<u8>(), 1..=255),
    ) {
        let credentials = Credentials::new(user, password).unwrap();
        let mut bytes = Vec::new();
        credentials.encode(&mut bytes);
        prop_assert!(bytes.len() <= MESSAGE_MAX);
        for cut in 0..bytes.len() {
            prop_assert_eq!(decode_credentials(&bytes[..cut]), Ok(None));
        }
        prop_assert_eq!(decode_credentials(&bytes), Ok(Some((credentials, bytes.len()))));
    }

    #[test]
    fn no_bytes_break_a_decoder_or_keep_it_hungry(bytes in prop::collection::vec(any::<u8>(), MESSAGE_MAX..600)) {
        prop_assert!(!matches!(Request::decode(&bytes), Ok(None)));
        prop_assert!(!matches!(Reply::decode(&bytes), Ok(None)));
        prop_assert!(!matches!(decode_greeting(&bytes), Ok(None)));
        prop_assert!(!matches!(decode_credentials(&bytes), Ok(None)));
    }
}

#[test]
fn every_command_keeps_its_byte() {
    for byte in 0..=255 {
        assert_eq!(Command::from_byte(byte).byte(), byte);
    }
}

#[test]
fn a_name_that_no_host_has_is_not_encoded() {
    for name in [String::new(), "a".repeat(256), "sp ace".into(), "null\0".into(), "ümlaut".into()] {
        let mut out = vec![7];
        let request = Request::new(Command::Connect, Target::Name(name, 1));
        assert!(matches!(request.encode(&mut out), Err(ProtoError::Name { .. })));
        assert_eq!(out, [7]);
    }
}

#[test]
fn a_request_that_is_not_socks5_says_what_is_wrong() {
    assert_eq!(Request::decode(&[4, 1, 0]), Err(ProtoError::Version { got: 4, wanted: 5 }));
    assert_eq!(Request::decode(&[5, 1, 0, 2]), Err(ProtoError::AddressType(2)));
    assert_eq!(Request::decode(&[5, 1, 0, 3, 0, 0, 0]), Err(ProtoError::Name { length: 0 }));
}

fn to_backend() -> Request {
    Request::new(Command::Connect, Target::Name("backend".into(), 80))
}

#[test]
fn the_pipelined_client_sends_all_at_once_and_finds_its_reply_byte_by_byte() {
    let mut client = Client::pipelined(&to_backend()).unwrap();
    assert_eq!(client.output(), b"\x05\x01\x00\x05\x01\x00\x03\x07backend\x00\x50");
    let mut server = vec![5, 0];
    Reply::failed(5).encode(&mut server).unwrap();
    let mut kept = Vec::new();
    let mut done = None;
    for byte in server {
        assert_eq!(done, None);
        kept.push(byte);
        match client.input(&kept).unwrap() {
            Step::More(used) => drop(kept.drain(..used)),
            Step::Done(_, reply) => done = Some(reply),
        }
        assert!(client.output().is_empty());
    }
    assert_eq!(done, Some(Reply::failed(5)));
}

#[test]
fn the_negotiating_client_sends_credentials_only_when_asked() {
    let credentials = Credentials::new("me", "secret").unwrap();
    let mut client = Client::negotiated(Some(credentials), &to_backend()).unwrap();
    assert_eq!(client.output(), [5, 2, 0, 2]);
    assert_eq!(client.input(&[5, 2]), Ok(Step::More(2)));
    assert_eq!(client.output(), b"\x01\x02me\x06secret");
    assert_eq!(client.input(&[1, 0]), Ok(Step::More(2)));
    assert_eq!(client.output()[..3], [5, 1, 0]);
    let mut reply = Vec::new();
    Reply::succeeded().encode(&mut reply).unwrap();
    let length = reply.len();
    reply.extend(b"220 hello");
    assert_eq!(client.input(&reply), Ok(Step::Done(length, Reply::succeeded())));
}

#[test]
fn the_negotiating_client_says_why_it_was_turned_away() {
    let wrong = Credentials::new("me", "wrong").unwrap();
    let mut client = Client::negotiated(Some(wrong), &to_backend()).unwrap();
    assert_eq!(client.input(&[5, 2, 1, 1]), Err(ProtoError::Credentials(1)));
    let mut client = Client::negotiated(None, &to_backend()).unwrap();
    assert_eq!(client.input(&[5, 0xFF]), Err(ProtoError::NoMethod));
    let mut client = Client::negotiated(None, &to_backend()).unwrap();
    assert_eq!(client.input(&[5, 2]), Err(ProtoError::Method(2)));
    let mut client = Client::negotiated(None, &to_backend()).unwrap();
    assert_eq!(client.input(b"HTTP"), Err(ProtoError::Version { got: b'H', wanted: 5 }));
}

#[test]
fn credentials_do_not_show_in_debug_output() {
    let credentials = Credentials::new("me", "secret").unwrap();
    assert!(!format!("{credentials:?}").contains("secret"));
}
