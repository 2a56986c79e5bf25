//! The files that commits go to: frames, each bound to all before it.
//!
//! Invariants
//! * A frame is believed only when its digest fits, and its digest covers everything before it, back to the first commit
//!   of the store. A frame that was changed, removed, moved or taken from another store is found.
//! * A file ends in at most one frame that is not whole: frames are synced one by one. A bad frame with a good one behind
//!   it is damage; one with nothing good behind it was never acknowledged, or is the last.
//! * A new file names the last commit before it. What an older file has beyond that was never acknowledged, and is void.
//!
//! ```text
//! head   "MESHSEGM" | version u16 = 1 | store 16 | ordinal u64 | after u64 | digest after it 32 | CRC-32 of all that u32
//! frame  "FRAM" | length of the body u32 | number u64 | CRC-32 of the head's digest and these two u32 | body | digest 32
//! d(0) = derive_key("meshos 2026 store genesis v1")(store)
//! d(n) = derive_key("meshos 2026 store commit v1")(d(n-1) ‖ number n u64 ‖ body n)
//! ```
//! The body is writes, see [`rows`].

use thiserror::Error;

use crate::codec::{DecodeError, Fault, Put, Reader};
use crate::digest::{self, Context, Digest};
use crate::rows::{self, Write};

/// First bytes of every file of commits.
pub const MAGIC: &[u8; 8] = b"MESHSEGM";

/// The version written, and the newest that is read.
pub const VERSION: u16 = 1;

/// Bytes of the head of a file.
pub const HEAD_SIZE: usize = 8 + 2 + 16 + 8 + 8 + 32 + 4;

/// Bytes of a frame without its body.
pub const FRAME_SIZE: usize = MARK_SIZE + 32;

/// Longest body of a frame.
pub const BODY_BYTES_MAX: usize = (1 << 30) + (1 << 20);

const MARK: &[u8; 4] = b"FRAM";
const MARK_SIZE: usize = 4 + 4 + 8 + 4;

/// Which store something is of; drawn once, when it is made.
pub type StoreId = [u8; 16];

/// How far commits have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Number of the last commit, 0 before the first.
    pub number: u64,
    /// Digest after it.
    pub digest: Digest,
}

impl Position {
    /// Before the first commit of a store.
    #[must_use]
    pub fn start(store: &StoreId) -> Self {
        Self {
            number: 0,
            digest: digest::derive(Context::StoreGenesis, &[store]),
        }
    }

    /// After one more commit with this body.
    #[must_use]
    pub fn next(&self, body: &[u8]) -> Self {
        let number = self.number + 1;
        Self {
            number,
            digest: digest::derive(
                Context::StoreCommit,
                &[self.digest.as_bytes(), &number.to_le_bytes(), body],
            ),
        }
    }
}

/// What a file begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Which store it is of.
    pub store: StoreId,
    /// Its number among the files of the store, from 1.
    pub ordinal: u64,
    /// The last commit before it.
    pub after: Position,
}

impl Head {
    /// The bytes that the file begins with.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD_SIZE);
        bytes.put(MAGIC);
        bytes.put_u16(VERSION);
        bytes.put(&self.store);
        bytes.put_u64(self.ordinal);
        bytes.put_u64(self.after.number);
        bytes.put(self.after.digest.as_bytes());
        bytes.put_u32(crc32fast::hash(&bytes));
        bytes
    }

    /// Reads the head of a file; frames may follow.
    ///
    /// # Errors
    /// [`Fault::Magic`] and [`Fault::NewerVersion`] first, then [`Fault::Digest`] when the sum does not fit.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let at = reader.clone();
        if reader.array::<8>()? != *MAGIC {
            return Err(at.fault(Fault::Magic));
        }
        let at = reader.clone();
        match reader.u16()? {
            VERSION => {}
            0 => return Err(at.fault(Fault::Invalid { field: "version" })),
            found => return Err(at.fault(Fault::NewerVersion { found, known: VERSION })),
        }
        let head = Self {
            store: reader.array()?,
            ordinal: reader.u64()?,
            after: Position {
                number: reader.u64()?,
                digest: Digest::from_bytes(reader.array()?),
            },
        };
        let at = reader.clone();
        if reader.u32()? != crc32fast::hash(&bytes[..HEAD_SIZE - 4]) {
            return Err(at.fault(Fault::Digest));
        }
        Ok(head)
    }
}

