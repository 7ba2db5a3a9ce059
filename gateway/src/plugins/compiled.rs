//! Compiled modules on disk, so that a restart does not compile them once more.
//!
//! ```text
//! DATA_DIR/compiled/key                    32 random bytes that only the gateway's user can read
//! DATA_DIR/compiled/SHA256-SETTINGS.code   a MAC, then the machine code
//! ```
//!
//! Machine code runs as it is, so wasmtime must be given nothing that this gateway did not write itself. The MAC
//! covers the module's content, the settings it was compiled with and the code; it is checked on the bytes that are
//! then used. An entry that fails the check, for whatever reason, is as good as none: the module is compiled
//! and the entry replaced.

use std::{
    collections::HashSet,
    fs::{self, DirBuilder, File},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use aws_lc_rs::{hmac, rand};
use proxy_wasm_host::{Engine, Module};

use super::Digest;

/// What is left of the disk for others, in bytes.
const SPARED: u64 = 16 << 20;
/// How long an entry that nobody uses is kept.
const UNUSED: Duration = Duration::from_secs(24 * 60 * 60);

const KEY_BYTES: usize = 32;
const MAC_BYTES: usize = 32;
/// The first thing the MAC covers; another layout of the entries gets another one.
const FORMAT: &[u8] = b"gateway compiled module 1";

/// The folder of compiled modules; cloning is cheap. Its methods block. Without a folder it is always empty.
#[derive(Clone, Default)]
pub(crate) struct CompiledModules(Option<Arc<Inner>>);

struct Inner {
    folder: PathBuf,
    key: hmac::Key,
    settings: u64,
    limit: u64,
    /// Whether something was added since the last sweep.
    grown: AtomicBool,
}

impl CompiledModules {
    /// Opens or creates the folder in `data_dir`, which may hold `limit` bytes. If that fails, the log says so and
    /// modules are compiled after every start.
    pub(crate) fn open(data_dir: Option<&Path>, engine: &Engine, limit: u64) -> Self {
        let Some(data_dir) = data_dir else { return Self::default() };
        let folder = data_dir.join("compiled");
        match key(&folder) {
            Ok(key) => Self(Some(Arc::new(Inner {
                folder,
                key: hmac::Key::new(hmac::HMAC_SHA256, &key),
                settings: engine.compatibility(),
                limit,
                grown: AtomicBool::new(true),
            }))),
            Err(error) => {
                tracing::warn!(%error, folder = %folder.display(), "compiled plugins cannot be kept; every start compiles them");
                Self::default()
            }
        }
    }

    /// The module with this content, if it has been compiled before by an engine like this one.
    pub(crate) fn restore(&self, engine: &Engine, digest: Digest, wasm: &[u8]) -> Option<Module> {
        let inner = self.0.as_ref()?;
        let path = inner.path(digest);
        let entry = match read(&path, inner.limit) {
            Ok(entry) => entry,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "a compiled plugin cannot be read; it is compiled again");
                return None;
            }
        };
        let Some(code) = inner.verified(digest, &entry) else {
            tracing::warn!(path = %path.display(), "a compiled plugin is damaged or foreign; it is compiled again");
            return None;
        };
        // SAFETY: nobody without our key could have written these bytes, and we sign only what `Module::serialize`
        // gave for a module of this digest, which is that of `wasm`.
        match unsafe { Module::restore(engine, wasm, code) } {
            Ok(module) => {
                // For `sweep`; an entry whose time cannot be set is removed a little early.
                let _ = File::options().write(true).open(&path).and_then(|file| file.set_modified(SystemTime::now()));
                Some(module)
            }
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "a compiled plugin does not fit; it is compiled again");
                None
            }
        }
    }

    /// Keeps a module that was just compiled. Failing to costs the next start some time, nothing else.
    pub(crate) fn keep(&self, digest: Digest, module: &Module) {
        let Some(inner) = &self.0 else { return };
        let code = match module.serialize() {
            Ok(code) => code,
            Err(error) => return tracing::warn!(%error, "a compiled plugin cannot be kept"),
        };
        if let Err(error) = inner.write(digest, &code) {
            tracing::warn!(%error, folder = %inner.folder.display(), "a compiled plugin cannot be kept");
        }
        inner.grown.store(true, Ordering::Relaxed);
    }

    /// Removes what nobody has used for a day, and the oldest of the rest while there is too much; never what is in
    /// `used`. Only looks if something was added since the last time.
    pub(crate) fn sweep(&self, used: &HashSet<Digest>) {
        let Some(inner) = &self.0 else { return };
        if inner.grown.swap(false, Ordering::Relaxed) {
            inner.sweep(used);
        }
    }
}

