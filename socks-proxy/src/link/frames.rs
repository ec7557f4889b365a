//! The bytes of a link: the hello of each side and the frames after it. Sans I/O.
//!
//! ```text
//! client hello   "tp-link1" token[32]
//! server hello   "tp-link" status[1] flags[1]
//! frame          type[1] length[3, big-endian] payload[length]
//! ```
//! DATA carries bytes of the stream above; how many came before is implied by the lengths, so that the link can one
//! day be resumed. PING and PONG carry 8 bytes that the receiver does not interpret.
#![deny(clippy::indexing_slicing)]

/// Start of the client's hello. Its first byte is how the agent knows a link from plain SOCKS5.
pub const CLIENT_MAGIC: [u8; 8] = *b"tp-link1";
/// Start of the server's hello.
pub const SERVER_MAGIC: [u8; 7] = *b"tp-link";
/// Bytes of a token.
pub const TOKEN_LEN: usize = 32;
/// Bytes of the client's hello.
pub const CLIENT_HELLO_LEN: usize = CLIENT_MAGIC.len() + TOKEN_LEN;
/// Bytes of the server's hello.
pub const SERVER_HELLO_LEN: usize = SERVER_MAGIC.len() + 2;
/// Bytes of a frame's header.
pub const HEADER_LEN: usize = 4;
/// Most payload bytes of a DATA frame.
pub const DATA_MAX: usize = 64 * 1024;
/// Payload bytes of PING and PONG.
pub const PING_LEN: usize = 8;

/// What the pod has, as the server's hello tells it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// The pod has a global IPv4 address.
    pub ipv4: bool,
    /// The pod has a global IPv6 address.
    pub ipv6: bool,
}

impl Flags {
    /// The flags' byte on the wire.
    #[must_use]
    pub fn byte(self) -> u8 {
        u8::from(self.ipv4) | u8::from(self.ipv6) << 1
    }

    /// The flags of a byte; bits that are not known are for later versions.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Self {
        Self { ipv4: byte & 1 != 0, ipv6: byte & 2 != 0 }
    }
}

/// What a frame header announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// So many bytes of the stream above follow.
    Data(usize),
    /// [`PING_LEN`] bytes follow, to be sent back.
    Ping,
    /// [`PING_LEN`] bytes follow, which were once sent.
    Pong,
}

impl Header {
    /// The header as bytes.
    #[must_use]
    pub fn encode(self) -> [u8; HEADER_LEN] {
        let (kind, length) = match self {
            Self::Data(length) => (0, length.min(DATA_MAX)),
            Self::Ping => (1, PING_LEN),
            Self::Pong => (2, PING_LEN),
        };
        let [_, a, b, c] = u32::try_from(length).unwrap_or(0).to_be_bytes();
        [kind, a, b, c]
    }

    /// The header of these bytes; `None` if no version of the protocol has it.
    #[must_use]
    pub fn decode(bytes: [u8; HEADER_LEN]) -> Option<Self> {
        let [kind, a, b, c] = bytes;
        let length = usize::try_from(u32::from_be_bytes([0, a, b, c])).ok()?;
        match kind {
            0 if length <= DATA_MAX => Some(Self::Data(length)),
            1 if length == PING_LEN => Some(Self::Ping),
            2 if length == PING_LEN => Some(Self::Pong),
            _ => None,
        }
    }
}

/// The client's hello.
#[must_use]
pub fn client_hello(token: &[u8; TOKEN_LEN]) -> Vec<u8> {
    let mut hello = CLIENT_MAGIC.to_vec();
    hello.extend(token);
    hello
}

/// The token of a client's hello; `None` if it is none.
#[must_use]
pub fn token_of(hello: &[u8; CLIENT_HELLO_LEN]) -> Option<&[u8; TOKEN_LEN]> {
    let (magic, token) = hello.split_first_chunk()?;
    (*magic == CLIENT_MAGIC).then(|| token.first_chunk()).flatten()
}

/// The server's hello; `None` for the flags means that the token is refused.
#[must_use]
pub fn server_hello(accepted: Option<Flags>) -> [u8; SERVER_HELLO_LEN] {
    let [a, b, c, d, e, f, g] = SERVER_MAGIC;
    let (status, flags) = accepted.map_or((1, 0), |flags| (0, flags.byte()));
    [a, b, c, d, e, f, g, status, flags]
}

/// What a server's hello says: the flags, or `Some(None)` that it refused the token; `None` if it is no hello.
#[must_use]
pub fn answer_of(hello: &[u8; SERVER_HELLO_LEN]) -> Option<Option<Flags>> {
    let (magic, rest) = hello.split_first_chunk()?;
    match (*magic == SERVER_MAGIC, rest) {
        (true, [0, flags]) => Some(Some(Flags::from_byte(*flags))),
        (true, [1, _]) => Some(None),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_header_that_decodes_encodes_to_the_same_bytes(bytes in any::<[u8; 4]>()) {
            if let Some(header) = Header::decode(bytes) {
                prop_assert_eq!(header.encode(), bytes);
            }
        }

        #[test]
        fn a_data_header_tells_its_length(length in 0..=DATA_MAX) {
            prop_assert_eq!(Header::decode(Header::Data(length).encode()), Some(Header::Data(length)));
        }
    }

    #[test]
    fn a_frame_that_is_too_long_or_unknown_is_refused() {
        assert_eq!(Header::decode([0, 1, 0, 1]), None);
        assert_eq!(Header::decode([1, 0, 0, 9]), None);
        assert_eq!(Header::decode([3, 0, 0, 0]), None);
    }

    #[test]
    fn the_hellos_come_back_as_themselves() {
        let token = [9; TOKEN_LEN];
        let hello: [u8; CLIENT_HELLO_LEN] = client_hello(&token).try_into().unwrap();
        assert_eq!(token_of(&hello), Some(&token));
        assert_eq!(token_of(&[b't'; CLIENT_HELLO_LEN]), None);
        for flags in [Flags::default(), Flags { ipv4: true, ipv6: false }, Flags { ipv4: true, ipv6: true }] {
            assert_eq!(answer_of(&server_hello(Some(flags))), Some(Some(flags)));
        }
        assert_eq!(answer_of(&server_hello(None)), Some(None));
        assert_eq!(answer_of(b"tp-linkXY"), None);
        assert_eq!(answer_of(b"HTTP/1.1 "), None);
    }
}
