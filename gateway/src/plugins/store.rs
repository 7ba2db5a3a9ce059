//! Uploaded modules and their settings, kept across restarts.
//!
//! ```text
//! DATA_DIR/lock                 held while the process lives
//! DATA_DIR/uploads.json         which uploads there are; replaced as a whole, never edited
//! DATA_DIR/uploads.json.next    the index of a change that is being prepared
//! DATA_DIR/blobs/SHA256.wasm    module bytes under the name of their content
//! DATA_DIR/compiled, fetched    what can be made or fetched again, see `compiled` and `fetch`
//! ```
//!
//! Modules are kept for every version that an upload remembers.
//!
//! A change is prepared first (everything that can fail for want of space or rights is on disk then) and
//! committed by one rename, or discarded. At any moment a crash leaves the old index or the new one, and
//! blobs that no index names are swept at the next start. The store knows nothing of what modules and
//! settings mean.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    Digest,
    upload::{FirstFormat, Upload, Uploads},
};

/// Why there is no store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Two processes would overwrite each other's uploads.
    #[error(
        "the data directory {} is in use by another gateway; stop it, take over from it with --takeover, or choose \
         another directory with --data-dir", .0.display()
    )]
    Locked(PathBuf),
    /// The gateway that we take over from can read it, and may have to go on.
    #[error("the uploads of the running gateway cannot be read: {0}; it goes on")]
    Unreadable(io::Error),
}

/// The uploads and where they are kept.
pub(crate) struct Store {
    place: Place,
    uploads: Uploads,
    /// The index on disk is older than `uploads`: what it names must stay.
    behind: bool,
}

enum Place {
    Disk { disk: Disk, lock: File },
    Memory(HashMap<Digest, Bytes>),
}

/// The folder. Its methods block.
#[derive(Clone)]
pub(crate) struct Disk {
    root: Arc<Path>,
}

/// A change that is ready: commit it or discard it.
pub(crate) struct Prepared {
    uploads: Uploads,
    blob: Option<(Digest, Bytes)>,
}

impl Prepared {
    /// The uploads as they will be.
    pub(crate) fn uploads(&self) -> &Uploads {
        &self.uploads
    }
}

/// What every format of the index begins with. A number that is not known is refused rather than misread.
#[derive(Deserialize)]
struct Format {
    format: u32,
}

/// The index of a format.
#[derive(Serialize, Deserialize)]
struct Index<U> {
    format: u32,
    uploads: U,
}

const FORMAT: u32 = 2;
/// Longest index that is read: above what the limits of uploads and settings allow (100 uploads, each with 1 MiB of
/// current settings and as much of earlier ones).
const MAX_INDEX: u64 = 256 << 20;

impl Store {
    /// Opens or creates the store in `data_dir`. Blocks. `lock`: that of the process that we take over from.
    ///
    /// Without a directory that can be written, uploads live in memory; with an index that cannot be read,
    /// the store starts empty and the index is kept aside. The second value says so, for the log.
    pub(crate) fn open(data_dir: Option<&Path>, lock: Option<File>) -> Result<(Self, Vec<String>), StoreError> {
        let mut notes = Vec::new();
        let memory = || Self { place: Place::Memory(HashMap::new()), uploads: Uploads::new(), behind: false };
        let Some(root) = data_dir else {
            notes.push("no data directory: uploaded plugins live in memory and are gone after a restart".to_owned());
            return Ok((memory(), notes));
        };
        let disk = Disk { root: root.into() };
        if let Some(lock) = lock {
            let uploads = disk.read_index().map_err(StoreError::Unreadable)?;
            return Ok((Self { place: Place::Disk { disk, lock }, uploads, behind: false }, notes));
        }
        let lock = match disk.lock() {
            Ok(lock) => lock,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(StoreError::Locked(root.to_owned())),
            Err(error) => {
                notes.push(format!(
                    "data directory {} cannot be written ({error}): uploaded plugins live in memory and are gone after a restart; see --data-dir",
                    root.display()
                ));
                return Ok((memory(), notes));
            }
        };
        let uploads = match disk.read_index() {
            Ok(uploads) => {
                disk.sweep(&used(&uploads));
                uploads
            }
            Err(error) => {
                let aside = disk.set_index_aside();
                notes.push(format!(
                    "the list of uploaded plugins in {} cannot be read ({error}): starting without uploads; {aside}",
                    root.display()
                ));
                Uploads::new()
            }
        };
        Ok((Self { place: Place::Disk { disk, lock }, uploads, behind: false }, notes))
    }

