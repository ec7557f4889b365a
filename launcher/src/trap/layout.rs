//! Messages as they lie in a program's memory: `struct msghdr`, `struct mmsghdr`, `struct iovec` and control messages
//! (sendmsg(2), cmsg(3)), of 64-bit and of 32-bit programs.
//!
//! Pure; takes any bytes. What is not there is [`None`], and what is too long is left to the kernel to refuse.

/// How wide a program's pointers and lengths are in its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// i386.
    W32,
    /// All others.
    W64,
}

/// A place in a program's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Its address.
    pub at: u64,
    /// Its bytes.
    pub length: u64,
}

/// The kernel takes no more parts of one message (`UIO_MAXIOV`).
pub const PARTS_MAX: u64 = 1024;

/// A message's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its address: `msg_name`.
    pub name: Block,
    /// Where its parts are described, and how many there are.
    pub parts: Block,
    /// Its control messages.
    pub control: Block,
}

impl Width {
    /// Bytes of a pointer, and of a `size_t`.
    const fn word(self) -> usize {
        match self {
            Self::W32 => 4,
            Self::W64 => 8,
        }
    }

    /// Bytes of a `struct msghdr`.
    #[must_use]
    pub const fn header(self) -> usize {
        self.flags_at() as usize + self.word()
    }

    /// Bytes from one `struct mmsghdr` to the next.
    #[must_use]
    pub const fn next_header(self) -> u64 {
        (self.header() + self.word()) as u64
    }

    /// Where `msg_len` is in a `struct mmsghdr`.
    #[must_use]
    pub const fn length_at(self) -> u64 {
        self.header() as u64
    }

    /// Where `msg_namelen` is in a `struct msghdr`.
    #[must_use]
    pub const fn name_length_at(self) -> u64 {
        self.word() as u64
    }

    /// Where `msg_controllen` is in a `struct msghdr`.
    #[must_use]
    pub const fn control_length_at(self) -> u64 {
        5 * self.word() as u64
    }

    /// Where `msg_flags` is in a `struct msghdr`.
    #[must_use]
    pub const fn flags_at(self) -> u64 {
        6 * self.word() as u64
    }

    /// Bytes of a `struct iovec`.
    #[must_use]
    pub const fn part(self) -> usize {
        2 * self.word()
    }

    /// A `size_t` as it lies in memory.
    #[must_use]
    pub fn size(self, size: usize) -> Vec<u8> {
        size.to_ne_bytes().iter().take(self.word()).copied().collect()
    }

    /// The word that begins at byte `at`.
    fn read(self, bytes: &[u8], at: usize) -> Option<u64> {
        let bytes = bytes.get(at..)?;
        Some(match self {
            Self::W32 => u32::from_ne_bytes(*bytes.first_chunk()?).into(),
            Self::W64 => u64::from_ne_bytes(*bytes.first_chunk()?),
        })
    }
}

/// Reads a `struct msghdr`.
#[must_use]
pub fn header(width: Width, bytes: &[u8]) -> Option<Header> {
    let word = |number: usize| width.read(bytes, number * width.word());
    let name_length = u32::from_ne_bytes(*bytes.get(width.word()..)?.first_chunk()?);
    let block = |at, length| Block { at, length };
    let header = Header {
        name: block(word(0)?, name_length.into()),
        parts: block(word(2)?, word(3)?),
        control: block(word(4)?, word(5)?),
    };
    bytes.get(..width.header()).map(|_whole| header)
}

/// Reads as many `struct iovec` as there are in `bytes`.
#[must_use]
pub fn parts(width: Width, bytes: &[u8]) -> Vec<Block> {
    let part =
        |part: &[u8]| Some(Block { at: width.read(part, 0)?, length: width.read(part, width.word())? });
    bytes.chunks_exact(width.part()).filter_map(part).collect()
}

