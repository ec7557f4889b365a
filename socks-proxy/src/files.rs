//! The pod's `/etc/resolv.conf` and `/etc/hosts`, as the answer to RESOLVER carries them.
//!
//! Programs read these files by themselves (c-ares, Go, Java, dig), so the launcher needs them as they are, byte by
//! byte: each with its length (32 bits, big-endian) in front. What follows them is left to later versions.
#![deny(clippy::indexing_slicing)]

/// Longest file in bytes; the kubelet's are below one tenth of it. What is longer is cut at the end of a line.
pub const FILE_MAX: usize = 64 * 1024;

/// Longest encoding in bytes.
pub const ENCODED_MAX: usize = 2 * (4 + FILE_MAX);

/// The two files' contents; a file that is missing is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// resolv.conf(5).
    pub resolv_conf: Vec<u8>,
    /// hosts(5).
    pub hosts: Vec<u8>,
}

impl Files {
    /// The bytes after RESOLVER's reply.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for file in [&self.resolv_conf, &self.hosts] {
            let lines = whole_lines(file);
            out.extend(u32::try_from(lines.len()).unwrap_or_default().to_be_bytes());
            out.extend(lines);
        }
        out
    }

    /// Reads the two files; `None` if they are not whole, or longer than [`FILE_MAX`].
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        let mut file = || {
            let (length, after) = rest.split_first_chunk()?;
            let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
            let (file, after) = after.split_at_checked(length).filter(|_| length <= FILE_MAX)?;
            rest = after;
            Some(file.to_vec())
        };
        Some(Self { resolv_conf: file()?, hosts: file()? })
    }
}

fn whole_lines(file: &[u8]) -> &[u8] {
    match file.get(..FILE_MAX) {
        Some(start) if file.len() > FILE_MAX => {
            let end = start.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            start.get(..end).unwrap_or_default()
        }
        _ => file,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_come_back_as_they_were_and_half_of_them_does_not() {
        let files = Files { resolv_conf: b"nameserver 10.96.0.10\n".to_vec(), hosts: Vec::new() };
        let mut bytes = files.encode();
        assert_eq!(Files::decode(&bytes), Some(files.clone()));
        for length in 0..bytes.len() {
            assert_eq!(Files::decode(&bytes[..length]), None);
        }
        bytes.extend(b"of a later version");
        assert_eq!(Files::decode(&bytes), Some(files));
        assert_eq!(Files::decode(&[0xff; 100]), None);
    }

    #[test]
    fn a_file_without_end_is_cut_at_a_line() {
        let hosts = b"10.0.0.1 a\n".repeat(FILE_MAX / 10);
        let files = Files { resolv_conf: vec![b'x'; FILE_MAX + 1], hosts };
        let bytes = files.encode();
        assert!(bytes.len() <= ENCODED_MAX);
        let read = Files::decode(&bytes).unwrap();
        assert!(
            read.resolv_conf.is_empty() && read.hosts.ends_with(b" a\n") && read.hosts.len() > FILE_MAX - 12
        );
    }
}