impl Inner {
    fn path(&self, digest: Digest) -> PathBuf {
        self.folder.join(format!("{digest}-{:016x}.code", self.settings))
    }

    /// All parts but the last have a fixed length, so no two entries look the same.
    fn signed(&self, digest: Digest, code: &[u8]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(FORMAT);
        context.update(digest.to_string().as_bytes());
        context.update(&self.settings.to_le_bytes());
        context.update(code);
        context.sign()
    }

    /// The code of an entry that we wrote for this module and these settings.
    fn verified<'a>(&self, digest: Digest, entry: &'a [u8]) -> Option<&'a [u8]> {
        let (mac, code) = entry.split_at_checked(MAC_BYTES)?;
        let expected = self.signed(digest, code);
        aws_lc_rs::constant_time::verify_slices_are_equal(mac, expected.as_ref()).ok()?;
        Some(code)
    }

    /// Uploads need their disk more: nothing is written where little would be left.
    fn write(&self, digest: Digest, code: &[u8]) -> io::Result<()> {
        let disk = rustix::fs::statvfs(&self.folder)?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        if free < SPARED.saturating_add(code.len() as u64) {
            return Err(io::Error::new(
                io::ErrorKind::StorageFull,
                "the disk is nearly full; it is compiled again at a restart",
            ));
        }
        let path = self.path(digest);
        // While one process takes over from another, both may write.
        let next = path.with_extension(format!("{}.next", std::process::id()));
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&next)?;
        let written = file.write_all(self.signed(digest, code).as_ref()).and_then(|()| file.write_all(code));
        // Not synced: after a crash the MAC tells.
        written.and_then(|()| fs::rename(&next, path)).inspect_err(|_| {
            // What cannot be removed is overwritten the next time.
            let _ = fs::remove_file(&next);
        })
    }

    fn sweep(&self, used: &HashSet<Digest>) {
        let now = SystemTime::now();
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some((digest, rest)) = name.to_str().and_then(|name| name.split_once('-')) else { continue };
            let (Ok(digest), Ok(metadata)) = (digest.parse::<Digest>(), entry.metadata()) else { continue };
            let age = metadata.modified().ok().and_then(|time| now.duration_since(time).ok()).unwrap_or_default();
            // Those of other settings are another process's, which may be running.
            let in_use = used.contains(&digest) && rest == format!("{:016x}.code", self.settings);
            entries.push((in_use, age, metadata.len(), entry.path()));
        }
        let mut total: u64 = entries.iter().map(|(_, _, bytes, _)| bytes).sum();
        entries.retain(|(in_use, ..)| !in_use);
        entries.sort_by_key(|(_, age, ..)| std::cmp::Reverse(*age));
        for (_, age, bytes, path) in entries {
            if age < UNUSED && total <= self.limit {
                break;
            }
            // What cannot be removed is tried again the next time.
            if fs::remove_file(path).is_ok() {
                total = total.saturating_sub(bytes);
            }
        }
    }
}

