//! The wire format of protobuf: numbered fields, each a number or a run of bytes.

/// Bytes that are not what they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub String);

fn truncated() -> Malformed {
    Malformed("unexpected end".to_owned())
}

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire<'a> {
    /// A number of variable length.
    Varint(u64),
    /// Eight bytes.
    Fixed64(u64),
    /// Four bytes.
    Fixed32(u32),
    /// A string, bytes or a message.
    Bytes(&'a [u8]),
}

impl<'a> Wire<'a> {
    /// The bytes of a string or message.
    pub fn bytes(self) -> Result<&'a [u8], Malformed> {
        match self {
            Wire::Bytes(bytes) => Ok(bytes),
            _ => Err(Malformed("a number where bytes belong".to_owned())),
        }
    }

    /// A whole number; negative ones are sent as their two's complement.
    pub fn integer(self) -> Result<i64, Malformed> {
        match self {
            Wire::Varint(number) | Wire::Fixed64(number) => Ok(number.cast_signed()),
            Wire::Fixed32(number) => Ok(number.into()),
            Wire::Bytes(_) => Err(Malformed("bytes where a number belongs".to_owned())),
        }
    }

    /// A floating-point number.
    pub fn double(self) -> Result<f64, Malformed> {
        match self {
            Wire::Fixed64(bits) => Ok(f64::from_bits(bits)),
            _ => Err(Malformed("something else where a floating-point number belongs".to_owned())),
        }
    }

    /// Whether it is what an unset field holds.
    pub fn is_zero(self) -> bool {
        match self {
            Wire::Varint(number) | Wire::Fixed64(number) => number == 0,
            Wire::Fixed32(number) => number == 0,
            Wire::Bytes(bytes) => bytes.is_empty(),
        }
    }
}

/// The text in some bytes.
pub fn text(bytes: &[u8]) -> Result<&str, Malformed> {
    std::str::from_utf8(bytes).map_err(|error| Malformed(error.to_string()))
}

/// Goes through the fields of a message.
#[derive(Clone, Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Over the bytes of a message.
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader(bytes)
    }

    /// The next field and its number.
    pub fn next(&mut self) -> Result<Option<(u32, Wire<'a>)>, Malformed> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let number =
            u32::try_from(key >> 3).map_err(|_| Malformed("a field number is too large".to_owned()))?;
        let wire = match key & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| truncated())?;
                Wire::Bytes(self.take(length)?)
            }
            5 => Wire::Fixed32(u32::from_le_bytes(self.array()?)),
            other => return Err(Malformed(format!("unknown wire type {other}"))),
        };
        Ok(Some((number, wire)))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or_else(truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.take(N)?.try_into().map_err(|_| truncated())
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut number = 0u64;
        for at in 0..10 {
            let byte = self.take(1)?[0];
            number |= u64::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Malformed("a number is too long".to_owned()))
    }
}