    /// The lock of the directory, if there is one. It holds as long as anybody has it.
    pub(crate) fn lock(&self) -> Option<&File> {
        match &self.place {
            Place::Disk { lock, .. } => Some(lock),
            Place::Memory(_) => None,
        }
    }

    /// The data directory, if it is one that we can write to.
    pub(crate) fn folder(&self) -> Option<&Path> {
        match &self.place {
            Place::Disk { disk, .. } => Some(&disk.root),
            Place::Memory(_) => None,
        }
    }

    /// What is committed.
    pub(crate) fn uploads(&self) -> &Uploads {
        &self.uploads
    }

    /// How to read a committed module, from anywhere.
    pub(crate) fn blob(&self, digest: &Digest) -> Blob {
        match &self.place {
            Place::Disk { disk, .. } => Blob::File(disk.blob_path(digest)),
            Place::Memory(blobs) => Blob::Memory(blobs.get(digest).cloned()),
        }
    }

    /// Writes everything that a change to `uploads` needs, but does not make it visible.
    ///
    /// An error is about the disk: full, read-only, gone. Nothing has changed then.
    pub(crate) async fn prepare(&self, uploads: Uploads, blob: Option<(Digest, Bytes)>) -> io::Result<Prepared> {
        let prepared = Prepared { uploads, blob };
        let Place::Disk { disk, .. } = &self.place else {
            return Ok(prepared);
        };
        let (disk, used) = (disk.clone(), (!self.behind).then(|| used(&self.uploads)));
        tokio::task::spawn_blocking(move || {
            let written = match &prepared.blob {
                Some((digest, bytes)) => disk.write_blob(digest, bytes),
                None => Ok(()),
            };
            let written = written.and_then(|()| disk.write_next(&prepared.uploads));
            if written.is_err() {
                // Half a module would keep a full disk full, for smaller changes, too.
                disk.discard_next();
                used.inspect(|used| disk.sweep(used));
            }
            written.map(|()| prepared)
        })
        .await
        .map_err(io::Error::other)?
    }

    /// Makes a prepared change the truth. Blocks for a rename and a few removals.
    ///
    /// If it fails, the change is in effect for this process but not for the next.
    pub(crate) fn commit(&mut self, prepared: Prepared) -> io::Result<()> {
        self.uploads = prepared.uploads;
        match &mut self.place {
            Place::Disk { disk, .. } => {
                self.behind = true;
                disk.commit_next()?;
                self.behind = false;
                disk.sweep(&used(&self.uploads));
            }
            Place::Memory(blobs) => {
                blobs.extend(prepared.blob);
                let used = used(&self.uploads);
                blobs.retain(|digest, _| used.contains(digest));
            }
        }
        Ok(())
    }

    /// Forgets a prepared change.
    pub(crate) fn discard(&self, prepared: Prepared) {
        if let Place::Disk { disk, .. } = &self.place {
            drop(prepared);
            disk.discard_next();
            if !self.behind {
                disk.sweep(&used(&self.uploads));
            }
        }
    }
}

/// The modules of every version.
fn used(uploads: &Uploads) -> HashSet<Digest> {
    uploads.values().flat_map(Upload::versions).map(|version| version.digest).collect()
}

/// Where the bytes of an uploaded module are.
#[derive(Debug, Clone)]
pub(crate) enum Blob {
    File(PathBuf),
    Memory(Option<Bytes>),
}

