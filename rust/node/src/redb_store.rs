//! The store of a node in a folder: a log that is synced once a commit, and a tree of rows behind it, in redb.
//!
//! Invariants
//! * Acknowledged means synced. What is on the disk is a prefix, commit by commit, of what was submitted in its term.
//! * One process at a time. Handles are cheap to clone, and share the store; it is closed with the last of them.
//! * A store that was closed has its rows in the tree, and no log.
//! * No lock is held while a file is written or synced, except the one that makes the writer the only one.
//!
//! The folder, its files and their formats are described in ARCHITECTURE.md.

pub mod disk;
mod folder;
mod fold;
mod line;
mod shadow;
mod tree;
mod view;
mod writer;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use meshos_core::digest::Digest;
use meshos_core::id::EntityId;
use meshos_core::identity::Keypair;
use meshos_core::image;
use meshos_core::journal::SnapshotRow;
use meshos_core::move_rows::Item;
use meshos_core::rows::{KeyRange, Table, Write};
use meshos_core::segment;
use meshos_core::store::check::{Checked, check};
use meshos_core::store::{Batch, Damage, Done, Opened, Row, Step, Store, StoreError, StoreStats};

use crate::redb_store::disk::{Disk, Hook};
use crate::redb_store::fold::Folding;
use crate::redb_store::folder::Folder;
use crate::redb_store::line::Line;
use crate::redb_store::tree::{Place, Tree};
use crate::redb_store::view::{Overlay, View};
use crate::redb_store::writer::Writer;
use crate::sync::{Condvar, Mutex};

/// How often everything is checked while commits go on.
const VERIFY_TRIES: u32 = 3;

/// How a store is opened.
#[derive(Clone)]
pub struct Options {
    /// Whether one is made where none is.
    pub create: bool,
    /// Whose it has to be. A new one without it makes and keeps a key of its own.
    pub node: Option<EntityId>,
    /// Whether commits are synced. Without it nothing is durable: for tests.
    pub syncs: bool,
    /// Looks at every operation on a file, and may have it fail: for tests.
    pub hook: Option<Hook>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            create: true,
            node: None,
            syncs: true,
            hook: None,
        }
    }
}

/// What the handles and the threads of a store share.
struct Shared {
    tree: Tree,
    view: View,
    line: Line,
    folding: Folding,
    writer: Mutex<Writer>,
    commits: AtomicU64,
    log_bytes: AtomicU64,
    /// Ends last: it has the lock, and who gets that finds every file at rest.
    folder: Folder,
}

