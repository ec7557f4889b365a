use proptest::prelude::*;

use super::*;

/// How much of some bytes a body takes when they come at once; `None`: it breaks.
fn at_once(mut body: Body, bytes: &[u8]) -> Option<(usize, bool)> {
    let taken = body.take(bytes).ok()?;
    Some((taken, body.is_complete()))
}

/// The same, when they come in pieces.
fn in_pieces(mut body: Body, bytes: &[u8], pieces: &[usize]) -> Option<(usize, bool)> {
    let (mut taken, mut pieces) = (0, pieces.iter().cycle());
    while taken < bytes.len() && !body.is_complete() {
        let end = bytes.len().min(taken + pieces.next().unwrap());
        let now = body.take(&bytes[taken..end]).ok()?;
        assert!(now <= end - taken && (now == end - taken || body.is_complete()));
        taken += now;
    }
    Some((taken, body.is_complete()))
}

proptest! {
    #[test]
    fn a_body_says_the_same_however_it_is_cut(
        bytes in prop::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'0'), Just(b'1'), Just(b';'), any::<u8>()], 0..200),
        pieces in prop::collection::vec(1..9_usize, 1..9),
        size in 0..300_u64,
    ) {
        for body in [Body::chunked(), Body::Sized(size), Body::UntilEnd] {
            prop_assert_eq!(at_once(body.clone(), &bytes), in_pieces(body, &bytes, &pieces));
        }
    }

    #[test]
    fn chunks_end_where_they_end(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..50), 0..5),
        behind in prop::collection::vec(any::<u8>(), 0..20),
        pieces in prop::collection::vec(1..9_usize, 1..9),
    ) {
        let mut bytes = Vec::new();
        for chunk in &chunks {
            bytes.extend(format!("{:X} ; x\r\n", chunk.len()).bytes());
            bytes.extend(chunk);
            bytes.extend(b"\r\n");
        }
        bytes.extend(b"0\r\nA: b\r\n\r\n");
        let length = bytes.len();
        bytes.extend(behind);
        prop_assert_eq!(at_once(Body::chunked(), &bytes), Some((length, true)));
        prop_assert_eq!(in_pieces(Body::chunked(), &bytes, &pieces), Some((length, true)));
    }
}

#[test]
fn a_head_is_partial_until_it_is_whole() {
    let head = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\n\r\n";
    for end in 0..head.len() {
        assert_eq!(request(&head[..end], |_, _| ()), Found::Partial, "{end}");
    }
    let Found::Whole((whole, target)) = request(head, |target, _| target.to_vec()) else { panic!("whole") };
    assert_eq!((whole.length, whole.body, target), (head.len(), Body::Sized(12), b"/x".to_vec()));
    assert!(whole.persistent && !whole.expects);
}

#[test]
fn lines_without_an_end_are_not_kept_for_good() {
    for start in ["1;", "0\r\nX: "] {
        let mut body = Body::chunked();
        body.take(start.as_bytes()).unwrap();
        assert_eq!(body.take(&vec![b'x'; HEAD_MAX_IN_TEST]), Err(Broken));
    }
}

const HEAD_MAX_IN_TEST: usize = 65 * 1024;
