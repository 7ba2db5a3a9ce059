//! Files and folders named on the command line, and a watch on them.
//!
//! Events only say *that* something happened; everything is then read again. So it does not matter how a
//! file was replaced: a Kubernetes ConfigMap swaps the symbolic link `..data`, editors write a new file
//! and rename it. Should events get lost (network file systems, too many watches), a slow comparison of
//! sizes, times and inode numbers finds the change.

use std::{
    collections::{BTreeMap, HashSet},
    fs, io,
    io::Read,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use notify::{RecursiveMode, Watcher};
use tokio::sync::watch;

use super::SourceFile;

/// Largest file that is read.
const MAX_FILE: u64 = 16 << 20;
/// Most files of all folders together.
const MAX_FILES: usize = 100_000;
/// Most bytes of all files together.
const MAX_TOTAL: u64 = 512 << 20;
/// Deepest folder below one that was named.
const MAX_DEPTH: usize = 32;
/// Nothing must happen for so long before a change counts as finished: writers take several steps.
const QUIET: Duration = Duration::from_millis(50);
/// A change is announced after so long even if there is no quiet.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often files are compared without any event.
const SLOW_POLL: Duration = Duration::from_secs(10);

/// Why a source cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A path on the command line leads nowhere.
    #[error("-f {path}: {error}; it must name an existing file, or a folder with .yaml, .yml or .json files")]
    Path {
        /// As given.
        path: String,
        /// What the system says.
        error: io::Error,
    },
    /// The system does not let us watch.
    #[error("cannot watch files for changes: {0}")]
    Watch(#[from] notify::Error),
}

/// Files and folders.
#[derive(Debug, Clone)]
pub struct FileSource {
    paths: Vec<PathBuf>,
}

impl FileSource {
    /// A source over files and folders. Folders are searched with all folders below for `*.yaml`, `*.yml`
    /// and `*.json`; names that begin with a dot are left out. A path that does not exist is an error.
    pub fn new(paths: Vec<PathBuf>) -> Result<Self, SourceError> {
        for path in &paths {
            let fail = |error| SourceError::Path { path: path.display().to_string(), error };
            if fs::metadata(path).map_err(fail)?.is_dir() {
                fs::read_dir(path).map_err(fail)?;
            }
        }
        Ok(Self { paths })
    }

    /// Reads everything: the paths in the order given, each folder by name. Limits: 16 MiB per file,
    /// 100,000 files, 512 MiB in all; what is beyond is shown as unreadable.
    #[must_use]
    pub fn read(&self) -> Vec<SourceFile> {
        let mut total = 0;
        self.list()
            .into_iter()
            .map(|(path, found)| {
                let contents = found.and_then(|_| read_file(&path, &mut total));
                SourceFile { path: path.display().to_string(), contents }
            })
            .collect()
    }

    /// Starts to watch. The watch ends when it is dropped.
    pub fn watch(&self) -> Result<Watch, SourceError> {
        let (events, inbox) = mpsc::channel();
        let (announce, changes) = watch::channel(0);
        let sender = events.clone();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Our own reading opens files; that is no change.
            if event.is_ok_and(|event| event.kind.is_access()) {
                return;
            }
            // Without a receiver the watch has ended.
            drop(sender.send(Message::Changed));
        })?;
        let mut watched = HashSet::new();
        for path in &self.paths {
            if path.is_dir() {
                watcher.watch(path, RecursiveMode::Recursive)?;
            } else {
                watch_parent(&mut watcher, &mut watched, path);
            }
        }
        let mut poll = Poll { source: self.clone(), extra: Vec::new(), seen: Fingerprint::default() };
        poll.seen = poll.look();
        let start = thread::Builder::new().name("config-watch".to_owned());
        let work = move || follow(&inbox, &announce, watcher, watched, poll);
        start.spawn(work).map_err(|error| SourceError::Watch(notify::Error::io(error)))?;
        Ok(Watch { changes, events })
    }

    /// All files, each once, without reading them.
    fn list(&self) -> Vec<(PathBuf, io::Result<fs::Metadata>)> {
        let mut walk = Walk::default();
        for path in &self.paths {
            walk.visit(path.clone(), 0, true);
        }
        walk.found
    }
}

/// The search through folders.
#[derive(Default)]
struct Walk {
    found: Vec<(PathBuf, io::Result<fs::Metadata>)>,
    /// Device and inode of what was visited: links may lead in circles, paths may be given twice.
    visited: HashSet<(u64, u64)>,
}

