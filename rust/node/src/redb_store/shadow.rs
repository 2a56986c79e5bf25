//! A file that is read and never written: what is written to it stays in memory.
//!
//! redb repairs a file when it opens it. A file whose disk takes no more writes can still be read so.

use std::collections::BTreeMap;
use std::fmt;
use std::io;

use redb::StorageBackend;
use redb::backends::FileBackend;

use crate::sync::Mutex;

#[derive(Default)]
struct Written {
    parts: BTreeMap<u64, Vec<u8>>,
    len: u64,
}

/// A file with writes over it that are only in memory.
pub struct Shadow {
    file: FileBackend,
    written: Mutex<Written>,
}

impl Shadow {
    /// Lays nothing over a file yet.
    ///
    /// # Errors
    /// Its length cannot be read.
    pub fn over(file: FileBackend) -> io::Result<Self> {
        let len = file.len()?;
        Ok(Self {
            file,
            written: Mutex::new(Written {
                parts: BTreeMap::new(),
                len,
            }),
        })
    }
}

impl fmt::Debug for Shadow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shadow").finish_non_exhaustive()
    }
}

/// Where `len` bytes at `offset` overlap with a part: the offsets in both, and how many.
fn overlap(offset: u64, len: usize, start: u64, part: usize) -> Option<(usize, usize, usize)> {
    let from = offset.max(start);
    let until = (offset + len as u64).min(start + part as u64);
    let count = until.checked_sub(from).filter(|count| *count > 0)?;
    let at = |number: u64| usize::try_from(number).expect("inside of a buffer");
    Some((at(from - offset), at(from - start), at(count)))
}

impl StorageBackend for Shadow {
    fn len(&self) -> io::Result<u64> {
        Ok(self.written.lock().len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let written = self.written.lock();
        if offset + out.len() as u64 > written.len {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        let in_file = self.file.len()?.saturating_sub(offset).min(out.len() as u64);
        let (below, beyond) = out.split_at_mut(usize::try_from(in_file).expect("inside of a buffer"));
        self.file.read(offset, below)?;
        beyond.fill(0);
        for (start, part) in written.parts.range(..offset + out.len() as u64) {
            if let Some((to, from, count)) = overlap(offset, out.len(), *start, part.len()) {
                out[to..to + count].copy_from_slice(&part[from..from + count]);
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.written.lock().len = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut written = self.written.lock();
        // What lies under it is laid over with it, so that parts never overlap.
        for (start, part) in written.parts.range_mut(..offset + data.len() as u64) {
            if let Some((from, to, count)) = overlap(offset, data.len(), *start, part.len()) {
                part[to..to + count].copy_from_slice(&data[from..from + count]);
            }
        }
        let longer = written.parts.get(&offset).is_some_and(|part| part.len() >= data.len());
        if !longer {
            written.parts.insert(offset, data.to_vec());
        }
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_the_file_stays() {
        let path = std::env::temp_dir().join(format!("meshos-shadow-{}", std::process::id()));
        std::fs::write(&path, [1; 10]).expect("written");
        let file = std::fs::File::open(&path).expect("it is there");
        let shadow = Shadow::over(FileBackend::new(file).expect("a file")).expect("a file");
        let read = |offset, len| {
            let mut out = vec![9; len];
            shadow.read(offset, &mut out).map(|()| out)
        };
        shadow.write(2, &[2; 4]).expect("in memory");
        shadow.write(4, &[3; 4]).expect("in memory");
        shadow.write(3, &[4; 2]).expect("in memory");
        assert_eq!(read(0, 10).expect("inside"), [1, 1, 2, 4, 4, 3, 3, 3, 1, 1]);
        assert_eq!(read(4, 2).expect("inside"), [4, 3]);
        assert!(read(4, 7).is_err());
        shadow.set_len(12).expect("in memory");
        assert_eq!(read(8, 4).expect("inside"), [1, 1, 0, 0]);
        assert_eq!(std::fs::read(&path).expect("it is there"), [1; 10]);
        std::fs::remove_file(path).expect("it is there");
    }
}