impl Shared {
    fn log_grew(&self, commits: u64, bytes: u64) {
        self.commits.store(commits, Ordering::SeqCst);
        self.log_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Removes the files of snapshots and images whose rows were not kept before the process ended. If a row cannot be read,
    /// none goes.
    fn sweep(&self) {
        let mut named = BTreeSet::new();
        let of_snapshots = self.each(Table::Snapshots, |_, value| {
            named.insert(SnapshotRow::decode(value).ok()?.name.to_string());
            Some(())
        });
        let of_moves = self.each(Table::Moves, |key, value| {
            if let (.., Item::Prepared(prepared)) = Item::decode(key, value).ok()? {
                let image = prepared.frozen.image;
                // A copy stays as long as what came since is needed. Without that it is of no use.
                let bytes = self.folder.fetch(&image, prepared.image_bytes);
                named.extend(
                    bytes
                        .ok()
                        .and_then(|bytes| image::copy_of(&bytes))
                        .map(|copy| copy.to_string()),
                );
                named.insert(image.to_string());
            }
            Some(())
        });
        if of_snapshots.and(of_moves).is_some() {
            let _ = self.folder.sweep(&named);
        }
    }

    /// Shows each row of a table. `None`: one cannot be read.
    fn each(&self, table: Table, mut see: impl FnMut(&[u8], &[u8]) -> Option<()>) -> Option<()> {
        let mut range = KeyRange::all();
        loop {
            let rows = self.view.page(&self.tree, table, &range, 1024).ok()?;
            let Some((last, _)) = rows.last() else { return Some(()) };
            range = range.after(last);
            rows.iter().try_for_each(|(key, value)| see(key, value))?;
        }
    }

    /// Commits what waits, if nobody else does.
    fn commit_if_free(&self, is_done: impl Fn() -> bool) {
        if let Some(mut writer) = self.writer.try_lock() {
            while !is_done() && writer.turn(self) {}
        }
        self.line.nudge();
    }

    fn write(&self) {
        while self.line.wait() {
            self.writer.lock().turn(self);
        }
    }
}

/// What a thread of the store does.
type Job = fn(&Shared);

/// Ends the threads with the last handle.
struct Owner {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// A store in a folder. Clones share it.
#[derive(Clone)]
pub struct RedbStore {
    owner: Arc<Owner>,
}

/// A store that was just opened.
pub struct OpenedStore {
    /// The store.
    pub store: RedbStore,
    /// The key of its node, if it keeps one.
    pub key: Option<Keypair>,
    /// What was found.
    pub opened: Opened,
}

impl RedbStore {
    /// Opens the store in a folder, or makes one.
    ///
    /// # Errors
    /// [`StoreError`]. A folder that is no store, or a damaged one, was not changed.
    pub fn open(root: &Path, options: &Options) -> Result<OpenedStore, StoreError> {
        let disk = Disk::new(options.syncs, options.hook.clone());
        let (folder, key, is_new) = Folder::open(root, disk, options.create, options.node)?;
        let id = folder.head().id;
        let (tree, place) = Tree::open(&folder.tree(), folder.disk(), &id, is_new)?;
        if is_new {
            folder.finish()?;
        }

        let mut files = Vec::new();
        for (ordinal, _) in folder.segments()? {
            let bytes = folder.disk().read(&folder.segment(ordinal))?;
            files.push((ordinal, bytes.unwrap_or_default()));
        }
        let borrowed: Vec<_> = files.iter().map(|(ordinal, bytes)| (*ordinal, &bytes[..])).collect();
        let mut overlay = Overlay::default();
        let recovered = segment::recover(&id, place.position, place.newest, &borrowed, |_, writes| {
            writes.into_iter().for_each(|write| overlay.apply(write));
        })
        .map_err(|damage| StoreError::Damaged(Damage::Log(damage)))?;

        let shared = Arc::new(Shared {
            folder,
            tree,
            view: View::of(overlay),
            line: Line::new(),
            folding: Folding::default(),
            writer: Mutex::new(Writer::after(recovered.position, recovered.next_ordinal)),
            commits: AtomicU64::new(recovered.position.number),
            log_bytes: AtomicU64::new(0),
        });
        // From now on the tree knows that this file has to be there.
        let newest = shared.writer.lock().begin(&shared)?;
        let place = Place { newest, ..place };
        shared.tree.fold(std::iter::empty(), &place)?;
        if recovered.position == place.position {
            fold::remove_below(&shared, newest);
        }
        let was_closed = !is_new && files.is_empty();
        if !was_closed && !is_new {
            shared.sweep();
        }
        let store = Self::start(shared)?;
        let opened = Opened {
            is_new,
            was_closed,
            commits: recovered.commits,
            cut: recovered.cut,
        };
        Ok(OpenedStore { store, key, opened })
    }

    fn start(shared: Arc<Shared>) -> Result<Self, StoreError> {
        let owner = Arc::new(Owner {
            shared,
            threads: Mutex::new(Vec::new()),
        });
        let jobs: [(&str, Job); 2] = [
            ("meshos-store", Shared::write),
            ("meshos-fold", |shared| shared.folding.run(shared)),
        ];
        for (name, job) in jobs {
            let shared = Arc::clone(&owner.shared);
            let thread = std::thread::Builder::new().name(name.to_owned());
            let thread = thread.spawn(move || job(&shared));
            let thread = thread.map_err(|error| disk::error(Step::Open, &error))?;
            owner.threads.lock().push(thread);
        }
        Ok(Self { owner })
    }

    fn shared(&self) -> &Shared {
        &self.owner.shared
    }

    /// Whose it is.
    #[must_use]
    pub fn node(&self) -> EntityId {
        self.shared().folder.head().node
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.shared().folder.root()
    }

    /// Keeps changes, and waits until they are durable. If nobody commits, the calling thread does.
    ///
    /// # Errors
    /// [`StoreError`]: they are not kept.
    pub fn commit(&self, writes: Vec<Write>) -> Result<u64, StoreError> {
        let answer = Arc::new(Answer::default());
        let told = Arc::clone(&answer);
        let batch = Batch {
            term: self.term(),
            writes,
        };
        let done = Box::new(move |outcome| told.give(outcome));
        match self.shared().line.push(batch, done, false) {
            Ok(()) => self.shared().commit_if_free(|| answer.is_given()),
            Err((error, done)) => done(Err(error)),
        }
        answer.wait()
    }

