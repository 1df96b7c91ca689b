//! The protobuf wire format, read from a slice and written to the end of a buffer.

use super::Fault;

#[derive(Clone, Copy)]
pub enum Payload<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    Fixed64([u8; 8]),
    Fixed32([u8; 4]),
}

impl<'a> Payload<'a> {
    fn wrong<T>(&self, field: &str) -> Result<T, Fault> {
        let wire_type = match self {
            Self::Varint(_) => 0,
            Self::Fixed64(_) => 1,
            Self::Bytes(_) => 2,
            Self::Fixed32(_) => 5,
        };
        Err(Fault::WireType(wire_type, field.to_owned()))
    }

    pub fn bytes(&self, field: &str) -> Result<&'a [u8], Fault> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => self.wrong(field),
        }
    }

    pub fn text(&self, field: &str) -> Result<&'a str, Fault> {
        std::str::from_utf8(self.bytes(field)?).map_err(|_| Fault::Utf8(field.to_owned()))
    }

    pub fn integer(&self, field: &str) -> Result<i64, Fault> {
        match self {
            Self::Varint(value) => Ok(value.cast_signed()),
            _ => self.wrong(field),
        }
    }

    pub fn number(&self, field: &str) -> Result<f64, Fault> {
        match self {
            Self::Fixed64(bytes) => Ok(f64::from_le_bytes(*bytes)),
            Self::Fixed32(bytes) => Ok(f32::from_le_bytes(*bytes).into()),
            _ => self.wrong(field),
        }
    }
}

pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next field's number and payload.
    pub fn next(&mut self) -> Result<Option<(u64, Payload<'a>)>, Fault> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let payload = match key & 7 {
            0 => Payload::Varint(self.varint()?),
            1 => Payload::Fixed64(self.fixed()?),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| Fault::Truncated)?;
                let (bytes, rest) = self.rest.split_at_checked(length).ok_or(Fault::Truncated)?;
                self.rest = rest;
                Payload::Bytes(bytes)
            }
            5 => Payload::Fixed32(self.fixed()?),
            // Groups are of the old protobuf and never part of the API.
            other => return Err(Fault::WireType(other, (key >> 3).to_string())),
        };
        Ok(Some((key >> 3, payload)))
    }

    pub fn varint(&mut self) -> Result<u64, Fault> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let (byte, rest) = self.rest.split_first().ok_or(Fault::Truncated)?;
            self.rest = rest;
            value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Fault::Truncated)
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(Fault::Truncated)?;
        self.rest = rest;
        Ok(*bytes)
    }
}

/// How many bytes a varint takes.
pub fn varint_bytes(value: usize) -> usize {
    let bits = usize::BITS - (value | 1).leading_zeros();
    bits.div_ceil(7) as usize
}

/// How many bytes a field of content takes, with its tag (of a number below 16) and length.
pub fn field_bytes(content: usize) -> usize {
    1 + varint_bytes(content) + content
}

pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub fn put_tag(out: &mut Vec<u8>, number: u32, wire_type: u32) {
    put_varint(out, u64::from(number << 3 | wire_type));
}

pub fn put_integer(out: &mut Vec<u8>, number: u32, value: i64) {
    put_tag(out, number, 0);
    put_varint(out, value.cast_unsigned());
}

pub fn put_bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    put_tag(out, number, 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// A field with a length, whose content `write` appends. One byte is kept for the length: most content needs no more,
/// and what is longer is moved.
pub fn put_nested<E>(
    out: &mut Vec<u8>,
    number: u32,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    put_tag(out, number, 2);
    let at = out.len();
    out.push(0);
    write(out)?;
    let length = out.len() - at - 1;
    let more = varint_bytes(length) - 1;
    if more > 0 {
        let end = out.len();
        out.resize(end + more, 0);
        out.copy_within(at + 1..end, at + 1 + more);
    }
    let mut rest = length;
    for byte in out.iter_mut().skip(at).take(more + 1) {
        *byte = (rest & 0x7f) as u8 | 0x80;
        rest >>= 7;
    }
    if let Some(last) = out.get_mut(at + more) {
        *last &= 0x7f;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints() {
        for (bytes, want) in [
            (&[0u8][..], 0),
            (&[0x96, 0x01], 150),
            (&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], u64::MAX),
        ] {
            assert_eq!(Reader::new(bytes).varint().unwrap(), want);
            let mut out = Vec::new();
            put_varint(&mut out, want);
            assert_eq!(out, bytes);
            assert_eq!(varint_bytes(want as usize), bytes.len());
        }
        assert!(Reader::new(&[0x80]).varint().is_err());
        assert!(Reader::new(&[0x80; 20]).varint().is_err());
    }

    #[test]
    fn cut_short_or_odd() {
        for bytes in [&[0x0a][..], &[0x0a, 5, 1], &[0x09, 1, 2], &[0x0b], &[0x0d, 1]] {
            assert!(Reader::new(bytes).next().is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn lengths_of_every_size() {
        for size in [0, 1, 127, 128, 300, 16_383, 16_384, 3_000_000] {
            let mut out = Vec::new();
            put_nested(&mut out, 5, |out| {
                out.extend(std::iter::repeat_n(7, size));
                Ok::<_, Fault>(())
            })
            .unwrap();
            let mut plain = Vec::new();
            put_bytes(&mut plain, 5, &vec![7; size]);
            assert_eq!(out, plain, "{size}");
        }
    }
}
