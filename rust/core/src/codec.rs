//! Strict little-endian reading and writing.
//!
//! Invariants
//! * A reader never goes past its end and never allocates: it hands out parts of what it was given.
//! * A fault names the byte offset in the whole input, also inside a section.

use thiserror::Error;

/// Bytes that cannot be read, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("byte {offset}: {fault}")]
pub struct DecodeError {
    /// Offset in the whole input at which the fault begins.
    pub offset: u64,
    /// What is wrong there.
    pub fault: Fault,
}

/// What is wrong with bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Fault {
    /// The input ends too early.
    #[error("{needed} more bytes needed")]
    Truncated {
        /// Bytes that the field at the offset needs beyond what is there.
        needed: u64,
    },
    /// The input is of another format.
    #[error("not this format")]
    Magic,
    /// The input was written by a newer release.
    #[error("format version {found}, this release reads up to {known}")]
    NewerVersion {
        /// Version of the input.
        found: u16,
        /// Newest version known here.
        known: u16,
    },
    /// The input is larger than allowed.
    #[error("{size} bytes, at most {max} are allowed")]
    TooLarge {
        /// Size found.
        size: u64,
        /// Size allowed.
        max: u64,
    },
    /// A section that must be understood is not known.
    #[error("unknown critical section {tag}")]
    UnknownSection {
        /// Tag of the section.
        tag: u16,
    },
    /// A section comes twice or too late.
    #[error("section {tag} out of order")]
    SectionOrder {
        /// Tag of the section.
        tag: u16,
    },
    /// A section is not there.
    #[error("section {tag} is missing")]
    MissingSection {
        /// Tag of the section.
        tag: u16,
    },
    /// Bytes follow the end.
    #[error("{bytes} bytes too many")]
    Trailing {
        /// How many.
        bytes: u64,
    },
    /// The closing digest does not fit the bytes before it.
    #[error("the digest does not fit the bytes before it")]
    Digest,
    /// A text is not UTF-8.
    #[error("text is not UTF-8")]
    Utf8,
    /// A field has a value that no writer writes.
    #[error("invalid {field}")]
    Invalid {
        /// Name of the field.
        field: &'static str,
    },
}

/// A value that has no encoding: it would be read as another one, or not at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{field}: {rule}")]
pub struct Unwritable {
    /// Name of the part.
    pub field: &'static str,
    /// What it must be.
    pub rule: &'static str,
}

impl Unwritable {
    /// Gives the first rule that does not hold, of parts with whether they hold.
    ///
    /// # Errors
    /// That rule.
    pub fn first(rules: &[(&'static str, bool, &'static str)]) -> Result<(), Self> {
        match rules.iter().find(|(_, holds, _)| !holds) {
            Some(&(field, _, rule)) => Err(Self { field, rule }),
            None => Ok(()),
        }
    }
}

/// Reads fields one after another.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
    offset: u64,
}

