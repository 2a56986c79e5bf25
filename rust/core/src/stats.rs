//! Counters of one daemon, over its whole life: they travel with its snapshots.

use crate::codec::{DecodeError, Put, Reader};

/// What a daemon did so far. On the wire six little-endian 64-bit numbers, in this order.
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
}

impl DaemonStats {
    /// Bytes on the wire.
    pub const SIZE: usize = 48;

    /// The wire form.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut out = Vec::with_capacity(Self::SIZE);
        let Self {
            events_processed,
            events_emitted,
            duplicates,
            errors,
            snapshots_taken,
            restarts,
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
        out.try_into().expect("six numbers are 48 bytes")
    }

    /// Reads the counters.
    ///
    /// # Errors
    /// A [`DecodeError`] if there are fewer than 48 bytes.
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            events_processed: reader.u64()?,
            events_emitted: reader.u64()?,
            duplicates: reader.u64()?,
            errors: reader.u64()?,
            snapshots_taken: reader.u64()?,
            restarts: reader.u64()?,
        })
    }
}