/// Appends a frame of these writes, and returns the position after it.
///
/// # Panics
/// If a write does not [fit](Write::fits), or all of them are more than a frame holds; a store checks that where a batch
/// comes in.
pub fn put_frame<'a>(
    head: &Head,
    before: &Position,
    writes: impl ExactSizeIterator<Item = &'a Write>,
    out: &mut Vec<u8>,
) -> Position {
    let start = out.len();
    out.put(&[0; MARK_SIZE]);
    rows::put_all(writes, out);
    let body = start + MARK_SIZE;
    let length = out.len() - body;
    assert!(length <= BODY_BYTES_MAX, "batches are bounded where they come in");
    let after = before.next(&out[body..]);
    let length = u32::try_from(length).expect("checked against the longest body");
    out[start..body].copy_from_slice(&mark(head, length, after.number));
    out.put(after.digest.as_bytes());
    after
}

fn mark(head: &Head, length: u32, number: u64) -> [u8; MARK_SIZE] {
    let mut bytes = [0; MARK_SIZE];
    bytes[..4].copy_from_slice(MARK);
    bytes[4..8].copy_from_slice(&length.to_le_bytes());
    bytes[8..16].copy_from_slice(&number.to_le_bytes());
    let mut sum = crc32fast::Hasher::new();
    sum.update(&head.store);
    sum.update(&head.ordinal.to_le_bytes());
    sum.update(head.after.digest.as_bytes());
    sum.update(&bytes[4..16]);
    bytes[16..].copy_from_slice(&sum.finalize().to_le_bytes());
    bytes
}

/// Length of the body and number of a frame that begins here, if its mark is whole.
fn marked(head: &Head, bytes: &[u8]) -> Option<(usize, u64)> {
    let found = bytes.first_chunk::<MARK_SIZE>()?;
    let length = u32::from_le_bytes(found[4..8].try_into().expect("four bytes"));
    let number = u64::from_le_bytes(found[8..16].try_into().expect("eight bytes"));
    (found[..4] == *MARK && *found == mark(head, length, number)).then_some((length as usize, number))
}

/// Whether a whole frame mark with a number above `number` stands anywhere behind.
fn goes_on(head: &Head, bytes: &[u8], number: u64) -> bool {
    let starts = bytes.windows(MARK.len()).enumerate().filter(|(_, found)| found == MARK);
    starts
        .filter_map(|(at, _)| marked(head, &bytes[at..]))
        .any(|(_, found)| found > number)
}

/// Which file is bad, where, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Damage {
    /// A file cannot be read, and it is not the last one.
    #[error("segment {ordinal}: {error}")]
    Unreadable {
        /// Number of the file.
        ordinal: u64,
        /// Where and why.
        error: DecodeError,
    },
    /// A commit is not bound to the one before it: it, or something before it, was changed, removed or moved.
    #[error("segment {ordinal}, byte {offset}: commit {number} is not what was written")]
    Altered {
        /// Number of the file.
        ordinal: u64,
        /// Where the frame begins.
        offset: u64,
        /// Which commit should be there.
        number: u64,
    },
    /// Commits are missing.
    #[error("segment {ordinal}: commits from {number} on are missing before it")]
    Missing {
        /// Number of the file that should follow them.
        ordinal: u64,
        /// The first commit that is not there.
        number: u64,
    },
    /// A file is not there.
    #[error("segment {ordinal} is missing")]
    NoSegment {
        /// Number of the file.
        ordinal: u64,
    },
    /// A file is of another store, or has the name of another one.
    #[error("segment {ordinal} is of another store or another place")]
    Foreign {
        /// Number that its name says.
        ordinal: u64,
    },
}

/// What files hold after a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recovered {
    /// The last commit.
    pub position: Position,
    /// Commits that were handed out.
    pub commits: u64,
    /// Bytes at the end that were no whole frame.
    pub cut: u64,
    /// The next file has this number.
    pub next_ordinal: u64,
    /// Files below this number are not needed any more.
    pub needed_from: u64,
}

