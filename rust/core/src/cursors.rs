//! How far each stream of each origin was applied, and the last receipts given for it.
//!
//! Invariants
//! * A cursor never goes back; 0 means "nothing yet".
//! * Receipts of one stream are ascending by sequence, at most [`RECEIPTS_MAX`], and none lies above the cursor.
//! * The sketch equals the union over the origins that have an entry; see [`horizon`](crate::horizon).
//!
//! ```text
//! count u32, then ascending by (origin, stream):
//!   origin u64 | stream u64 | cursor u64 | receipts u8, then ascending by sequence:
//!     sequence u64 | epoch u64 | processed u64 | position u64 | digest 32
//! ```

use std::collections::{BTreeMap, VecDeque};

use crate::codec::{DecodeError, Fault, Put, Reader};
use crate::digest::Digest;
use crate::horizon::{ObservedHorizon, sketch_bits};
use crate::id::Origin;

/// Receipts kept for each stream of each origin.
pub const RECEIPTS_MAX: usize = 64;

const RECEIPT_SIZE: usize = 4 * 8 + 32;
const ENTRY_SIZE_MIN: usize = 3 * 8 + 1;

/// The acknowledgement of one event: it took effect, there, and left the chain like this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// Number of the event at its origin.
    pub sequence: u64,
    /// Epoch of the owner that processed it.
    pub epoch: u64,
    /// Events processed so far, this one included.
    pub processed: u64,
    /// Position of the owner's chain after it.
    pub position: u64,
    /// Digest of the owner's chain there.
    pub digest: Digest,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Entry {
    cursor: u64,
    receipts: VecDeque<Receipt>,
}

/// The cursors of one receiver.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cursors {
    entries: BTreeMap<(Origin, u64), Entry>,
    sketch: u64,
}

impl Cursors {
    /// Highest sequence applied; 0 for none.
    #[must_use]
    pub fn get(&self, origin: Origin, stream: u64) -> u64 {
        self.entries.get(&(origin, stream)).map_or(0, |entry| entry.cursor)
    }

    /// Raises a cursor; a lower sequence changes nothing.
    pub fn advance(&mut self, origin: Origin, stream: u64, sequence: u64) {
        let entry = self.entry(origin, stream);
        entry.cursor = entry.cursor.max(sequence);
    }

    /// Keeps a receipt, and raises the cursor to it. The oldest goes when there are too many; a receipt for a sequence
    /// that has one replaces it, and one older than all of a full ring is not kept.
    pub fn keep_receipt(&mut self, origin: Origin, stream: u64, receipt: Receipt) {
        let entry = self.entry(origin, stream);
        entry.cursor = entry.cursor.max(receipt.sequence);
        let receipts = &mut entry.receipts;
        match receipts.binary_search_by_key(&receipt.sequence, |kept| kept.sequence) {
            Ok(at) => receipts[at] = receipt,
            Err(0) if receipts.len() == RECEIPTS_MAX => {}
            Err(at) => {
                let dropped = usize::from(receipts.len() == RECEIPTS_MAX);
                if dropped == 1 {
                    receipts.pop_front();
                }
                receipts.insert(at - dropped, receipt);
            }
        }
    }

    /// The receipt of an event, if it is still kept.
    #[must_use]
    pub fn receipt(&self, origin: Origin, stream: u64, sequence: u64) -> Option<&Receipt> {
        let receipts = &self.entries.get(&(origin, stream))?.receipts;
        let at = receipts.binary_search_by_key(&sequence, |kept| kept.sequence).ok()?;
        receipts.get(at)
    }

    /// Sketch of the origins; kept, not computed.
    #[must_use]
    pub const fn sketch(&self) -> u64 {
        self.sketch
    }

    /// All cursors as (origin, stream, cursor), ascending.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (Origin, u64, u64)> {
        self.entries
            .iter()
            .map(|((origin, stream), entry)| (*origin, *stream, entry.cursor))
    }

    /// Number of cursors.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Tells whether nothing was applied.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The highest sequence of each origin over its streams.
    #[must_use]
    pub fn horizon(&self) -> ObservedHorizon {
        self.iter().map(|(origin, _, cursor)| (origin, cursor)).collect()
    }

    /// Bytes of the wire form.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        let receipts: usize = self.entries.values().map(|entry| entry.receipts.len()).sum();
        4 + self.entries.len() * ENTRY_SIZE_MIN + receipts * RECEIPT_SIZE
    }

    /// The wire form.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.encoded_len());
        self.put(&mut out);
        out
    }

    /// Appends the wire form.
    pub fn put(&self, out: &mut Vec<u8>) {
        out.put_count_u32(self.entries.len());
        for ((origin, stream), entry) in &self.entries {
            out.put_u64(origin.get());
            out.put_u64(*stream);
            out.put_u64(entry.cursor);
            out.put_u8(u8::try_from(entry.receipts.len()).expect("at most RECEIPTS_MAX are kept"));
            for receipt in &entry.receipts {
                for number in [receipt.sequence, receipt.epoch, receipt.processed, receipt.position] {
                    out.put_u64(number);
                }
                out.put(receipt.digest.as_bytes());
            }
        }
    }

    /// Reads exactly the cursors of one receiver.
    ///
    /// # Errors
    /// A [`DecodeError`] for the first field that breaks an invariant.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::read_to_end(Reader::new(bytes))
    }

    pub(crate) fn read_to_end(mut reader: Reader<'_>) -> Result<Self, DecodeError> {
        let count = reader.count_u32(ENTRY_SIZE_MIN)?;
        let mut cursors = Self::default();
        for _ in 0..count {
            let at_key = reader.clone();
            let key = (Origin::new(reader.u64()?), reader.u64()?);
            if cursors.entries.last_key_value().is_some_and(|(last, _)| *last >= key) {
                return Err(at_key.fault(Fault::Invalid {
                    field: "order of cursors",
                }));
            }
            let entry = read_entry(&mut reader)?;
            cursors.entries.insert(key, entry);
            cursors.sketch |= sketch_bits(key.0);
        }
        reader.expect_end()?;
        Ok(cursors)
    }

    fn entry(&mut self, origin: Origin, stream: u64) -> &mut Entry {
        let sketch = &mut self.sketch;
        self.entries.entry((origin, stream)).or_insert_with(|| {
            *sketch |= sketch_bits(origin);
            Entry::default()
        })
    }
}

fn read_entry(reader: &mut Reader<'_>) -> Result<Entry, DecodeError> {
    let cursor = reader.u64()?;
    let at_count = reader.clone();
    let count = usize::from(reader.u8()?);
    if count > RECEIPTS_MAX {
        return Err(at_count.fault(Fault::Invalid {
            field: "number of receipts",
        }));
    }
    let mut receipts = VecDeque::new();
    for _ in 0..count {
        let at_receipt = reader.clone();
        let receipt = Receipt {
            sequence: reader.u64()?,
            epoch: reader.u64()?,
            processed: reader.u64()?,
            position: reader.u64()?,
            digest: Digest::from_bytes(reader.array()?),
        };
        let follows = receipts
            .back()
            .is_none_or(|last: &Receipt| last.sequence < receipt.sequence);
        if !follows || receipt.sequence > cursor {
            return Err(at_receipt.fault(Fault::Invalid {
                field: "sequence of a receipt",
            }));
        }
        receipts.push_back(receipt);
    }
    Ok(Entry { cursor, receipts })
}
