//! Records of ownership whose signatures were found to fit, so that a node computes each once.
//!
//! Invariants
//! * Whatever is known here was checked by this process, or signed by it. Nothing of it is kept.
//! * Of the records seen last at most twice [`GENERATION`] are known. What is not known any more is computed again.

use std::collections::HashSet;

use meshos_core::digest::{self, Digest};
use meshos_core::id::EntityId;
use meshos_core::ownership::{Lineage, OwnershipRecord};

use crate::sync::Mutex;

/// Records of one generation; the older one goes when a second one is full.
pub const GENERATION: usize = 4_096;

#[derive(Default)]
struct Known {
    young: HashSet<Digest>,
    old: HashSet<Digest>,
}

impl Known {
    fn has(&mut self, name: &Digest) -> bool {
        if self.young.contains(name) {
            return true;
        }
        let is_old = self.old.remove(name);
        if is_old {
            self.add(*name);
        }
        is_old
    }

    fn add(&mut self, name: Digest) {
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(name);
    }
}

/// What a node knows to be signed as it says.
#[derive(Default)]
pub struct Verified {
    known: Mutex<Known>,
}

impl Verified {
    /// Whether a record is known to fit.
    #[must_use]
    pub fn is_known(&self, record: &OwnershipRecord) -> bool {
        self.known.lock().has(&name(record))
    }

    /// Whether the signatures of a record fit.
    #[must_use]
    pub fn fits(&self, record: &OwnershipRecord) -> bool {
        let name = name(record);
        if self.known.lock().has(&name) {
            return true;
        }
        let fits = record.verify_signatures().is_ok();
        if fits {
            self.known.lock().add(name);
        }
        fits
    }

    /// Knows a record that this process signed or checked itself.
    pub fn note(&self, record: &OwnershipRecord) {
        let name = name(record);
        self.known.lock().add(name);
    }

    /// The lineage that records make, the oldest first, if they do and all signatures fit. `kept` reads what the store of
    /// this node has of them, if that is to be known: it was checked before it was kept.
    #[must_use]
    pub fn lineage(
        &self,
        entity: &EntityId,
        records: Vec<OwnershipRecord>,
        authorities: &[EntityId],
        kept: impl FnOnce() -> Vec<OwnershipRecord>,
    ) -> Option<Lineage> {
        let mut kept = Some(kept);
        let mut is_signed = |record: &OwnershipRecord| {
            if self.is_known(record) {
                return true;
            }
            if let Some(kept) = kept.take() {
                kept().iter().for_each(|record| self.note(record));
            }
            self.fits(record)
        };
        Lineage::verify_by(entity, records, authorities, &mut is_signed).ok()
    }
}

/// All of a record, signatures too.
fn name(record: &OwnershipRecord) -> Digest {
    digest::plain(&record.to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshos_core::identity::Keypair;

    fn record(seed: u8) -> OwnershipRecord {
        let key = Keypair::from_seed(&[seed; 32]);
        OwnershipRecord::spawn(&key, key.entity_id(), Digest::ZERO).expect("it signs")
    }

    #[test]
    fn what_fits_is_known_and_what_does_not_never_is() {
        let verified = Verified::default();
        let good = record(1);
        let mut bad = good;
        bad.signature[3] ^= 1;
        for _ in 0..2 {
            assert!(!verified.fits(&bad));
            assert!(verified.fits(&good));
        }
        let mut other = good;
        other.certificate.signature[0] ^= 1;
        assert!(
            !verified.fits(&other),
            "each byte counts, also where the digest of a record has none"
        );
        assert_eq!(verified.known.lock().young.len(), 1);
    }

    #[test]
    fn what_was_signed_here_is_not_computed_again() {
        let verified = Verified::default();
        let mut forged = record(1);
        forged.signature[0] ^= 1;
        verified.note(&forged);
        assert!(verified.fits(&forged), "it was said to be this process's own");
    }

    #[test]
    fn of_a_lineage_what_the_store_has_is_not_computed_again_and_the_store_is_read_once_or_not_at_all() {
        let keys: Vec<Keypair> = (1..=4).map(|seed| Keypair::from_seed(&[seed; 32])).collect();
        let entity = keys[0].entity_id();
        let mut records = vec![OwnershipRecord::spawn(&keys[0], keys[1].entity_id(), Digest::ZERO).expect("it signs")];
        for index in 1..6 {
            let previous = records[index - 1];
            let to = keys[1 + index % 3].entity_id();
            let moved = previous.moved(to, [7; 16], 0, Digest::ZERO, &keys[1 + (index - 1) % 3]);
            records.push(moved.expect("it signs"));
        }
        // A signature that does not fit is not looked at again where the record is the store's own.
        records[5].signature[0] ^= 1;
        let verified = Verified::default();
        assert!(verified.lineage(&entity, records.clone(), &[], Vec::new).is_none());
        let mut reads = 0;
        let kept = records[3..].to_vec();
        let lineage = verified.lineage(&entity, records.clone(), &[], || {
            reads += 1;
            kept.clone()
        });
        assert_eq!(lineage.expect("it is one").records(), records);
        assert_eq!(reads, 1);
        let again = verified.lineage(&entity, records.clone(), &[], || panic!("all of it is known"));
        assert!(again.is_some());
        let mut forged = records;
        forged[5].signature[1] ^= 1;
        assert!(verified.lineage(&entity, forged, &[], || kept.clone()).is_none());
    }

    #[test]
    fn it_is_bounded_and_what_is_used_stays() {
        let mut known = Known::default();
        let digest = |number: u32| digest::plain(&number.to_le_bytes());
        for number in 0..10 * u32::try_from(GENERATION).expect("few") {
            known.add(digest(number));
            assert!(known.has(&digest(0)), "{number}");
            assert!(known.young.len() <= GENERATION && known.old.len() <= GENERATION);
        }
        assert!(!known.has(&digest(1)));
    }
}