impl<'a> Reader<'a> {
    /// Reads a whole input.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self::with_base(bytes, 0)
    }

    /// Reads a part that begins at `base_offset` of the whole input.
    #[must_use]
    pub const fn with_base(bytes: &'a [u8], base_offset: u64) -> Self {
        Self {
            rest: bytes,
            offset: base_offset,
        }
    }

    /// Offset in the whole input of the next byte.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes not yet read.
    #[must_use]
    pub const fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// A fault at the next byte.
    #[must_use]
    pub const fn fault(&self, fault: Fault) -> DecodeError {
        DecodeError {
            offset: self.offset,
            fault,
        }
    }

    /// Takes the next `n` bytes.
    ///
    /// # Errors
    /// [`Fault::Truncated`] if fewer are there.
    pub fn take(&mut self, n: usize) -> Result<&'a [u8], DecodeError> {
        let Some((taken, rest)) = self.rest.split_at_checked(n) else {
            return Err(self.fault(Fault::Truncated {
                needed: (n - self.rest.len()) as u64,
            }));
        };
        self.rest = rest;
        self.offset += n as u64;
        Ok(taken)
    }

    /// Takes as many bytes as a length of the input says, of any width.
    ///
    /// # Errors
    /// [`Fault::Truncated`] if fewer are there.
    pub fn take_long(&mut self, n: u64) -> Result<&'a [u8], DecodeError> {
        match usize::try_from(n) {
            Ok(n) => self.take(n),
            Err(_) => Err(self.fault(Fault::Truncated {
                needed: n - self.rest.len() as u64,
            })),
        }
    }

    /// Takes the next `N` bytes as an array.
    ///
    /// # Errors
    /// [`Fault::Truncated`] if fewer are there.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        Ok(self.take(N)?.try_into().expect("take returned N bytes"))
    }

    /// Takes one byte.
    ///
    /// # Errors
    /// [`Fault::Truncated`] at the end.
    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    /// Takes a 16-bit number.
    ///
    /// # Errors
    /// [`Fault::Truncated`] if fewer than 2 bytes are there.
    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// Takes a 32-bit number.
    ///
    /// # Errors
    /// [`Fault::Truncated`] if fewer than 4 bytes are there.
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// Takes a 64-bit number.
    ///
    /// # Errors
    /// [`Fault::Truncated`] if fewer than 8 bytes are there.
    pub fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// Takes a text: its length in bytes as a 16-bit number, then UTF-8.
    ///
    /// # Errors
    /// [`Fault::Truncated`] or [`Fault::Utf8`].
    pub fn str_u16(&mut self) -> Result<&'a str, DecodeError> {
        let length = self.u16()?;
        let offset = self.offset;
        let text = std::str::from_utf8(self.take(usize::from(length))?);
        text.map_err(|error| DecodeError {
            offset: offset + error.valid_up_to() as u64,
            fault: Fault::Utf8,
        })
    }

    /// Takes a count of entries of at least `entry_bytes` each, and refuses more than can follow, so that the caller
    /// may allocate for them.
    ///
    /// # Errors
    /// [`Fault::Truncated`] if that many entries cannot follow.
    pub fn count_u32(&mut self, entry_bytes: usize) -> Result<usize, DecodeError> {
        let count = self.u32()?;
        let needed = u64::from(count) * entry_bytes as u64;
        match needed.checked_sub(self.remaining() as u64) {
            Some(missing) if missing > 0 => Err(self.fault(Fault::Truncated { needed: missing })),
            _ => Ok(count as usize),
        }
    }

    /// Checks the version byte of a record that has only had `known` versions.
    ///
    /// # Errors
    /// [`Fault::NewerVersion`], [`Fault::Invalid`] for 0, which was never written.
    pub fn version_u8(&mut self, known: u8) -> Result<u8, DecodeError> {
        let at = self.clone();
        match self.u8()? {
            0 => Err(at.fault(Fault::Invalid { field: "version" })),
            found if found > known => Err(at.fault(Fault::NewerVersion {
                found: u16::from(found),
                known: u16::from(known),
            })),
            found => Ok(found),
        }
    }

    /// Reads how many entries of at least `entry_bytes` follow, and that it is at most `most`.
    ///
    /// # Errors
    /// As [`Reader::count_u32`]; [`Fault::Invalid`] for more.
    pub fn count_below(&mut self, entry_bytes: usize, most: usize) -> Result<usize, DecodeError> {
        let at = self.clone();
        let count = self.count_u32(entry_bytes)?;
        if count > most {
            return Err(at.fault(Fault::Invalid { field: "count" }));
        }
        Ok(count)
    }

    /// Reads a text after its length as a 32-bit number, of at most `most` bytes.
    ///
    /// # Errors
    /// As [`Reader::count_below`]; [`Fault::Utf8`].
    pub fn str_u32(&mut self, most: usize) -> Result<&'a str, DecodeError> {
        let length = self.count_below(1, most)?;
        let at = self.clone();
        std::str::from_utf8(self.take(length)?).map_err(|_| at.fault(Fault::Utf8))
    }

    /// Reads a 64-bit number that may be absent: a mark of 0 or 1, then the number.
    ///
    /// # Errors
    /// [`Fault::Invalid`] for another mark, [`Fault::Truncated`].
    pub fn option_u64(&mut self) -> Result<Option<u64>, DecodeError> {
        let at = self.clone();
        match self.u8()? {
            0 => Ok(None),
            1 => self.u64().map(Some),
            _ => Err(at.fault(Fault::Invalid { field: "option" })),
        }
    }

    /// Checks that nothing follows.
    ///
    /// # Errors
    /// [`Fault::Trailing`] if something does.
    pub const fn expect_end(&self) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            bytes => Err(self.fault(Fault::Trailing { bytes: bytes as u64 })),
        }
    }
}

/// Writes fields one after another.
pub trait Put {
    /// Appends bytes as they are.
    fn put(&mut self, bytes: &[u8]);

    /// Appends a byte.
    fn put_u8(&mut self, value: u8) {
        self.put(&[value]);
    }

    /// Appends a 16-bit number.
    fn put_u16(&mut self, value: u16) {
        self.put(&value.to_le_bytes());
    }

    /// Appends a 32-bit number.
    fn put_u32(&mut self, value: u32) {
        self.put(&value.to_le_bytes());
    }

    /// Appends a 64-bit number.
    fn put_u64(&mut self, value: u64) {
        self.put(&value.to_le_bytes());
    }

    /// Appends a text: its length as a 16-bit number, then its bytes.
    ///
    /// # Panics
    /// If it is longer than 65 535 bytes; texts are bounded where they enter.
    fn put_str_u16(&mut self, text: &str) {
        self.put_u16(u16::try_from(text.len()).expect("a text is bounded where it enters"));
        self.put(text.as_bytes());
    }

    /// Appends a text: its length as a 32-bit number, then its bytes.
    fn put_str_u32(&mut self, text: &str) {
        self.put_count_u32(text.len());
        self.put(text.as_bytes());
    }

    /// Appends a 64-bit number that may be absent.
    fn put_option_u64(&mut self, value: Option<u64>) {
        self.put_u8(u8::from(value.is_some()));
        if let Some(value) = value {
            self.put_u64(value);
        }
    }

    /// Appends a count of entries.
    ///
    /// # Panics
    /// If it does not fit 32 bits; such a record does not fit memory either.
    fn put_count_u32(&mut self, count: usize) {
        self.put_u32(u32::try_from(count).expect("a count of records that are in memory"));
    }
}

impl Put for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}
