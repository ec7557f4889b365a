//! How the parts of a message are written and read.
//!
//! Both ends must survive whatever the other sends: nothing here indexes, and a length is believed only if the bytes are
//! there.

use core::ffi::CStr;

use super::{ADDRESS_LEN, Address, AddressList, HEADER_LEN, Ip, MAGIC, MESSAGE_MAX, NAME_MAX, Resolver};

const FAMILY_V4: u8 = 4;
const FAMILY_V6: u8 = 6;

/// Appends one encoded address at `at` and gives the place after it; [`None`] if it does not fit.
#[must_use]
pub fn put_address(buffer: &mut [u8], at: usize, address: Address) -> Option<usize> {
    let mut writer = Writer { buffer, at };
    writer.address(address)?;
    Some(writer.at)
}

pub(super) struct Writer<'b> {
    buffer: &'b mut [u8],
    at: usize,
}

impl<'b> Writer<'b> {
    pub(super) fn new(buffer: &'b mut [u8]) -> Option<Self> {
        (buffer.len() >= HEADER_LEN).then_some(Self { buffer, at: HEADER_LEN })
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> Option<()> {
        let end = self.at.checked_add(bytes.len())?;
        let place = self.buffer.get_mut(self.at..end)?;
        for (to, from) in place.iter_mut().zip(bytes) {
            *to = *from;
        }
        self.at = end;
        Some(())
    }

    pub(super) fn short_name(&mut self, name: &[u8]) -> Option<()> {
        self.bytes(&[u8::try_from(name.len()).ok()?])?;
        self.bytes(name)
    }

    pub(super) fn address(&mut self, address: Address) -> Option<()> {
        let (family, bytes) = match address.ip {
            Ip::V4([a, b, c, d]) => (FAMILY_V4, [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            Ip::V6(bytes) => (FAMILY_V6, bytes),
        };
        self.bytes(&[family, 0])?;
        self.bytes(&address.port.to_ne_bytes())?;
        self.bytes(&address.scope.to_ne_bytes())?;
        self.bytes(&bytes)
    }

    pub(super) fn resolver(&mut self, resolver: Resolver<'_>) -> Option<()> {
        self.bytes(&resolver.options.to_ne_bytes())?;
        let nameservers = u8::try_from(resolver.nameservers.0.len() / ADDRESS_LEN).ok()?;
        self.bytes(&[resolver.timeout, resolver.attempts, resolver.ndots, nameservers])?;
        self.bytes(resolver.nameservers.0)?;
        self.bytes(resolver.search)
    }

    pub(super) fn finish(mut self, kind: u16) -> Option<usize> {
        let end = self.at;
        if end > MESSAGE_MAX {
            return None;
        }
        let length = u16::try_from(end.checked_sub(HEADER_LEN)?).ok()?;
        self.at = 0;
        self.bytes(&MAGIC.to_ne_bytes())?;
        self.bytes(&kind.to_ne_bytes())?;
        self.bytes(&length.to_ne_bytes())?;
        Some(end)
    }
}

pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn message(message: &'a [u8]) -> Option<(u16, Self)> {
        if message.len() > MESSAGE_MAX {
            return None;
        }
        let mut reader = Self(message);
        if u32::from_ne_bytes(reader.array()?) != MAGIC {
            return None;
        }
        let kind = u16::from_ne_bytes(reader.array()?);
        let length = usize::from(u16::from_ne_bytes(reader.array()?));
        (reader.0.len() == length).then_some((kind, reader))
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    pub(super) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(head)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn bool(&mut self) -> Option<bool> {
        match self.u8()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    pub(super) fn i32(&mut self) -> Option<i32> {
        self.array().map(i32::from_ne_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_ne_bytes)
    }

    /// The rest of the body, as a name.
    pub(super) fn name(&mut self) -> Option<&'a [u8]> {
        if self.0.len() > NAME_MAX {
            return None;
        }
        self.take(self.0.len())
    }

    /// The rest of the body, as a path with a NUL after it.
    pub(super) fn path(&mut self) -> Option<&'a CStr> {
        CStr::from_bytes_with_nul(self.take(self.0.len())?).ok()
    }

    pub(super) fn address(&mut self) -> Option<Address> {
        let [family, _reserved] = self.array()?;
        let port = u16::from_ne_bytes(self.array()?);
        let scope = u32::from_ne_bytes(self.array()?);
        let bytes: [u8; 16] = self.array()?;
        let ip = match family {
            FAMILY_V4 => Ip::V4(*bytes.first_chunk()?),
            FAMILY_V6 => Ip::V6(bytes),
            _ => return None,
        };
        Some(Address { ip, port, scope })
    }

    pub(super) fn addresses(&mut self, length: usize) -> Option<AddressList<'a>> {
        let bytes = self.take(length)?;
        if !bytes.len().is_multiple_of(ADDRESS_LEN) {
            return None;
        }
        for chunk in bytes.chunks_exact(ADDRESS_LEN) {
            Reader(chunk).address()?;
        }
        Some(AddressList(bytes))
    }

    /// Names with a NUL after each.
    pub(super) fn names(&mut self, length: usize) -> Option<&'a [u8]> {
        let names = self.take(length)?;
        names.last().is_none_or(|last| *last == 0).then_some(names)
    }

    pub(super) fn resolver(&mut self) -> Option<Resolver<'a>> {
        let options = u32::from_ne_bytes(self.array()?);
        let [timeout, attempts, ndots, nameservers] = self.array()?;
        let nameservers = self.addresses(usize::from(nameservers).checked_mul(ADDRESS_LEN)?)?;
        let search = self.names(self.0.len())?;
        Some(Resolver { options, timeout, attempts, ndots, nameservers, search })
    }

    pub(super) fn end(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}
