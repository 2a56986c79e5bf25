//! Bytes on their way, in a buffer that whoever lent it has back afterwards.
//!
//! Invariants
//! * A buffer that was lent goes back once, when the last reader lets go of it.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// Lends buffers.
pub trait Home: Send + Sync {
    /// Has a buffer back, with what is in it, on the thread of whoever read it last: it is short and never waits.
    fn take_back(&self, buffer: Vec<u8>);
}

/// Bytes that are owned, perhaps in a buffer of somebody else.
pub struct Buffer {
    bytes: Vec<u8>,
    home: Option<Arc<dyn Home>>,
}

impl Buffer {
    /// In a buffer that goes back.
    #[must_use]
    pub const fn lent(bytes: Vec<u8>, home: Arc<dyn Home>) -> Self {
        let home = Some(home);
        Self { bytes, home }
    }

    /// The bytes, to be changed.
    pub const fn bytes_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// The bytes; whoever lent the buffer does not have it back.
    #[must_use]
    pub fn into_vec(mut self) -> Vec<u8> {
        self.home = None;
        std::mem::take(&mut self.bytes)
    }
}

impl From<Vec<u8>> for Buffer {
    fn from(bytes: Vec<u8>) -> Self {
        Self { bytes, home: None }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} bytes)", self.bytes.len())
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(home) = self.home.take() {
            home.take_back(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Lender(Mutex<Vec<Vec<u8>>>);

    impl Home for Lender {
        fn take_back(&self, buffer: Vec<u8>) {
            self.0.lock().unwrap().push(buffer);
        }
    }

    #[test]
    fn a_buffer_goes_back_once_and_what_was_taken_out_does_not() {
        let lender = Arc::new(Lender::default());
        let mut lent = Buffer::lent(vec![1, 2], lender.clone());
        lent.bytes_mut().push(3);
        assert_eq!(&lent[..], [1, 2, 3]);
        drop(lent);
        assert_eq!(*lender.0.lock().unwrap(), [[1, 2, 3]]);
        assert_eq!(Buffer::lent(vec![4], lender.clone()).into_vec(), [4]);
        drop(Buffer::from(vec![5]));
        assert_eq!(lender.0.lock().unwrap().len(), 1);
    }
}
