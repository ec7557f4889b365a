//! A body on its way: how many of the next bytes are its own.

use thiserror::Error;

/// Longest line of a chunk's size, and all trailers together, in bytes.
const LINES_MAX: usize = 64 * 1024;

/// What was sent can be read in several ways, or in none.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("a message without a clear end")]
pub struct Broken;

/// What is left of a message's body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// So many bytes.
    Sized(u64),
    /// Chunks (RFC 9112 7.1).
    Chunked(Chunks),
    /// Everything until the connection's end.
    UntilEnd,
}

/// Where in the chunks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunks {
    at: Place,
    /// Bytes of lines since the last chunk's data.
    line: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// In a size, with so many digits read.
    Size {
        size: u64,
        digits: u8,
    },
    /// Behind a size, before an extension or the line's end.
    Blank {
        size: u64,
    },
    /// In extensions.
    Extension {
        size: u64,
    },
    /// Behind the CR of a size's line.
    SizeEnd {
        size: u64,
    },
    /// In a chunk.
    Data(u64),
    /// Behind a chunk: CR, LF.
    DataEnd,
    DataLineEnd,
    /// At the start of a trailer's line, or of the empty line.
    Trailer,
    /// In a trailer's line.
    TrailerLine,
    /// Behind its CR.
    TrailerLineEnd,
    /// Behind the empty line's CR.
    LastLineEnd,
    Over,
}

impl Body {
    /// Chunks, from the first one.
    #[must_use]
    pub const fn chunked() -> Self {
        Self::Chunked(Chunks { at: Place::Size { size: 0, digits: 0 }, line: 0 })
    }

    /// Nothing of it is left.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        matches!(self, Self::Sized(0) | Self::Chunked(Chunks { at: Place::Over, .. }))
    }

    /// How many of these bytes, from the first on, are the body's; they count as gone then.
    ///
    /// # Errors
    /// [`Broken`]: where the body ends cannot be known any more.
    pub fn take(&mut self, bytes: &[u8]) -> Result<usize, Broken> {
        match self {
            Self::Sized(left) => Ok(take_of(left, bytes)),
            Self::Chunked(chunks) => chunks.take(bytes),
            Self::UntilEnd => Ok(bytes.len()),
        }
    }
}

fn take_of(left: &mut u64, bytes: &[u8]) -> usize {
    let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
    *left = left.saturating_sub(u64::try_from(taken).unwrap_or(u64::MAX));
    taken
}

impl Chunks {
    fn take(&mut self, bytes: &[u8]) -> Result<usize, Broken> {
        let mut taken: usize = 0;
        while let Some(&byte) = bytes.get(taken) {
            match &mut self.at {
                Place::Over => break,
                Place::Data(left) => {
                    let rest = bytes.get(taken..).unwrap_or_default();
                    taken = taken.saturating_add(take_of(left, rest));
                    if *left == 0 {
                        *self = Self { at: Place::DataEnd, line: 0 };
                    }
                }
                _ => {
                    self.line = self.line.saturating_add(1);
                    self.at = self.at.after(byte).filter(|_| self.line <= LINES_MAX).ok_or(Broken)?;
                    taken = taken.saturating_add(1);
                }
            }
        }
        Ok(taken)
    }
}

impl Place {
    /// Where a byte of a line leads; `None`: nowhere.
    fn after(&self, byte: u8) -> Option<Self> {
        Some(match (self, byte) {
            (&Self::Size { size, digits }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = char::from(byte).to_digit(16)?;
                // Sixteen digits are all that 64 bits have, zeros in front included.
                let digits = digits.checked_add(1).filter(|&digits| digits <= 16)?;
                Self::Size { size: size.checked_mul(16)?.checked_add(digit.into())?, digits }
            }
            (&Self::Size { size, digits: 1.. } | &Self::Blank { size }, b';') => Self::Extension { size },
            (&Self::Size { size, digits: 1.. } | &Self::Blank { size }, b' ' | b'\t') => Self::Blank { size },
            (
                &Self::Size { size, digits: 1.. } | &Self::Blank { size } | &Self::Extension { size },
                b'\r',
            ) => Self::SizeEnd { size },
            (&Self::Extension { size }, b'\t' | b' '..=b'~' | 0x80..) => Self::Extension { size },
            (Self::SizeEnd { size: 0 }, b'\n') => Self::Trailer,
            (&Self::SizeEnd { size }, b'\n') => Self::Data(size),
            (Self::DataEnd, b'\r') => Self::DataLineEnd,
            (Self::DataLineEnd, b'\n') => Self::Size { size: 0, digits: 0 },
            (Self::Trailer, b'\r') => Self::LastLineEnd,
            // A folded line, or one without a name.
            (Self::Trailer, b' ' | b'\t' | b':') => return None,
            (Self::TrailerLine, b'\r') => Self::TrailerLineEnd,
            (Self::Trailer | Self::TrailerLine, b'\t' | b' '..=b'~' | 0x80..) => Self::TrailerLine,
            (Self::TrailerLineEnd, b'\n') => Self::Trailer,
            (Self::LastLineEnd, b'\n') => Self::Over,
            _ => return None,
        })
    }
}