/// Reads a regular file of at most `limit` bytes, and not through a link.
fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() > limit {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or_default());
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The key in `folder`, made if there is none. One that somebody else can read or has made is worth nothing and is
/// replaced, and with it everything that was signed with it.
fn key(folder: &Path) -> io::Result<[u8; KEY_BYTES]> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let path = folder.join("key");
    match fs::symlink_metadata(&path) {
        Ok(metadata) => {
            // SAFETY: geteuid only reads a number of this process and cannot fail.
            let ours = metadata.uid() == unsafe { libc::geteuid() };
            if metadata.is_file() && ours && metadata.mode().trailing_zeros() >= 6 {
                let key = read(&path, KEY_BYTES as u64).ok().and_then(|bytes| bytes.try_into().ok());
                if let Some(key) = key {
                    return Ok(key);
                }
            }
            tracing::warn!(path = %path.display(), "the key of compiled plugins is damaged or can be read by others; it is replaced, and all plugins are compiled again");
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut key = [0; KEY_BYTES];
    rand::fill(&mut key).map_err(io::Error::other)?;
    let next = folder.join("key.next");
    let _ = fs::remove_file(&next);
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&next)?;
    file.write_all(&key)?;
    file.sync_all()?;
    fs::rename(next, path)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::os::unix::fs::PermissionsExt;

    use proxy_wasm_host::EngineOptions;

    use super::*;

    fn module(tag: &str) -> (Digest, Vec<u8>) {
        let text = format!(
            r#"(module (memory (export "memory") 1) (data (i32.const 0) "{tag}") (func (export "proxy_abi_version_0_2_1"))
                (func (export "malloc") (param i32) (result i32) i32.const 1024))"#
        );
        let bytes = wat::parse_str(text).unwrap();
        (Digest::of(&bytes), bytes)
    }

    fn engine(pool: bool) -> Engine {
        // Without room for a pool there are bounds checks, so the code is another.
        let max_instances = if pool { 2 } else { u32::MAX };
        Engine::new(&EngineOptions { max_instances, ..EngineOptions::default() }).unwrap()
    }

    struct Kept {
        folder: tempfile::TempDir,
        engine: Engine,
        modules: CompiledModules,
        digest: Digest,
        bytes: Vec<u8>,
    }

    /// One module that was compiled and kept.
    fn kept() -> Kept {
        let folder = tempfile::tempdir().unwrap();
        let engine = engine(true);
        let modules = CompiledModules::open(Some(folder.path()), &engine, 64 << 20);
        let (digest, bytes) = module("one");
        assert!(modules.restore(&engine, digest, &bytes).is_none(), "nothing yet");
        modules.keep(digest, &Module::compile(&engine, &bytes).unwrap());
        assert!(modules.restore(&engine, digest, &bytes).is_some(), "kept");
        Kept { folder, engine, modules, digest, bytes }
    }

    impl Kept {
        fn reopened(&self, engine: &Engine) -> CompiledModules {
            CompiledModules::open(Some(self.folder.path()), engine, 64 << 20)
        }

        fn path(&self) -> PathBuf {
            self.modules.0.as_ref().unwrap().path(self.digest)
        }

        /// Refused, and good again once it was compiled and kept once more.
        fn is_refused_and_replaced(&self) {
            let modules = self.reopened(&self.engine);
            assert!(modules.restore(&self.engine, self.digest, &self.bytes).is_none());
            modules.keep(self.digest, &Module::compile(&self.engine, &self.bytes).unwrap());
            assert!(modules.restore(&self.engine, self.digest, &self.bytes).is_some());
        }
    }

    #[test]
    fn a_restart_finds_what_was_compiled() {
        let kept = kept();
        assert!(kept.reopened(&kept.engine).restore(&kept.engine, kept.digest, &kept.bytes).is_some());
        let mode = |name: &str| fs::metadata(kept.folder.path().join("compiled").join(name)).unwrap().mode() & 0o777;
        assert_eq!((mode("key"), mode(".")), (0o600, 0o700));
    }

    #[test]
    fn every_damaged_byte_is_noticed() {
        let kept = kept();
        let good = fs::read(kept.path()).unwrap();
        for at in (0..good.len()).step_by(good.len() / 50).chain([MAC_BYTES - 1, MAC_BYTES, good.len() - 1]) {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(kept.path(), &bad).unwrap();
            assert!(kept.modules.restore(&kept.engine, kept.digest, &kept.bytes).is_none(), "byte {at}");
        }
        for length in [0, MAC_BYTES - 1, MAC_BYTES, good.len() - 1] {
            fs::write(kept.path(), &good[..length]).unwrap();
            assert!(kept.modules.restore(&kept.engine, kept.digest, &kept.bytes).is_none(), "{length} bytes");
        }
        kept.is_refused_and_replaced();
    }

    #[test]
    fn what_others_wrote_is_never_used() {
        let kept = kept();
        // Perfect code, signed with another key.
        let elsewhere = tempfile::tempdir().unwrap();
        let others = CompiledModules::open(Some(elsewhere.path()), &kept.engine, 64 << 20);
        others.keep(kept.digest, &Module::compile(&kept.engine, &kept.bytes).unwrap());
        fs::copy(others.0.as_ref().unwrap().path(kept.digest), kept.path()).unwrap();
        kept.is_refused_and_replaced();

        // Our own code of another module, under the name of this one.
        let (digest, bytes) = module("two");
        kept.modules.keep(digest, &Module::compile(&kept.engine, &bytes).unwrap());
        fs::copy(kept.modules.0.as_ref().unwrap().path(digest), kept.path()).unwrap();
        kept.is_refused_and_replaced();

        // A link to something that would be right.
        let good = kept.folder.path().join("good");
        fs::rename(kept.path(), &good).unwrap();
        std::os::unix::fs::symlink(&good, kept.path()).unwrap();
        assert!(kept.modules.restore(&kept.engine, kept.digest, &kept.bytes).is_none());

        // A key that somebody else could read.
        let kept = self::kept();
        let key = kept.folder.path().join("compiled/key");
        fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
        kept.is_refused_and_replaced();
        assert_eq!(fs::metadata(&key).unwrap().mode() & 0o777, 0o600);
        fs::write(&key, "short").unwrap();
        kept.is_refused_and_replaced();
    }

    #[test]
    fn code_of_other_settings_is_another_entry() {
        let kept = kept();
        let other = engine(false);
        assert!(!other.is_pooling());
        assert_ne!(kept.engine.compatibility(), other.compatibility());
        let modules = kept.reopened(&other);
        assert!(modules.restore(&other, kept.digest, &kept.bytes).is_none());
        // Under the right name it is still not taken.
        fs::copy(kept.path(), modules.0.as_ref().unwrap().path(kept.digest)).unwrap();
        assert!(modules.restore(&other, kept.digest, &kept.bytes).is_none());
        modules.keep(kept.digest, &Module::compile(&other, &kept.bytes).unwrap());
        assert!(modules.restore(&other, kept.digest, &kept.bytes).is_some());
        assert!(kept.modules.restore(&kept.engine, kept.digest, &kept.bytes).is_some(), "both live");
    }

    #[test]
    fn what_nobody_uses_goes_after_a_day_and_the_oldest_when_there_is_too_much() {
        let kept = kept();
        let (digest, bytes) = module("two");
        kept.modules.keep(digest, &Module::compile(&kept.engine, &bytes).unwrap());
        let second = kept.modules.0.as_ref().unwrap().path(digest);
        let size = fs::metadata(&second).unwrap().len();
        let aged = |path: &Path, hours: u64| {
            let time = SystemTime::now() - Duration::from_secs(hours * 3600);
            File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
        };
        aged(&kept.path(), 25);
        aged(&second, 23);
        kept.modules.sweep(&HashSet::from([kept.digest]));
        assert!(kept.path().exists() && second.exists(), "one is in use, the other is young");

        let small = CompiledModules::open(Some(kept.folder.path()), &kept.engine, size * 3 / 2);
        small.sweep(&HashSet::from([kept.digest]));
        assert!(kept.path().exists() && !second.exists(), "too much");

        let again = kept.reopened(&kept.engine);
        again.sweep(&HashSet::new());
        assert!(!kept.path().exists(), "a day without use");
        assert!(kept.folder.path().join("compiled/key").exists());
    }
}
