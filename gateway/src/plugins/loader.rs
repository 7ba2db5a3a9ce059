//! From where a module is to code that can be instantiated: read, hash, compare, compile.
//!
//! Reading and compiling happen on blocking threads. A module is compiled once per content and kept for
//! as long as some plugin uses it; so are the reasons why a content cannot be compiled. What was compiled is on disk,
//! too, for the next start.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use proxy_wasm_host::{Engine, Module, Report};
use tokio::sync::Semaphore;

use super::{Contents, Digest, Limits, compiled::CompiledModules, store::Blob};

/// A module that is ready.
#[derive(Clone)]
pub(crate) struct Loaded {
    pub(crate) digest: Digest,
    pub(crate) bytes: u64,
    pub(crate) module: Module,
    /// What it declares, for people.
    pub(crate) contents: Arc<Contents>,
}

/// Why a module cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LoadError {
    /// Stable name: `module-…`.
    pub(crate) code: &'static str,
    /// For operators.
    pub(crate) message: String,
}

/// Where a module is.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// A file of somebody else, which may change at any time.
    File(PathBuf),
    /// An upload in the store under this name.
    Stored(Digest, Blob),
    /// What was fetched and kept.
    Fetched(Digest, Blob),
}

pub(crate) struct Loader {
    engine: Engine,
    module_bytes: usize,
    compile_limit: Duration,
    compiled: HashMap<Digest, Result<Loaded, LoadError>>,
    on_disk: CompiledModules,
    /// What a file held when it was last read, to leave out reading what has not changed.
    seen: HashMap<PathBuf, (Stamp, Digest)>,
    compiling: Arc<Semaphore>,
}

/// Compilations at the same time. Each uses all cores by itself; the second place is for the case that
/// one has run out of its time and cannot be stopped.
const COMPILATIONS: usize = 2;