/// Control messages of one width as those of another. What is none ends them.
#[must_use]
pub fn control(from: Width, to: Width, mut bytes: &[u8]) -> Vec<u8> {
    if from == to {
        return bytes.to_vec();
    }
    // A header is the length, the level and the type.
    let head = |width: Width| width.word() + 8;
    let mut converted = Vec::new();
    while let Some(length) = from.read(bytes, 0).and_then(|length| usize::try_from(length).ok()) {
        let Some(message) = bytes.get(..length).filter(|message| message.len() >= head(from)) else { break };
        let kind_and_body = message.get(from.word()..).unwrap_or_default();
        converted.extend(to.size(to.word() + kind_and_body.len()));
        converted.extend(kind_and_body);
        converted.resize(converted.len().next_multiple_of(to.word()), 0);
        bytes = bytes.get(length.next_multiple_of(from.word())..).unwrap_or_default();
    }
    converted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(width: Width, words: &[usize]) -> Vec<u8> {
        words.iter().flat_map(|word| width.size(*word)).collect()
    }

    #[test]
    fn a_header_is_read_as_its_program_wrote_it() {
        for width in [Width::W32, Width::W64] {
            let bytes = words(width, &[0x1000, 28, 0x2000, 3, 0x3000, 40, 0]);
            assert_eq!(bytes.len(), width.header());
            let header = header(width, &bytes).unwrap();
            assert_eq!(header.name, Block { at: 0x1000, length: 28 });
            assert_eq!(header.parts, Block { at: 0x2000, length: 3 });
            assert_eq!(header.control, Block { at: 0x3000, length: 40 });
            assert_eq!(super::header(width, &bytes[..bytes.len() - 1]), None);
        }
        assert_eq!(Width::W64.header(), size_of::<libc::msghdr>());
        assert_eq!(Width::W64.next_header(), size_of::<libc::mmsghdr>() as u64);
        assert_eq!((Width::W32.header(), Width::W32.next_header()), (28, 32));
    }

    #[test]
    fn the_fields_are_where_the_header_says() {
        assert_eq!(Width::W64.name_length_at() as usize, std::mem::offset_of!(libc::msghdr, msg_namelen));
        assert_eq!(
            Width::W64.control_length_at() as usize,
            std::mem::offset_of!(libc::msghdr, msg_controllen)
        );
        assert_eq!(Width::W64.flags_at() as usize, std::mem::offset_of!(libc::msghdr, msg_flags));
        assert_eq!(Width::W64.length_at() as usize, std::mem::offset_of!(libc::mmsghdr, msg_len));
    }

    /// The saved inputs of the fuzz target of this name.
    #[test]
    fn any_bytes_are_read() {
        let saved = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/layout")).unwrap();
        let mut count = 0;
        for file in saved {
            let data = std::fs::read(file.unwrap().path()).unwrap();
            for width in [Width::W32, Width::W64] {
                assert_eq!(header(width, &data).is_some(), data.len() >= width.header());
                assert_eq!(parts(width, &data).len(), data.len() / width.part());
            }
            let wide = control(Width::W32, Width::W64, &data);
            assert_eq!(control(Width::W32, Width::W64, &control(Width::W64, Width::W32, &wide)), wide);
            count += 1;
        }
        assert!(count > 0);
    }

    #[test]
    fn parts_are_whole_or_not_there() {
        let bytes = words(Width::W32, &[0x1000, 5, 0x2000, 7, 9]);
        let expected = [Block { at: 0x1000, length: 5 }, Block { at: 0x2000, length: 7 }];
        assert_eq!(parts(Width::W32, &bytes), expected);
    }

    #[test]
    fn control_messages_change_their_heads_alone() {
        let message = |width: Width, body: &[u8]| {
            let mut bytes = width.size(width.word() + 8 + body.len());
            bytes.extend([0, 0, 0, 0, 8, 0, 0, 0]);
            bytes.extend(body);
            bytes.resize(bytes.len().next_multiple_of(width.word()), 0);
            bytes
        };
        let both = |width| [message(width, &[1; 12]), message(width, &[2; 5])].concat();
        assert_eq!(control(Width::W32, Width::W64, &both(Width::W32)), both(Width::W64));
        assert_eq!(control(Width::W64, Width::W32, &both(Width::W64)), both(Width::W32));
        assert_eq!(control(Width::W64, Width::W64, &[1, 2, 3]), [1, 2, 3]);
        for broken in [&[0; 12][..], &[255; 16], &[16, 0], &[]] {
            assert!(control(Width::W32, Width::W64, broken).is_empty());
        }
    }
}