impl Disk {
    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs").join(format!("{digest}.wasm"))
    }

    /// Creates the folders and takes the lock. `WouldBlock` if another process has it.
    fn lock(&self) -> io::Result<File> {
        fs::create_dir_all(self.path("blobs"))?;
        let lock = File::options().create(true).truncate(false).write(true).open(self.path("lock"))?;
        lock.try_lock().map_err(io::Error::from)?;
        // The lock file may be writable where the folder is not.
        let probe = self.path("uploads.json.next");
        File::create(&probe)?;
        fs::remove_file(probe)?;
        Ok(lock)
    }

    fn read_index(&self) -> io::Result<Uploads> {
        let file = match File::open(self.path("uploads.json")) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Uploads::new()),
            Err(error) => return Err(error),
        };
        let mut text = Vec::new();
        file.take(MAX_INDEX).read_to_end(&mut text)?;
        let Format { format } = serde_json::from_slice(&text)?;
        match format {
            FORMAT => Ok(serde_json::from_slice::<Index<Uploads>>(&text)?.uploads),
            1 => {
                let index: Index<BTreeMap<String, FirstFormat>> = serde_json::from_slice(&text)?;
                Ok(index.uploads.into_iter().map(|(name, upload)| (name, upload.into())).collect())
            }
            other => Err(io::Error::other(format!("format {other} instead of {FORMAT}"))),
        }
    }

    fn set_index_aside(&self) -> String {
        let aside = self.path("uploads.json.unreadable");
        match fs::rename(self.path("uploads.json"), &aside) {
            Ok(()) => format!("it is kept as {}", aside.display()),
            Err(error) => format!("it could not be kept aside ({error})"),
        }
    }

    fn write_next(&self, uploads: &Uploads) -> io::Result<()> {
        let mut file = File::create(self.path("uploads.json.next"))?;
        // Not indented: settings that nest deeply would become many times as long.
        let mut text = serde_json::to_vec(&Index { format: FORMAT, uploads })?;
        text.push(b'\n');
        file.write_all(&text)?;
        file.sync_all()
    }

    fn commit_next(&self) -> io::Result<()> {
        fs::rename(self.path("uploads.json.next"), self.path("uploads.json"))?;
        File::open(&self.root)?.sync_all()
    }

    fn discard_next(&self) {
        // It is overwritten by the next change if it cannot be removed.
        let _ = fs::remove_file(self.path("uploads.json.next"));
    }

    fn write_blob(&self, digest: &Digest, bytes: &[u8]) -> io::Result<()> {
        let path = self.blob_path(digest);
        let next = path.with_extension("next");
        let mut file = File::create(&next)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(next, &path)?;
        File::open(self.root.join("blobs"))?.sync_all()
    }

    /// Removes blobs that no version names; only files with names that blobs have, in case somebody chose
    /// a directory with other things in it. What cannot be removed is tried again with the next change.
    fn sweep(&self, used: &HashSet<Digest>) {
        for entry in fs::read_dir(self.root.join("blobs")).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some((stem, extension)) = name.to_str().and_then(|name| name.split_once('.')) else { continue };
            let Ok(digest) = stem.parse::<Digest>() else { continue };
            if extension == "next" || (extension == "wasm" && !used.contains(&digest)) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use serde_json::json;

    use super::*;

    fn upload(module: &[u8]) -> Upload {
        let settings = json!({"phase": "AUTHN"}).as_object().unwrap().clone();
        Upload::new(Digest::of(module), module.len() as u64, settings, "2026-01-01T00:00:00Z".into())
    }

    fn open(root: &Path) -> (Store, Vec<String>) {
        Store::open(Some(root), None).unwrap()
    }

    /// Prepares a change that adds `name` with `module`.
    async fn prepare(store: &Store, name: &str, module: &'static [u8]) -> Prepared {
        let mut uploads = store.uploads().clone();
        uploads.insert(name.into(), upload(module));
        store.prepare(uploads, Some((Digest::of(module), Bytes::from_static(module)))).await.unwrap()
    }

    fn blob(store: &Store, module: &[u8]) -> Option<Vec<u8>> {
        match store.blob(&Digest::of(module)) {
            Blob::File(path) => fs::read(path).ok(),
            Blob::Memory(bytes) => bytes.map(Vec::from),
        }
    }

    #[tokio::test]
    async fn uploads_survive_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let before = {
            let (mut store, notes) = open(folder.path());
            assert!(notes.is_empty());
            let prepared = prepare(&store, "a", b"one").await;
            store.commit(prepared).unwrap();
            store.uploads().clone()
        };
        let (store, notes) = open(folder.path());
        assert!(notes.is_empty());
        assert_eq!(store.uploads(), &before);
        assert_eq!(blob(&store, b"one").unwrap(), b"one");
    }

    #[tokio::test]
    async fn nothing_is_true_before_the_commit() {
        let folder = tempfile::tempdir().unwrap();
        let (mut store, _) = open(folder.path());
        let first = prepare(&store, "a", b"one").await;
        store.commit(first).unwrap();

        let second = prepare(&store, "a", b"two").await;
        assert_eq!(store.uploads()["a"].current.digest, Digest::of(b"one"));
        store.discard(second);
        assert!(blob(&store, b"two").is_none(), "swept");

        // A crash between prepare and commit.
        let third = prepare(&store, "b", b"three").await;
        drop((third, store));
        let (store, notes) = open(folder.path());
        assert!(notes.is_empty());
        assert_eq!(store.uploads().keys().collect::<Vec<_>>(), ["a"]);
        assert!(blob(&store, b"three").is_none(), "swept");
        assert_eq!(blob(&store, b"one").unwrap(), b"one");
    }

    /// A process that dies leaves what it has written. Every step of a change is such a moment.
    #[tokio::test]
    async fn a_crash_leaves_the_state_before_or_after() {
        let written = |root: &Path, name: &str, bytes: &[u8]| fs::write(root.join(name), bytes).unwrap();
        let blob_of_two = format!("blobs/{}", Digest::of(b"two"));
        for crash in 0..6 {
            let folder = tempfile::tempdir().unwrap();
            let root = folder.path();
            let (mut store, _) = open(root);
            let first = prepare(&store, "a", b"one").await;
            store.commit(first).unwrap();
            let (before, index_before) = (store.uploads().clone(), fs::read(root.join("uploads.json")).unwrap());
            let change = prepare(&store, "a", b"two").await;
            let after = change.uploads().clone();
            let index_after = fs::read(root.join("uploads.json.next")).unwrap();
            if crash == 5 {
                store.commit(change).unwrap();
            }
            drop(store);
            match crash {
                // While the module is written; before it has its name; before, while and after the index is written;
                // after it has its name, but before anything else was removed.
                0 | 1 => {
                    fs::remove_file(root.join("uploads.json.next")).unwrap();
                    fs::remove_file(root.join(format!("{blob_of_two}.wasm"))).unwrap();
                    written(root, &format!("{blob_of_two}.next"), if crash == 0 { b"tw" } else { b"two" });
                }
                2 => fs::remove_file(root.join("uploads.json.next")).unwrap(),
                3 => written(root, "uploads.json.next", &index_after[..index_after.len() / 2]),
                4 => {}
                _ => written(root, &format!("blobs/{}.wasm", Digest::of(b"one")), b"one"),
            }
            let (store, notes) = open(root);
            assert!(notes.is_empty(), "crash {crash}: {notes:?}");
            assert_eq!(store.uploads(), if crash == 5 { &after } else { &before }, "crash {crash}");
            let index = if crash == 5 { index_after } else { index_before };
            assert_eq!(fs::read(root.join("uploads.json")).unwrap(), index, "crash {crash}");
            let kept: [&[u8]; 2] = if crash == 5 { [b"two", b"one"] } else { [b"one", b"two"] };
            assert_eq!(blob(&store, kept[0]).unwrap(), kept[0], "crash {crash}");
            assert!(blob(&store, kept[1]).is_none(), "crash {crash}: nothing refers to it");
            assert_eq!(fs::read_dir(root.join("blobs")).unwrap().count(), 1, "crash {crash}");
        }
    }

    #[tokio::test]
    async fn a_blob_goes_with_the_last_upload_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        for (mut store, _) in [open(folder.path()), Store::open(None, None).unwrap()] {
            for name in ["a", "b"] {
                let prepared = prepare(&store, name, b"one").await;
                store.commit(prepared).unwrap();
            }
            for (name, left) in [("a", true), ("b", false)] {
                let mut uploads = store.uploads().clone();
                uploads.remove(name);
                let prepared = store.prepare(uploads, None).await.unwrap();
                store.commit(prepared).unwrap();
                assert_eq!(blob(&store, b"one").is_some(), left);
            }
        }
    }

    #[test]
    fn a_directory_has_one_owner() {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = open(folder.path());
        let Err(error) = Store::open(Some(folder.path()), None) else { unreachable!("two owners") };
        assert!(error.to_string().contains("--data-dir"));
        drop(store);
        assert!(Store::open(Some(folder.path()), None).is_ok());
    }

    #[tokio::test]
    async fn a_lock_that_is_handed_over_is_never_free() {
        let folder = tempfile::tempdir().unwrap();
        let (mut store, _) = open(folder.path());
        let prepared = prepare(&store, "a", b"one").await;
        store.commit(prepared).unwrap();
        let lock = store.lock().unwrap().try_clone().unwrap();
        let (next, notes) = Store::open(Some(folder.path()), Some(lock)).unwrap();
        assert!(notes.is_empty());
        assert_eq!(next.uploads(), store.uploads());
        assert!(Store::open(Some(folder.path()), None).is_err());
        drop(store);
        assert!(Store::open(Some(folder.path()), None).is_err());
        let lock = next.lock().unwrap().try_clone().unwrap();
        // What the running process can read stays in its place.
        fs::write(folder.path().join("uploads.json"), "{").unwrap();
        assert!(matches!(Store::open(Some(folder.path()), Some(lock)), Err(StoreError::Unreadable(_))));
        assert!(folder.path().join("uploads.json").exists());
        drop(next);
        assert!(Store::open(Some(folder.path()), None).is_ok());
    }

    #[tokio::test]
    async fn without_a_directory_uploads_live_in_memory() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        // Below a file nothing can be created, whoever asks.
        let (mut store, notes) = open(&file.join("data"));
        assert!(notes[0].contains("memory") && notes[0].contains("--data-dir"), "{notes:?}");
        let prepared = prepare(&store, "a", b"one").await;
        store.commit(prepared).unwrap();
        assert_eq!(blob(&store, b"one").unwrap(), b"one");
    }

    #[tokio::test]
    async fn an_unreadable_index_is_kept_aside_with_its_blobs() {
        let newer = json!({"format": 3, "uploads": {}}).to_string();
        let escaping = json!({"format": 1, "uploads": {"a": {
            "digest": "../../../etc/passwd", "bytes": 1, "settings": {}, "created": "", "versions": [],
        }}});
        for text in ["", "{", "[]", newer.as_str(), &escaping.to_string(), "\u{0}\u{0}\u{0}"] {
            let folder = tempfile::tempdir().unwrap();
            let (mut store, _) = open(folder.path());
            let prepared = prepare(&store, "a", b"one").await;
            store.commit(prepared).unwrap();
            drop(store);
            fs::write(folder.path().join("uploads.json"), text).unwrap();

            let (store, notes) = open(folder.path());
            assert!(store.uploads().is_empty());
            assert!(notes[0].contains("uploads.json.unreadable"), "{notes:?}");
            assert_eq!(fs::read_to_string(folder.path().join("uploads.json.unreadable")).unwrap(), text);
            assert_eq!(blob(&store, b"one").unwrap(), b"one", "can be repaired by hand");
        }
    }

    #[tokio::test]
    async fn only_blobs_are_swept() {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = open(folder.path());
        let blobs = folder.path().join("blobs");
        let stray = format!("{}.wasm", Digest::of(b"stray"));
        let torn = format!("{}.next", Digest::of(b"torn"));
        for name in ["notes.txt", "module.wasm", &stray, &torn] {
            fs::write(blobs.join(name), "").unwrap();
        }
        drop(store);
        drop(open(folder.path()));
        let mut left: Vec<_> = fs::read_dir(blobs).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["module.wasm", "notes.txt"]);
    }

    #[tokio::test]
    async fn what_the_index_on_disk_names_stays_if_it_cannot_be_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let index = folder.path().join("uploads.json");
        let (mut store, _) = open(folder.path());
        let first = prepare(&store, "a", b"one").await;
        store.commit(first).unwrap();
        let text = fs::read(&index).unwrap();
        // A folder cannot be replaced by a file.
        fs::remove_file(&index).unwrap();
        fs::create_dir(&index).unwrap();
        let second = prepare(&store, "a", b"two").await;
        assert!(store.commit(second).is_err());
        let third = prepare(&store, "a", b"three").await;
        store.discard(third);
        fs::remove_dir(&index).unwrap();
        fs::write(&index, text).unwrap();
        assert_eq!(blob(&store, b"one").unwrap(), b"one", "the next process would need it");
        let fourth = prepare(&store, "a", b"two").await;
        store.commit(fourth).unwrap();
        assert!(blob(&store, b"one").is_none() && blob(&store, b"two").is_some());
    }

    #[tokio::test]
    async fn a_disk_that_fails_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (mut store, _) = open(folder.path());
        let first = prepare(&store, "a", b"one").await;
        store.commit(first).unwrap();
        let before = store.uploads().clone();
        // The folder of the blobs is gone, and a file is in its place.
        fs::remove_dir_all(folder.path().join("blobs")).unwrap();
        fs::write(folder.path().join("blobs"), "").unwrap();
        let mut uploads = before.clone();
        uploads.insert("b".into(), upload(b"two"));
        let failed = store.prepare(uploads, Some((Digest::of(b"two"), Bytes::from_static(b"two")))).await;
        assert!(failed.is_err());
        assert_eq!(store.uploads(), &before);
    }
}