impl LoadError {
    fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl Loader {
    /// `data_dir`: where compiled modules are kept.
    pub(crate) fn new(engine: Engine, limits: &Limits, data_dir: Option<&Path>) -> Self {
        Self {
            on_disk: CompiledModules::open(data_dir, &engine, limits.compiled_bytes),
            engine,
            module_bytes: limits.module_bytes,
            compile_limit: limits.compile,
            compiled: HashMap::new(),
            seen: HashMap::new(),
            compiling: Arc::new(Semaphore::new(COMPILATIONS)),
        }
    }

    /// Loads what is at `source` now.
    pub(crate) async fn load(&mut self, source: &Source) -> Result<Loaded, LoadError> {
        let (bytes, digest) = match source {
            Source::File(path) => {
                let before = Stamp::of(path);
                if let Some(known) = self.unchanged(path, before) {
                    return known;
                }
                let (bytes, digest) = self.read(path.clone()).await?;
                self.seen.remove(path);
                // A stamp that changed meanwhile says nothing about what was read.
                if let Some(stamp) = before.filter(|stamp| stamp.is_settled() && Stamp::of(path) == before) {
                    self.seen.insert(path.clone(), (stamp, digest));
                }
                (bytes, digest)
            }
            Source::Stored(expected, blob) | Source::Fetched(expected, blob) => {
                if let Some(known) = self.compiled.get(expected) {
                    return known.clone();
                }
                let advice = match source {
                    Source::Fetched(..) => "it is fetched again",
                    _ => "upload it again or delete the plugin",
                };
                let lost = |why: &str| {
                    let message = format!("the stored module sha256:{expected} {why}; {advice}");
                    LoadError::new("module-lost", message)
                };
                let (bytes, digest) = match blob {
                    Blob::File(path) => self
                        .read(path.clone())
                        .await
                        .map_err(|error| lost(&format!("cannot be read ({})", error.message)))?,
                    Blob::Memory(bytes) => (bytes.clone().ok_or_else(|| lost("is gone"))?, *expected),
                };
                if digest != *expected {
                    return Err(lost("is damaged: its content has another digest"));
                }
                (bytes, digest)
            }
        };
        self.compile(digest, bytes).await
    }

    /// Compiles `bytes`, whose digest the caller knows, or finds that this was done before.
    pub(crate) async fn compile(&mut self, digest: Digest, bytes: Bytes) -> Result<Loaded, LoadError> {
        if let Some(known) = self.compiled.get(&digest) {
            return known.clone();
        }
        let size = bytes.len() as u64;
        let busy =
            |_| LoadError::new("module-compile-busy", "earlier modules are still being compiled; try again later");
        let permit = Arc::clone(&self.compiling).try_acquire_owned().map_err(busy)?;
        let (engine, on_disk) = (self.engine.clone(), self.on_disk.clone());
        let work = tokio::task::spawn_blocking(move || {
            let result = match on_disk.restore(&engine, digest, &bytes) {
                Some(module) => Ok(module),
                None => Module::compile(&engine, &bytes).inspect(|module| on_disk.keep(digest, module)),
            };
            let result = result.and_then(|module| Ok((module, Contents::from(Report::of(&bytes)?))));
            drop(permit);
            result
        });
        let result = match tokio::time::timeout(self.compile_limit, work).await {
            Ok(Ok(Ok((module, contents)))) => Ok(Loaded { digest, bytes: size, module, contents: Arc::new(contents) }),
            Ok(Ok(Err(error))) => Err(LoadError::new(error.code(), error.to_string())),
            Ok(Err(_)) => Err(LoadError::new("module-malformed", "the compiler failed on this module")),
            Err(_) => {
                // Not remembered: the machine may have been busy.
                let message =
                    format!("compiling takes longer than {} s; make the module smaller", self.compile_limit.as_secs());
                return Err(LoadError::new("module-compile-time", message));
            }
        };
        self.compiled.insert(digest, result.clone());
        result
    }

    /// Forgets modules that are not in `used`, and files that are not in `files`. Blocks for a few removals.
    pub(crate) fn retain(&mut self, used: &HashSet<Digest>, files: &HashSet<&Path>) {
        self.on_disk.sweep(used);
        self.compiled.retain(|digest, _| used.contains(digest));
        self.seen.retain(|path, _| files.contains(path.as_path()));
    }

    /// What `path` held when it was last read, if it was not touched since.
    fn unchanged(&self, path: &Path, now: Option<Stamp>) -> Option<Result<Loaded, LoadError>> {
        let (stamp, digest) = self.seen.get(path)?;
        (Some(*stamp) == now).then(|| self.compiled.get(digest).cloned())?
    }

    async fn read(&self, path: PathBuf) -> Result<(Bytes, Digest), LoadError> {
        let limit = self.module_bytes;
        let shown = path.display().to_string();
        let work = tokio::task::spawn_blocking(move || {
            let bytes = read_file(&path, limit)?;
            let digest = Digest::of(&bytes);
            Ok((Bytes::from(bytes), digest))
        });
        let result: io::Result<_> = work.await.map_err(io::Error::other).flatten();
        result.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => LoadError::new(
                "module-not-found",
                format!("no file {shown}; file:// with a relative path starts at the folder of the YAML file"),
            ),
            io::ErrorKind::FileTooLarge => LoadError::new(
                "module-too-large",
                format!("{shown} is larger than {limit} bytes, the limit of a module"),
            ),
            io::ErrorKind::InvalidInput => {
                LoadError::new("module-unreadable", format!("{shown} is not a regular file"))
            }
            _ => LoadError::new("module-unreadable", format!("cannot read {shown}: {error}")),
        })
    }
}

/// Reads a regular file of at most `limit` bytes. Never waits on a pipe or device.
fn read_file(path: &Path, limit: usize) -> io::Result<Vec<u8>> {
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut bytes = Vec::new();
    file.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > limit {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(bytes)
}

/// What changes when a file is written or replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    modified: Option<SystemTime>,
    changed: (i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            modified: metadata.modified().ok(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }

    /// Whether a later write would show. Time stamps are as coarse as the kernel's tick or worse, so two
    /// writes in quick succession may carry the same one.
    fn is_settled(&self) -> bool {
        let age = self.modified.and_then(|modified| SystemTime::now().duration_since(modified).ok());
        age.is_some_and(|age| age > Duration::from_secs(2))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn files_are_read_up_to_the_limit_and_only_regular_ones() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("module");
        fs::write(&path, [7; 10]).unwrap();
        assert_eq!(read_file(&path, 10).unwrap(), [7; 10]);
        assert_eq!(read_file(&path, 9).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(read_file(Path::new("/dev/zero"), 10).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(read_file(&folder.path().join("none"), 10).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(read_file(folder.path(), 10).is_err());
    }

    #[test]
    fn a_file_written_just_now_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("module");
        fs::write(&path, "a").unwrap();
        assert!(!Stamp::of(&path).unwrap().is_settled());
        let file = File::options().write(true).open(&path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(60)).unwrap();
        assert!(Stamp::of(&path).unwrap().is_settled());
    }
}