    /// Checks everything that is kept: every page of the tree, every row, and every snapshot that a row names. Commits go
    /// on meanwhile, unless they come so often that rows are never seen at rest: then they wait.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] with the first bad place.
    pub fn verify(&self) -> Result<Checked, StoreError> {
        let shared = self.shared();
        shared.tree.verify()?;
        for _ in 0..VERIFY_TRIES {
            let before = shared.commits.load(Ordering::SeqCst);
            let found = check(self);
            // Rows that came or went meanwhile may not fit those that were read before.
            if found.is_ok() || shared.commits.load(Ordering::SeqCst) == before {
                return found;
            }
        }
        let _no_commits = shared.writer.lock();
        check(self)
    }

    /// Commits what waits, takes everything into the tree, and lets other processes have the store. Later calls, and
    /// those of other handles, are refused.
    ///
    /// # Errors
    /// [`StoreError`]: everything acknowledged is kept, but the log could not be taken into the tree.
    pub fn close(&self) -> Result<(), StoreError> {
        self.owner.close()
    }
}

impl Owner {
    fn close(&self) -> Result<(), StoreError> {
        let threads = std::mem::take(&mut *self.threads.lock());
        if threads.is_empty() {
            return Ok(());
        }
        let shared = &*self.shared;
        shared.line.close();
        shared.folding.close();
        let here = std::thread::current().id();
        if threads.iter().any(|thread| thread.thread().id() == here) {
            // The last handle went in what is told of a commit. What was acknowledged is in the log; the files are closed
            // when this thread has ended.
            return Ok(());
        }
        for thread in threads {
            // A panic of it is a bug of ours; what was acknowledged is in the log.
            let _ = thread.join();
        }
        let position = shared.writer.lock().position();
        let folded = fold::fold(shared).and_then(|()| {
            shared.view.freeze(position, 0);
            fold::fold(shared)
        });
        if folded.is_ok() {
            fold::remove_below(shared, u64::MAX);
            // What was let go since a daemon's last snapshot.
            shared.sweep();
        }
        shared.tree.close();
        shared.folder.release();
        folded
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let _ = self.close();
    }
}

/// What a thread waits for that keeps something.
#[derive(Default)]
struct Answer {
    outcome: Mutex<Option<Result<u64, StoreError>>>,
    given: Condvar,
}

impl Answer {
    fn give(&self, outcome: Result<u64, StoreError>) {
        *self.outcome.lock() = Some(outcome);
        self.given.notify_one();
    }

    fn is_given(&self) -> bool {
        self.outcome.lock().is_some()
    }

    fn wait(&self) -> Result<u64, StoreError> {
        let mut outcome = self.outcome.lock();
        loop {
            match *outcome {
                Some(outcome) => return outcome,
                None => outcome = self.given.wait(outcome),
            }
        }
    }
}

impl Store for RedbStore {
    fn term(&self) -> u64 {
        self.shared().line.term().0
    }

    fn submit(&mut self, batch: Batch, done: Done) {
        if let Err((error, done)) = self.shared().line.push(batch, done, true) {
            done(Err(error));
        }
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.shared().view.get(&self.shared().tree, table, key)
    }

    fn page(&self, table: Table, range: &KeyRange, rows_max: usize) -> Result<Vec<Row>, StoreError> {
        self.shared().view.page(&self.shared().tree, table, range, rows_max)
    }

    fn last(&self, table: Table, range: &KeyRange) -> Result<Option<Row>, StoreError> {
        self.shared().view.last(&self.shared().tree, table, range)
    }

    fn keep(&mut self, parts: &[&[u8]]) -> Result<Digest, StoreError> {
        self.shared().folder.keep(parts)
    }

    fn fetch(&self, name: &Digest, bytes_max: u64) -> Result<Vec<u8>, StoreError> {
        self.shared().folder.fetch(name, bytes_max)
    }

    fn discard(&mut self, name: &Digest) -> Result<(), StoreError> {
        self.shared().folder.discard(name)
    }

    fn stats(&self) -> StoreStats {
        let shared = self.shared();
        let (snapshot_bytes, file_bytes) = shared.folder.sizes();
        StoreStats {
            commits: shared.commits.load(Ordering::Relaxed),
            file_bytes,
            snapshot_bytes,
            log_bytes: shared.log_bytes.load(Ordering::Relaxed),
            failures: shared.line.term().1,
        }
    }
}