impl Walk {
    fn visit(&mut self, path: PathBuf, depth: usize, named: bool) {
        if self.found.len() > MAX_FILES {
            return;
        }
        let metadata = match fs::metadata(&path) {
            Ok(metadata) => metadata,
            // A broken link below a folder counts only if it looks like configuration. It is there, so what it led to
            // counts as unreadable and not as deleted.
            Err(error) if named || is_configuration(&path) => {
                let error = match fs::symlink_metadata(&path) {
                    Ok(_) => io::Error::other(format!("{error} where the link leads")),
                    Err(_) => error,
                };
                return self.found.push((path, Err(error)));
            }
            Err(_) => return,
        };
        if !metadata.is_dir() && !named && !is_configuration(&path) {
            return;
        }
        if !self.visited.insert((metadata.dev(), metadata.ino())) {
            return;
        }
        if metadata.is_dir() {
            self.folder(path, depth);
        } else if !metadata.is_file() {
            self.found.push((path, Err(io::Error::other("not a regular file"))));
        } else if self.found.len() == MAX_FILES {
            let error = beyond_limit(format!("more than {MAX_FILES} files; this and further ones are not read"));
            self.found.push((path, Err(error)));
        } else {
            self.found.push((path, Ok(metadata)));
        }
    }

    fn folder(&mut self, path: PathBuf, depth: usize) {
        if depth == MAX_DEPTH {
            let error = beyond_limit(format!("folders are nested deeper than {MAX_DEPTH} levels"));
            return self.found.push((path, Err(error)));
        }
        let entries = fs::read_dir(&path).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        match entries {
            Ok(mut entries) => {
                entries.retain(|entry| !entry.file_name().as_encoded_bytes().starts_with(b"."));
                entries.sort_by_key(fs::DirEntry::file_name);
                for entry in entries {
                    self.visit(entry.path(), depth + 1, false);
                }
            }
            Err(error) => self.found.push((path, Err(error))),
        }
    }
}

fn is_configuration(path: &Path) -> bool {
    path.extension().is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known))
}

/// The kind is how the problem of it is told from others.
fn beyond_limit(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, message)
}

fn read_file(path: &Path, total: &mut u64) -> io::Result<Bytes> {
    let mut contents = Vec::new();
    // The limit also holds for a file that grows while it is read.
    let size = fs::File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut contents)? as u64;
    if size > MAX_FILE {
        return Err(beyond_limit(format!("larger than {} MiB; split it", MAX_FILE >> 20)));
    }
    *total += size;
    if *total > MAX_TOTAL {
        return Err(beyond_limit(format!("all files together are larger than {} MiB", MAX_TOTAL >> 20)));
    }
    Ok(contents.into())
}

/// A running watch.
#[derive(Debug)]
pub struct Watch {
    changes: watch::Receiver<u64>,
    events: mpsc::Sender<Message>,
}

impl Watch {
    /// Waits for the next change: everything should then be read again. Returns `false` if the watch is broken.
    pub async fn changed(&mut self) -> bool {
        self.changes.changed().await.is_ok()
    }

    /// Which other files count as well, for instance the modules of plugins; replaces the list given before.
    /// A list that differs from the one before is followed by a change, because a file may have been
    /// replaced between being read and being watched.
    pub fn also(&self, files: Vec<PathBuf>) {
        // If the thread is gone, `changed` says so.
        drop(self.events.send(Message::Also(files)));
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.events.send(Message::Stop));
    }
}

enum Message {
    Changed,
    Also(Vec<PathBuf>),
    Stop,
}

/// The thread of a watch.
fn follow(
    inbox: &mpsc::Receiver<Message>,
    announce: &watch::Sender<u64>,
    mut watcher: notify::RecommendedWatcher,
    mut watched: HashSet<PathBuf>,
    mut poll: Poll,
) {
    loop {
        let changed = match inbox.recv_timeout(SLOW_POLL) {
            Ok(Message::Changed) => {
                let late = Instant::now() + PATIENCE;
                loop {
                    let wait = QUIET.min(late.saturating_duration_since(Instant::now()));
                    match inbox.recv_timeout(wait) {
                        Ok(Message::Changed) if Instant::now() < late => {}
                        Ok(Message::Changed) | Err(mpsc::RecvTimeoutError::Timeout) => break,
                        Ok(Message::Also(files)) => {
                            poll.also(files, &mut watcher, &mut watched);
                        }
                        Ok(Message::Stop) | Err(mpsc::RecvTimeoutError::Disconnected) => return,
                    }
                }
                poll.seen = poll.look();
                true
            }
            Ok(Message::Also(files)) => poll.also(files, &mut watcher, &mut watched),
            Ok(Message::Stop) | Err(mpsc::RecvTimeoutError::Disconnected) => return,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                let now = poll.look();
                let changed = now != poll.seen;
                poll.seen = now;
                changed
            }
        };
        if changed {
            announce.send_modify(|version| *version += 1);
        }
    }
}

/// A file is watched through its folder, so that replacing it is seen as well.
fn watch_parent(watcher: &mut impl Watcher, watched: &mut HashSet<PathBuf>, file: &Path) {
    let parent = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if watched.insert(parent.to_owned()) && watcher.watch(parent, RecursiveMode::NonRecursive).is_err() {
        // The slow comparison still sees it; next time the folder may exist.
        watched.remove(parent);
    }
}

