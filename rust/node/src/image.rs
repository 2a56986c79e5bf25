//! The image of a daemon that travels: named by its digest, and read in pieces, so that the state is not copied for it.

use std::ops::Range;
use std::sync::Arc;

use meshos_core::digest::Digest;

/// Bytes that an image is made of.
pub type Part = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// The plain bytes of what travels, in parts.
pub struct Image {
    /// BLAKE3 of the bytes; the name under which a store keeps them.
    pub digest: Digest,
    /// How many they are.
    pub len: u64,
    parts: Vec<Part>,
}

impl Image {
    /// An image of these parts, which are one after the other.
    #[must_use]
    pub fn new(digest: Digest, parts: Vec<Part>) -> Self {
        let len = parts.iter().map(|part| (**part).as_ref().len() as u64).sum();
        Self { digest, len, parts }
    }

    /// Appends the bytes of a range, as far as there are so many.
    pub fn slice(&self, range: Range<u64>, out: &mut Vec<u8>) {
        let mut at = 0;
        for part in self.parts() {
            let (begin, end) = (at, at + part.len() as u64);
            let cut = |place: u64| usize::try_from(place.clamp(begin, end) - begin).expect("it is within a slice");
            let (first, last) = (cut(range.start), cut(range.end));
            if first < last {
                out.extend_from_slice(&part[first..last]);
            }
            at = end;
        }
    }

    /// The parts, in order.
    #[must_use]
    pub fn parts(&self) -> Vec<&[u8]> {
        self.parts.iter().map(|part| (**part).as_ref()).collect()
    }
}
