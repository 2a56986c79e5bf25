//! Counters of one daemon, over its whole life: they travel with its snapshots.

use crate::codec::{DecodeError, Fault, Put, Reader};

/// What a daemon did so far. On the wire little-endian 64-bit numbers in this order; the last is left out while it is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DaemonStats {
    /// Events that took effect.
    pub events_processed: u64,
    /// Events appended to its chain.
    pub events_emitted: u64,
    /// Events that had taken effect before.
    pub duplicates: u64,
    /// Calls of user code that raised.
    pub errors: u64,
    /// Snapshots taken.
    pub snapshots_taken: u64,
    /// Times it was started again.
    pub restarts: u64,
    /// Events that failed too often and were passed over.
    pub dead_letters: u64,
}

impl DaemonStats {
    /// Bytes of the numbers that are always there.
    const SIZE_MIN: usize = 48;

    /// Bytes on the wire.
    #[must_use]
    pub const fn encoded_len(&self) -> usize {
        Self::SIZE_MIN + if self.dead_letters > 0 { 8 } else { 0 }
    }

    /// The wire form.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.encoded_len());
        let Self {
            events_processed,
            events_emitted,
            duplicates,
            errors,
            snapshots_taken,
            restarts,
            dead_letters,
        } = *self;
        for counter in [
            events_processed,
            events_emitted,
            duplicates,
            errors,
            snapshots_taken,
            restarts,
        ] {
            out.put_u64(counter);
        }
        if dead_letters > 0 {
            out.put_u64(dead_letters);
        }
        out
    }

    /// Reads the counters, which are all that is left to read.
    ///
    /// # Errors
    /// A [`DecodeError`] for another length, or a last number that would have been left out.
    pub fn read_to_end(mut reader: Reader<'_>) -> Result<Self, DecodeError> {
        let mut stats = Self {
            events_processed: reader.u64()?,
            events_emitted: reader.u64()?,
            duplicates: reader.u64()?,
            errors: reader.u64()?,
            snapshots_taken: reader.u64()?,
            restarts: reader.u64()?,
            dead_letters: 0,
        };
        if reader.remaining() > 0 {
            let at = reader.clone();
            stats.dead_letters = reader.u64()?;
            if stats.dead_letters == 0 {
                return Err(at.fault(Fault::Invalid { field: "dead letters" }));
            }
        }
        reader.expect_end()?;
        Ok(stats)
    }
}
