//! Bytes as text between two lines, for a mail or a chat.
//!
//! Invariants
//! * Bytes have one text. What a reader passes over is what mail changes: white space around it, and CR before LF.
//! * Lines have 64 characters, the last one perhaps fewer; bits that stand for nothing are zero.
//!
//! Source: RFC 7468, "Textual Encodings of PKIX, PKCS, and CMS Structures", section 3; RFC 4648, section 4.

use crate::codec::{DecodeError, Fault};

/// Characters of a line.
const LINE: usize = 64;
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn mark(word: &str, label: &str) -> String {
    format!("-----{word} {label}-----")
}

/// Writes bytes under a label.
#[must_use]
pub fn encode(label: &str, bytes: &[u8]) -> String {
    let mut text = mark("BEGIN", label);
    for (index, group) in bytes.chunks(3).enumerate() {
        if index % (LINE / 4) == 0 {
            text.push('\n');
        }
        let mut bits = 0;
        for place in 0..3 {
            bits = bits << 8 | u32::from(group.get(place).copied().unwrap_or(0));
        }
        for place in 0..4 {
            if place > group.len() {
                text.push('=');
            } else {
                let value = bits >> (18 - 6 * place) & 63;
                text.push(char::from(ALPHABET[value as usize]));
            }
        }
    }
    text.push('\n');
    text.push_str(&mark("END", label));
    text.push('\n');
    text
}

/// Reads the one text that stands under a label, and nothing beside it.
///
/// # Errors
/// [`DecodeError`] at the first byte of the text that is not as [`encode`] writes it.
pub fn decode(label: &str, text: &str) -> Result<Vec<u8>, DecodeError> {
    let start = text.len() - text.trim_ascii_start().len();
    let mut lines = Lines {
        rest: text.trim_ascii(),
        offset: start,
    };
    let (begin, end) = (mark("BEGIN", label), mark("END", label));
    match lines.next() {
        Some((_, line)) if line == begin => {}
        _ => return Err(fault(start, Fault::Magic)),
    }
    let mut bytes = Vec::new();
    let mut whole = true;
    loop {
        let offset = lines.offset;
        let Some((_, line)) = lines.next() else {
            let needed = end.len() as u64;
            return Err(fault(offset, Fault::Truncated { needed }));
        };
        if line == end {
            break;
        }
        if !whole || line.is_empty() || line.len() > LINE || line.len() % 4 != 0 {
            return Err(fault(offset, Fault::Invalid { field: "line" }));
        }
        whole = line.len() == LINE && !line.ends_with('=');
        read_line(line.as_bytes(), offset, &mut bytes)?;
    }
    match lines.rest.len() {
        0 => Ok(bytes),
        more => Err(fault(lines.offset, Fault::Trailing { bytes: more as u64 })),
    }
}

fn read_line(line: &[u8], offset: usize, bytes: &mut Vec<u8>) -> Result<(), DecodeError> {
    let groups = line.len() / 4;
    for (index, group) in line.chunks(4).enumerate() {
        let at = offset + 4 * index;
        let bad = fault(at, Fault::Invalid { field: "base64" });
        let padding = group.iter().rev().take_while(|byte| **byte == b'=').count();
        if padding > 2 || (padding > 0 && index + 1 < groups) {
            return Err(bad);
        }
        let mut bits = 0_u32;
        for byte in &group[..4 - padding] {
            let value = ALPHABET.iter().position(|known| known == byte).ok_or(bad)?;
            bits = bits << 6 | u32::try_from(value).expect("one of 64");
        }
        bits <<= 6 * padding;
        let [_, first, second, third] = bits.to_be_bytes();
        let (kept, zero) = match padding {
            0 => (3, 0),
            1 => (2, third),
            _ => (1, second | third),
        };
        if zero != 0 {
            return Err(bad);
        }
        bytes.extend_from_slice(&[first, second, third][..kept]);
    }
    Ok(())
}

const fn fault(offset: usize, fault: Fault) -> DecodeError {
    DecodeError {
        offset: offset as u64,
        fault,
    }
}

/// The lines of a text, with the offset of each.
struct Lines<'a> {
    rest: &'a str,
    offset: usize,
}

impl<'a> Iterator for Lines<'a> {
    type Item = (usize, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let (line, rest) = self.rest.split_once('\n').unwrap_or((self.rest, ""));
        let found = (self.offset, line.strip_suffix('\r').unwrap_or(line));
        self.offset += self.rest.len() - rest.len();
        self.rest = rest;
        Some(found)
    }
}
