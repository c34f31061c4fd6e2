//! The data representations of MQTT (MQTT 5, section 1.5): framing, integers, strings, variable byte integers.

use bytes::{BufMut, Bytes, BytesMut};

use super::DecodeError;

/// Largest remaining length that four bytes can say.
pub(crate) const REMAINING_MAX: usize = 268_435_455;

/// Where the next packet lies in the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame {
    /// Packet type and flags.
    pub(crate) first: u8,
    /// Bytes of the fixed header.
    pub(crate) header: usize,
    /// Bytes of the whole packet.
    pub(crate) total: usize,
}

/// Looks at the fixed header; `None` while it is not complete. The body may still be missing.
///
/// `minimal`: whether a length in more bytes than needed is an error. MQTT 5 (section 1.5.5) says so, 3.1.1 does not,
/// and some small clients pad it.
pub(crate) fn peek(buffer: &[u8], max: u32, minimal: bool) -> Result<Option<Frame>, DecodeError> {
    let Some((&first, rest)) = buffer.split_first() else { return Ok(None) };
    let mut len = 0usize;
    for (at, byte) in rest.iter().take(4).enumerate() {
        len |= usize::from(byte & 0x7F) << (7 * at);
        if byte & 0x80 == 0 {
            if minimal && at > 0 && *byte == 0 {
                return Err(DecodeError::Malformed("remaining length in more bytes than needed"));
            }
            let frame = Frame { first, header: at + 2, total: at + 2 + len };
            if frame.total as u64 > u64::from(max) {
                return Err(DecodeError::TooLarge { len: frame.total, max });
            }
            return Ok(Some(frame));
        }
    }
    if rest.len() >= 4 { Err(DecodeError::Malformed("remaining length in more than four bytes")) } else { Ok(None) }
}

/// Reads the body of one packet from front to back.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    shared: Option<&'a Bytes>,
}

const SHORT: DecodeError = DecodeError::Malformed("ends too early");

impl<'a> Reader<'a> {
    /// Reads bytes that will be copied out.
    pub(crate) fn copying(body: &'a [u8]) -> Self {
        Self { rest: body, shared: None }
    }

    /// Reads bytes whose binary data is shared instead of copied.
    pub(crate) fn sharing(body: &'a Bytes) -> Self {
        Self { rest: body, shared: Some(body) }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Everything that was not read yet.
    pub(crate) fn take_rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(SHORT)?;
        self.rest = rest;
        Ok(taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        let (&byte, rest) = self.rest.split_first().ok_or(SHORT)?;
        self.rest = rest;
        Ok(byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, DecodeError> {
        let (bytes, rest) = self.rest.split_first_chunk::<2>().ok_or(SHORT)?;
        self.rest = rest;
        Ok(u16::from_be_bytes(*bytes))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        let (bytes, rest) = self.rest.split_first_chunk::<4>().ok_or(SHORT)?;
        self.rest = rest;
        Ok(u32::from_be_bytes(*bytes))
    }

    /// A packet identifier; never 0 (section 2.2.1).
    pub(crate) fn packet_id(&mut self) -> Result<u16, DecodeError> {
        match self.u16()? {
            0 => Err(DecodeError::Protocol("packet identifier 0")),
            id => Ok(id),
        }
    }

    /// A variable byte integer (section 1.5.5); always in as few bytes as possible, for only MQTT 5 has them in a body.
    pub(crate) fn varint(&mut self) -> Result<u32, DecodeError> {
        let mut value = 0u32;
        for at in 0..4 {
            let byte = self.u8()?;
            value |= u32::from(byte & 0x7F) << (7 * at);
            if byte & 0x80 == 0 {
                if at > 0 && byte == 0 {
                    return Err(DecodeError::Malformed("variable byte integer in more bytes than needed"));
                }
                return Ok(value);
            }
        }
        Err(DecodeError::Malformed("variable byte integer in more than four bytes"))
    }

    /// Binary data (section 1.5.6).
    pub(crate) fn binary(&mut self) -> Result<&'a [u8], DecodeError> {
        let len = self.u16()?;
        self.take(usize::from(len))
    }

    /// A UTF-8 string (section 1.5.4): well formed (which excludes surrogates), without U+0000.
    pub(crate) fn text(&mut self) -> Result<&'a str, DecodeError> {
        let text = std::str::from_utf8(self.binary()?).map_err(|_| DecodeError::Malformed("text is not UTF-8"))?;
        if text.as_bytes().contains(&0) {
            return Err(DecodeError::Malformed("text contains the NUL character"));
        }
        Ok(text)
    }

    /// Makes bytes that were read outlive the packet: shared where the reader shares, copied otherwise.
    pub(crate) fn own(&self, part: &'a [u8]) -> Bytes {
        match self.shared {
            Some(shared) => shared.slice_ref(part),
            None => Bytes::copy_from_slice(part),
        }
    }

    /// Fails unless everything was read.
    pub(crate) fn end(&self) -> Result<(), DecodeError> {
        if self.is_empty() { Ok(()) } else { Err(DecodeError::Malformed("has bytes left over")) }
    }
}

/// Bytes that [`put_varint`] needs.
pub(crate) const fn varint_len(value: usize) -> usize {
    match value {
        0..=127 => 1,
        128..=16_383 => 2,
        16_384..=2_097_151 => 3,
        _ => 4,
    }
}

/// Appends a variable byte integer; `value` is at most [`REMAINING_MAX`].
pub(crate) fn put_varint(out: &mut BytesMut, mut value: usize) {
    debug_assert!(value <= REMAINING_MAX, "no packet is longer");
    loop {
        let low = u8::try_from(value & 0x7F).expect("seven bits fit");
        value >>= 7;
        if value == 0 {
            out.put_u8(low);
            return;
        }
        out.put_u8(low | 0x80);
    }
}

/// Appends a string or binary data; longer than 65 535 bytes cannot have come in.
pub(crate) fn put_binary(out: &mut BytesMut, data: &[u8]) {
    out.put_u16(u16::try_from(data.len()).expect("MQTT strings and binary data are at most 65 535 bytes long"));
    out.put_slice(data);
}
