//! Messages between launcher and agent, for what SOCKS5 has no words for: each is a value in postcard's encoding, with its
//! length (32 bits, big-endian) in front.
//!
//! The encoding names neither fields nor types, so both sides are of one version: the launcher brings its agent along, and
//! agents of several people in one pod say theirs first ([`expose`](crate::expose)).
//!
//! Invariants: nothing is kept for a length that is not allowed; bytes that are left over make a message invalid.

use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Sends one message.
///
/// # Errors
/// The stream's; `InvalidInput` for a value that cannot be encoded, which none of ours is.
pub async fn write<T: Serialize>(stream: &mut (impl AsyncWrite + Unpin), message: &T) -> io::Result<()> {
    stream.write_all(&encode(message)?).await?;
    stream.flush().await
}

/// Receives one message of at most `max` bytes. Not cancel safe.
///
/// # Errors
/// The stream's; `UnexpectedEof` at its end; `InvalidData` for a message that is longer or means nothing.
pub async fn read<T: DeserializeOwned>(stream: &mut (impl AsyncRead + Unpin), max: usize) -> io::Result<T> {
    let length = usize::try_from(stream.read_u32().await?).unwrap_or(usize::MAX);
    if length > max {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a message of {length} bytes where {max} are allowed"),
        ));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    decode(&body)
}

/// A message as it is sent, its length in front.
///
/// # Errors
/// As [`write()`].
pub fn encode<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    let invalid = |error| io::Error::new(io::ErrorKind::InvalidInput, error);
    let mut bytes = postcard::serialize_with_flavor(message, Bytes(vec![0; 4])).map_err(invalid)?;
    let length = u32::try_from(bytes.len().saturating_sub(4)).unwrap_or(u32::MAX);
    if let Some(place) = bytes.first_chunk_mut() {
        *place = length.to_be_bytes();
    }
    Ok(bytes)
}

/// Where a message is put. The library's own place for this takes a megabyte of a file byte by byte.
struct Bytes(Vec<u8>);

impl postcard::ser_flavors::Flavor for Bytes {
    type Output = Vec<u8>;

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<Vec<u8>> {
        Ok(self.0)
    }
}

/// A message without its length.
///
/// # Errors
/// `InvalidData` when the bytes are not exactly one.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> io::Result<T> {
    let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    match postcard::take_from_bytes(body).map_err(invalid)? {
        (message, []) => Ok(message),
        (_, rest) => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a message with {} bytes left over", rest.len()),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn messages_follow_each_other_and_end_with_the_stream() {
        let (mut one, mut other) = tokio::io::duplex(64);
        tokio::spawn(async move {
            for text in ["", "first", "and second"] {
                write(&mut one, &text).await.unwrap();
            }
        });
        for text in ["", "first", "and second"] {
            assert_eq!(read::<String>(&mut other, 64).await.unwrap(), text);
        }
        assert_eq!(read::<String>(&mut other, 64).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn a_message_too_long_or_too_short_is_none() {
        let long = encode(&"x".repeat(65)).unwrap();
        assert_eq!(read::<String>(&mut &long[..], 64).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(decode::<String>(b"\x01ab").unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(decode::<String>(b"\x05ab").unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