/// Size, time and inode number of each file.
type Fingerprint = BTreeMap<PathBuf, Option<(u64, i64, i64, u64)>>;

/// The slow comparison.
struct Poll {
    source: FileSource,
    extra: Vec<PathBuf>,
    seen: Fingerprint,
}

impl Poll {
    fn look(&self) -> Fingerprint {
        let of = |metadata: fs::Metadata| (metadata.len(), metadata.mtime(), metadata.mtime_nsec(), metadata.ino());
        let listed = self.source.list().into_iter().map(|(path, metadata)| (path, metadata.ok().map(of)));
        let extra = self.extra.iter().map(|path| (path.clone(), fs::metadata(path).ok().map(of)));
        listed.chain(extra).collect()
    }

    /// Takes a new list of other files; says whether it differs.
    fn also(&mut self, files: Vec<PathBuf>, watcher: &mut impl Watcher, watched: &mut HashSet<PathBuf>) -> bool {
        if files == self.extra {
            return false;
        }
        for file in &files {
            watch_parent(watcher, watched, file);
        }
        self.extra = files;
        self.seen = self.look();
        true
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use std::os::unix::fs::symlink;

    use super::*;

    fn paths(source: &FileSource, below: &Path) -> Vec<String> {
        let relative = |file: SourceFile| file.path.strip_prefix(below.to_str().unwrap()).unwrap().to_owned();
        source.read().into_iter().map(relative).collect()
    }

    fn texts(source: &FileSource) -> Vec<String> {
        source.read().into_iter().map(|file| String::from_utf8(file.contents.unwrap().to_vec()).unwrap()).collect()
    }

    #[test]
    fn folders_are_read_in_order_without_hidden_files() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir_all(root.join("b/c")).unwrap();
        fs::create_dir_all(root.join(".git")).unwrap();
        for name in ["b/c/z.json", "b/a.yml", "c.yaml", "a.yaml", "notes.txt", ".git/x.yaml", ".hidden.yaml"] {
            fs::write(root.join(name), name).unwrap();
        }
        symlink(root, root.join("b/circle")).unwrap();
        let source = FileSource::new(vec![root.to_owned(), root.join("a.yaml")]).unwrap();
        assert_eq!(paths(&source, root), ["/a.yaml", "/b/a.yml", "/b/c/z.json", "/c.yaml"]);
        let named = FileSource::new(vec![root.join("notes.txt")]).unwrap();
        assert_eq!(texts(&named), ["notes.txt"]);
    }

    #[test]
    fn what_cannot_be_read_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let missing = FileSource::new(vec![root.join("missing")]).unwrap_err().to_string();
        assert!(missing.contains("missing: No such file"), "{missing}");
        fs::File::create(root.join("big.yaml")).unwrap().set_len(MAX_FILE + 1).unwrap();
        symlink(root.join("nowhere"), root.join("broken.yaml")).unwrap();
        let errors: Vec<String> = FileSource::new(vec![root.to_owned()])
            .unwrap()
            .read()
            .into_iter()
            .map(|file| file.contents.unwrap_err().to_string())
            .collect();
        assert!(errors[0].contains("larger than 16 MiB"), "{errors:?}");
        assert!(errors[1].contains("No such file"), "{errors:?}");
    }

    #[tokio::test]
    async fn a_config_map_swap_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let version = |name: &str, text: &str| {
            fs::create_dir(root.join(name)).unwrap();
            fs::write(root.join(name).join("a.yaml"), text).unwrap();
        };
        version("..v1", "one");
        symlink("..v1", root.join("..data")).unwrap();
        symlink("..data/a.yaml", root.join("a.yaml")).unwrap();
        let source = FileSource::new(vec![root.to_owned()]).unwrap();
        assert_eq!(texts(&source), ["one"]);

        let mut watch = source.watch().unwrap();
        version("..v2", "two");
        symlink("..v2", root.join("..data_tmp")).unwrap();
        fs::rename(root.join("..data_tmp"), root.join("..data")).unwrap();
        // The first change may be announced before the last step.
        loop {
            assert!(watch.changed().await);
            if texts(&source) == ["two"] {
                break;
            }
        }
    }

    #[tokio::test]
    async fn a_named_file_may_be_replaced_and_others_may_be_added() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.yaml");
        fs::write(&file, "one").unwrap();
        let source = FileSource::new(vec![file.clone()]).unwrap();
        let mut watch = source.watch().unwrap();
        fs::write(folder.path().join("new"), "two").unwrap();
        fs::rename(folder.path().join("new"), &file).unwrap();
        assert!(watch.changed().await);
        assert_eq!(texts(&source), ["two"]);

        let other = tempfile::tempdir().unwrap();
        let module = other.path().join("m.wasm");
        watch.also(vec![module.clone()]);
        assert!(watch.changed().await);
        fs::write(&module, "x").unwrap();
        assert!(watch.changed().await);
    }
}
