//! The folder of a store: what is where, whose it is, and that one process has it.

use std::collections::BTreeSet;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use meshos_core::codec::{DecodeError, Fault};
use meshos_core::digest::{self, Digest};
use meshos_core::id::EntityId;
use meshos_core::identity::Keypair;
use meshos_core::store::head::{Head, decode_key, key_to_bytes};
use meshos_core::store::{Damage, Step, StoreError};

use crate::clock;
use crate::keys;
use crate::redb_store::disk::{BESIDE, Disk, error};

const HEAD: &str = "meshos.store";
const LOCK: &str = "lock";
const KEY: &str = "node.key";
const TREE: &str = "tree.redb";
const LOG: &str = "log";
const SNAPSHOTS: &str = "snapshots";
const SEGMENT: &str = ".segment";

/// The folder of a store that this process has open.
#[derive(Debug)]
pub struct Folder {
    disk: Disk,
    root: PathBuf,
    head: Head,
    /// Locked as long as it is open.
    lock: File,
}

impl Folder {
    /// Opens a folder, or makes one. `node` is whose it has to be; a new one without it gets a key of its own.
    ///
    /// # Errors
    /// [`StoreError`]; a folder that is no store was not changed.
    pub fn open(
        root: &Path,
        disk: Disk,
        create: bool,
        node: Option<EntityId>,
    ) -> Result<(Self, Option<Keypair>, bool), StoreError> {
        if root.is_file() {
            return Err(StoreError::NotAStore);
        }
        let is_new = disk.size(&root.join(HEAD))?.is_none();
        if is_new {
            Self::check_empty(root, &disk)?;
            if !create {
                return Err(StoreError::Missing);
            }
            disk.make_folder(root)?;
        }
        let lock = disk.open_or_create(&root.join(LOCK))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StoreError::Locked),
            Err(TryLockError::Error(found)) => return Err(error(Step::Open, &found)),
        }
        // Another process may have made it between the look and the lock.
        let Some(bytes) = disk.read(&root.join(HEAD))? else {
            return Self::make(root, disk, lock, node);
        };
        let head = Head::decode(&bytes).map_err(|found| match found.fault {
            Fault::Magic => StoreError::NotAStore,
            Fault::NewerVersion { found, known } => StoreError::NewerVersion { found, known },
            _ => StoreError::Damaged(Damage::Head(found)),
        })?;
        if let Some(expected) = node.filter(|expected| *expected != head.node) {
            return Err(StoreError::OtherNode {
                found: head.node,
                expected,
            });
        }
        let folder = Self {
            disk,
            root: root.to_owned(),
            head,
            lock,
        };
        let key = folder.key()?;
        Ok((folder, key, false))
    }

    fn check_empty(root: &Path, disk: &Disk) -> Result<(), StoreError> {
        if disk.size(root)?.is_none() {
            return Ok(());
        }
        let files = disk.list(root).map_err(|_| StoreError::NotAStore)?;
        // A process that ended while it made the store left these.
        let known = |name: &str| [LOCK, KEY, LOG, SNAPSHOTS].contains(&name) || name.ends_with(BESIDE);
        let is_half_made = files.iter().any(|(name, _)| *name == format!("{HEAD}{BESIDE}"));
        let is_left = |name: &str| known(name) || is_half_made && name == TREE;
        if files.iter().all(|(name, _)| is_left(name)) {
            return Ok(());
        }
        if files.iter().any(|(name, _)| name == TREE) {
            let fault = Fault::Truncated {
                needed: Head::SIZE as u64,
            };
            return Err(StoreError::Damaged(Damage::Head(DecodeError { offset: 0, fault })));
        }
        Err(StoreError::NotAStore)
    }

    /// The head gets its name last, by [`Folder::finish`]: a folder with one has everything.
    fn make(
        root: &Path,
        disk: Disk,
        lock: File,
        node: Option<EntityId>,
    ) -> Result<(Self, Option<Keypair>, bool), StoreError> {
        disk.make_folder(&root.join(LOG))?;
        disk.make_folder(&root.join(SNAPSHOTS))?;
        let key = node.is_none().then(keys::generate);
        if let Some(key) = &key {
            let seed = key.seed().expect("a fresh pair has its secret half");
            disk.put(root, KEY, &[&key_to_bytes(&seed)])?;
        }
        let id = match (node, &key) {
            (Some(node), _) => node,
            (None, Some(key)) => key.entity_id(),
            (None, None) => unreachable!("one of them is there"),
        };
        let head = Head {
            id: keys::random_bytes(),
            node: id,
            made_at: clock::unix_ms(),
        };
        // From here to the end a folder says by this name that it is half made.
        let beside = root.join(format!("{HEAD}{BESIDE}"));
        disk.remove(&root.join(TREE))?;
        disk.remove(&beside)?;
        let file = disk.create(&beside)?;
        disk.write(&file, &beside, &head.to_bytes())?;
        disk.sync(&file, &beside)?;
        disk.sync_folder(root)?;
        let folder = Self {
            disk,
            root: root.to_owned(),
            head,
            lock,
        };
        Ok((folder, key, true))
    }

    /// Says that everything of a new store is there.
    ///
    /// # Errors
    /// [`StoreError`]: it is half made, and made anew the next time.
    pub fn finish(&self) -> Result<(), StoreError> {
        let (disk, root) = (&self.disk, &self.root);
        disk.rename(&root.join(format!("{HEAD}{BESIDE}")), &root.join(HEAD))?;
        disk.sync_folder(root)?;
        match root.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            Some(parent) => disk.sync_folder(parent),
            None => Ok(()),
        }
    }

    fn key(&self) -> Result<Option<Keypair>, StoreError> {
        let Some(bytes) = self.disk.read(&self.root.join(KEY))? else {
            return Ok(None);
        };
        let seed = decode_key(&bytes).map_err(|found| StoreError::Damaged(Damage::Key(found)))?;
        let key = Keypair::from_seed(&seed);
        if key.entity_id() != self.head.node {
            return Err(StoreError::OtherNode {
                found: key.entity_id(),
                expected: self.head.node,
            });
        }
        Ok(Some(key))
    }

    /// What the store is.
    #[must_use]
    pub const fn head(&self) -> &Head {
        &self.head
    }

    /// The way to the files.
    #[must_use]
    pub const fn disk(&self) -> &Disk {
        &self.disk
    }

    /// Where it is.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the tree is.
    #[must_use]
    pub fn tree(&self) -> PathBuf {
        self.root.join(TREE)
    }

    /// Where the log is.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.root.join(LOG)
    }

    /// Where a file of the log is.
    #[must_use]
    pub fn segment(&self, ordinal: u64) -> PathBuf {
        self.log().join(format!("{ordinal:016x}{SEGMENT}"))
    }

    /// The files of the log by their numbers, ascending, with their sizes.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn segments(&self) -> Result<Vec<(u64, u64)>, StoreError> {
        let number = |name: &str| u64::from_str_radix(name.strip_suffix(SEGMENT)?, 16).ok();
        let files = self.disk.list(&self.log())?;
        let mut found: Vec<_> = files
            .iter()
            .filter_map(|(name, size)| Some((number(name)?, *size)))
            .collect();
        found.sort_unstable();
        Ok(found)
    }

    /// Keeps a snapshot under the digest of what is in it.
    ///
    /// # Errors
    /// [`StoreError`]: it is not kept.
    pub fn keep(&self, parts: &[&[u8]]) -> Result<Digest, StoreError> {
        let name = digest::plain_of_parts(parts);
        self.disk.put(&self.root.join(SNAPSHOTS), &name.to_string(), parts)?;
        Ok(name)
    }

    /// Reads a snapshot, and checks it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn fetch(&self, name: &Digest, bytes_max: u64) -> Result<Vec<u8>, StoreError> {
        let path = self.root.join(SNAPSHOTS).join(name.to_string());
        let size = self.disk.size(&path)?.ok_or(StoreError::NoSnapshot { name: *name })?;
        if size > bytes_max {
            return Err(StoreError::TooLarge { size, max: bytes_max });
        }
        let bytes = self.disk.read(&path)?.ok_or(StoreError::NoSnapshot { name: *name })?;
        if digest::plain(&bytes) != *name {
            return Err(StoreError::Damaged(Damage::Snapshot { name: *name }));
        }
        Ok(bytes)
    }

    /// Lets a snapshot go.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn discard(&self, name: &Digest) -> Result<(), StoreError> {
        self.disk.remove(&self.root.join(SNAPSHOTS).join(name.to_string()))
    }

    /// Removes snapshots that nothing names, and files that were being made. What cannot be removed stays.
    ///
    /// # Errors
    /// [`StoreError`]: the folder cannot be read.
    pub fn sweep(&self, named: &BTreeSet<String>) -> Result<(), StoreError> {
        let folder = self.root.join(SNAPSHOTS);
        for (name, _) in self.disk.list(&folder)? {
            if !named.contains(&name) {
                let _ = self.disk.remove(&folder.join(name));
            }
        }
        Ok(())
    }

    /// Bytes of the snapshots, and of all files.
    #[must_use]
    pub fn sizes(&self) -> (u64, u64) {
        let sum = |path: &Path| -> u64 {
            let files = self.disk.list(path).unwrap_or_default();
            files.iter().map(|(_, size)| size).sum()
        };
        let snapshots = sum(&self.root.join(SNAPSHOTS));
        let tree = self.disk.size(&self.tree()).ok().flatten().unwrap_or(0);
        (snapshots, snapshots + sum(&self.log()) + tree + Head::SIZE as u64)
    }

    /// Lets other processes have it.
    pub fn release(&self) {
        // Closing the file does it too.
        let _ = self.lock.unlock();
    }
}