/// Reads the files of a store, given by the numbers in their names, ascending; `folded` is how far commits are kept
/// elsewhere. Hands out the commits after it, in order. `newest` is a file that must be there; 0: none must.
///
/// # Errors
/// [`Damage`]: the first place that is bad.
pub fn recover(
    store: &StoreId,
    folded: Position,
    newest: u64,
    files: &[(u64, &[u8])],
    mut see: impl FnMut(u64, Vec<Write>),
) -> Result<Recovered, Damage> {
    let mut recovered = Recovered {
        position: folded,
        commits: 0,
        cut: 0,
        next_ordinal: files.last().map_or(newest, |(ordinal, _)| (*ordinal).max(newest)) + 1,
        needed_from: 0,
    };
    let mut heads = Vec::with_capacity(files.len());
    for (ordinal, bytes) in files {
        match Head::decode(bytes) {
            Ok(head) if head.store == *store && head.ordinal == *ordinal => heads.push((head, *bytes)),
            Ok(_) => return Err(Damage::Foreign { ordinal: *ordinal }),
            // It could not be made, or was being made when the process ended. If anything was acknowledged in it, the next
            // file does not go on from what is before.
            Err(_) if *ordinal != newest && bytes.len() <= HEAD_SIZE => {
                recovered.cut += bytes.len() as u64;
            }
            Err(error) => {
                return Err(Damage::Unreadable {
                    ordinal: *ordinal,
                    error,
                });
            }
        }
    }
    if newest > 0 && !heads.iter().any(|(head, _)| head.ordinal == newest) {
        return Err(Damage::NoSegment { ordinal: newest });
    }
    let Some(start) = heads.iter().rposition(|(head, _)| head.after.number <= folded.number) else {
        return match heads.first() {
            None => Ok(recovered),
            Some((head, _)) => Err(Damage::Missing {
                ordinal: head.ordinal,
                number: folded.number + 1,
            }),
        };
    };
    recovered.needed_from = match newest {
        0 => heads[start].0.ordinal,
        newest => heads[start].0.ordinal.min(newest),
    };
    for index in start..heads.len() {
        let next = heads.get(index + 1).map(|(head, _)| head);
        let (head, bytes) = heads[index];
        read_file(&head, next, bytes, folded, &mut recovered, &mut see)?;
    }
    Ok(recovered)
}

/// Reads one file up to where the next one goes on.
fn read_file(
    head: &Head,
    next: Option<&Head>,
    bytes: &[u8],
    folded: Position,
    recovered: &mut Recovered,
    see: &mut impl FnMut(u64, Vec<Write>),
) -> Result<(), Damage> {
    let ordinal = head.ordinal;
    let altered = |offset: usize, number: u64| Damage::Altered {
        ordinal,
        offset: offset as u64,
        number,
    };
    let known = if head.after.number < folded.number {
        head.after
    } else {
        recovered.position
    };
    if head.after != known {
        return Err(altered(0, head.after.number));
    }
    let last = next.map_or(u64::MAX, |next| next.after.number);
    let (mut position, mut offset) = (head.after, HEAD_SIZE);
    while position.number < last {
        let frame = whole_frame(head, &position, &bytes[offset..]);
        let Some((body, after)) = frame else {
            if goes_on(head, &bytes[offset..], position.number + 1) {
                return Err(altered(offset, position.number + 1));
            }
            if let Some(next) = next {
                return Err(Damage::Missing {
                    ordinal: next.ordinal,
                    number: position.number + 1,
                });
            }
            let rest = &bytes[offset..];
            recovered.cut += rest.iter().rposition(|byte| *byte != 0).map_or(0, |at| at as u64 + 1);
            break;
        };
        if after.number == folded.number && after.digest != folded.digest {
            return Err(altered(offset, after.number));
        }
        if after.number > folded.number {
            let base = (offset + MARK_SIZE) as u64;
            let writes = rows::read_all(body, base).map_err(|error| Damage::Unreadable { ordinal, error })?;
            see(after.number, writes);
            recovered.commits += 1;
        }
        position = after;
        offset += FRAME_SIZE + body.len();
    }
    if next.is_some_and(|next| next.after != position) {
        return Err(altered(offset, position.number));
    }
    if position.number >= folded.number {
        recovered.position = position;
    }
    Ok(())
}

/// Body of the frame that begins here and the position after it, if it is the next one and whole.
fn whole_frame<'a>(head: &Head, before: &Position, bytes: &'a [u8]) -> Option<(&'a [u8], Position)> {
    let (length, number) = marked(head, bytes)?;
    let body = bytes.get(MARK_SIZE..MARK_SIZE.checked_add(length)?)?;
    let digest = bytes.get(MARK_SIZE + length..MARK_SIZE + length + 32)?;
    let after = before.next(body);
    (number == after.number && digest == after.digest.as_bytes()).then_some((body, after))
}
