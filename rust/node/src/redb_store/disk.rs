//! Files of a store: every operation on them, so that a test can make any of them fail.
//!
//! Invariants
//! * What is renamed into place was synced before, and its folder is synced after.
//! * An error of the system becomes a [`StoreError`] here, and nowhere else.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;
use std::sync::Arc;

use meshos_core::store::{Step, StoreError};

/// Looks at an operation before it is done, and may have it fail. A write that fails for lack of space is half done.
pub type Hook = Arc<dyn Fn(Step, &Path) -> io::Result<()> + Send + Sync>;

/// The way to the files.
#[derive(Clone)]
pub struct Disk {
    hook: Option<Hook>,
    syncs: bool,
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk")
            .field("syncs", &self.syncs)
            .finish_non_exhaustive()
    }
}

/// What an error of the system says about a store.
pub fn error(step: Step, error: &io::Error) -> StoreError {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => StoreError::Full,
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => StoreError::ReadOnly,
        _ => StoreError::Io {
            step,
            code: error.raw_os_error(),
        },
    }
}

impl Disk {
    /// Files of the system. With `syncs` false nothing is durable, which only a test may want.
    #[must_use]
    pub fn new(syncs: bool, hook: Option<Hook>) -> Self {
        Self { hook, syncs }
    }

    /// Asks whether an operation may be done.
    ///
    /// # Errors
    /// It is to fail.
    pub fn ask(&self, step: Step, path: &Path) -> io::Result<()> {
        self.hook.as_ref().map_or(Ok(()), |hook| hook(step, path))
    }

    fn doing<T>(&self, step: Step, path: &Path, work: impl FnOnce() -> io::Result<T>) -> Result<T, StoreError> {
        self.ask(step, path)
            .and_then(|()| work())
            .map_err(|found| error(step, &found))
    }

    /// Makes a file that is not there, which only its user can read.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn create(&self, path: &Path) -> Result<File, StoreError> {
        self.doing(Step::Open, path, || private().create_new(true).open(path))
    }

    /// Opens a file for reading and writing.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open(&self, path: &Path) -> Result<File, StoreError> {
        self.doing(Step::Open, path, || {
            OpenOptions::new().read(true).write(true).open(path)
        })
    }

    /// Opens a file for reading and writing, and makes it if it is not there.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open_or_create(&self, path: &Path) -> Result<File, StoreError> {
        self.doing(Step::Open, path, || private().create(true).truncate(false).open(path))
    }

    /// Makes a folder that only its user can read, if it is not there.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn make_folder(&self, path: &Path) -> Result<(), StoreError> {
        self.doing(Step::Open, path, || private_folder(path))
    }

    /// Reads a whole file; `None`: it is not there.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
        let work = || match File::open(path) {
            Ok(mut file) => {
                let mut bytes = Vec::new();
                file.read_to_end(&mut bytes)?;
                Ok(Some(bytes))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        };
        self.doing(Step::Read, path, work)
    }

    /// Bytes of a file; `None`: it is not there.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn size(&self, path: &Path) -> Result<Option<u64>, StoreError> {
        let work = || match std::fs::metadata(path) {
            Ok(found) => Ok(Some(found.len())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        };
        self.doing(Step::Read, path, work)
    }

    /// Names and sizes of the files in a folder.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn list(&self, path: &Path) -> Result<Vec<(String, u64)>, StoreError> {
        let work = || {
            let entries = std::fs::read_dir(path)?.map(|entry| {
                let entry = entry?;
                Ok((
                    entry.file_name().to_string_lossy().into_owned(),
                    entry.metadata()?.len(),
                ))
            });
            entries.collect()
        };
        self.doing(Step::Read, path, work)
    }

    /// Appends to a file.
    ///
    /// # Errors
    /// [`StoreError`]: some of it may be there.
    pub fn write(&self, mut file: &File, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        let asked = self.ask(Step::Write, path);
        let written = match asked {
            Err(error) if error.kind() == ErrorKind::StorageFull => {
                file.write_all(&bytes[..bytes.len() / 2]).and(Err(error))
            }
            Err(error) => Err(error),
            Ok(()) => file.write_all(bytes),
        };
        written.map_err(|found| error(Step::Write, &found))
    }

    /// Waits until what was written is durable.
    ///
    /// # Errors
    /// [`StoreError`]: it may be or not, and asking again says nothing.
    pub fn sync(&self, file: &File, path: &Path) -> Result<(), StoreError> {
        self.doing(Step::Sync, path, || if self.syncs { file.sync_data() } else { Ok(()) })
    }

    /// Waits until the names in a folder are durable.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn sync_folder(&self, path: &Path) -> Result<(), StoreError> {
        self.doing(Step::Sync, path, || {
            // Elsewhere a folder cannot be opened, and the system keeps names on its own.
            if self.syncs && cfg!(unix) {
                File::open(path)?.sync_all()?;
            }
            Ok(())
        })
    }

    /// Renames a file over whatever has the name.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn rename(&self, from: &Path, to: &Path) -> Result<(), StoreError> {
        self.doing(Step::Rename, to, || std::fs::rename(from, to))
    }

    /// Removes a file, if it is there.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn remove(&self, path: &Path) -> Result<(), StoreError> {
        self.doing(Step::Remove, path, || match std::fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        })
    }

    /// Whether syncs are done.
    #[must_use]
    pub const fn syncs(&self) -> bool {
        self.syncs
    }

    /// Makes a file with these bytes, in the place of whatever has the name: written beside it, synced, and renamed.
    ///
    /// # Errors
    /// [`StoreError`]: nothing has changed, but a file beside it may be left.
    pub fn put(&self, folder: &Path, name: &str, parts: &[&[u8]]) -> Result<(), StoreError> {
        let beside = folder.join(format!("{name}{BESIDE}"));
        self.remove(&beside)?;
        let file = self.create(&beside)?;
        for part in parts {
            self.write(&file, &beside, part)?;
        }
        self.sync(&file, &beside)?;
        self.rename(&beside, &folder.join(name))?;
        self.sync_folder(folder)
    }
}

/// How the names of files end that are being made.
pub const BESIDE: &str = ".new";

#[cfg(unix)]
fn private() -> OpenOptions {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

#[cfg(not(unix))]
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    options
}

#[cfg(unix)]
fn private_folder(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

#[cfg(not(unix))]
fn private_folder(path: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).create(path)
}
