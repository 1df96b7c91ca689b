//! The protobuf wire format, read from a slice.

use super::Fault;

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
}
