//! Names of channels: paths of lowercase segments.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;
use xxhash_rust::xxh3::xxh3_64;

use crate::codec::{DecodeError, Fault, Put, Reader};

/// Longest name, in bytes.
pub const NAME_BYTES_MAX: usize = 255;

/// A name of 1 to 255 bytes: segments of `a-z 0-9 - _ .`, joined by single slashes; no segment is `.` or `..`.
///
/// Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelName(Arc<str>);

/// Why a text is not a channel name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NameError {
    /// Nothing at all.
    #[error("a channel name is not empty")]
    Empty,
    /// Too many bytes.
    #[error("a channel name has at most 255 bytes, not {bytes}")]
    TooLong {
        /// Length of the text.
        bytes: usize,
    },
    /// A character that is not allowed; uppercase letters are not, so that names differ in more than case.
    #[error("byte {at} of the channel name is none of a-z 0-9 - _ . /")]
    InvalidChar {
        /// Offset of its first byte.
        at: usize,
    },
    /// A segment that is empty, `.` or `..`.
    #[error("the segment at byte {at} of the channel name is empty, '.' or '..'")]
    InvalidSegment {
        /// Offset of its first byte.
        at: usize,
    },
}

impl ChannelName {
    /// Checks a text.
    ///
    /// # Errors
    /// A [`NameError`] with the first thing wrong.
    pub fn new(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > NAME_BYTES_MAX {
            return Err(NameError::TooLong { bytes: text.len() });
        }
        if let Some(at) = text.bytes().position(|byte| !is_allowed(byte)) {
            return Err(NameError::InvalidChar { at });
        }
        let mut at = 0;
        for segment in text.split('/') {
            if matches!(segment, "" | "." | "..") {
                return Err(NameError::InvalidSegment { at });
            }
            at += segment.len() + 1;
        }
        Ok(Self(text.into()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Appends its length as a byte, and its text.
    ///
    /// # Panics
    /// Never: a name has at most 255 bytes.
    pub fn put(&self, out: &mut Vec<u8>) {
        out.put_u8(u8::try_from(self.0.len()).expect("a name has at most 255 bytes"));
        Put::put(out, self.0.as_bytes());
    }

    /// Reads what [`put`](Self::put) wrote.
    ///
    /// # Errors
    /// [`Fault::Truncated`], [`Fault::Utf8`], [`Fault::Invalid`] for a text that is no name.
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let length = reader.u8()?;
        let at = reader.clone();
        let text = std::str::from_utf8(reader.take(usize::from(length))?).map_err(|_| at.fault(Fault::Utf8))?;
        Self::new(text).map_err(|_| at.fault(Fault::Invalid { field: "channel name" }))
    }

    /// The stream that events of this channel belong to: XXH3-64 of the text.
    #[must_use]
    pub fn hash(&self) -> u64 {
        xxh3_64(self.0.as_bytes())
    }

    /// Tells whether `other` is this name or lies below it: `a/b` is a prefix of `a/b` and `a/b/c`, not of `a/bc`.
    #[must_use]
    pub fn is_prefix_of(&self, other: &Self) -> bool {
        other
            .0
            .strip_prefix(&*self.0)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl fmt::Display for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

const fn is_allowed(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'/')
}
