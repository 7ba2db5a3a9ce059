//! What was fetched, on disk: a restart does not need the places that modules came from.

use std::{
    collections::HashSet,
    fs::{self, DirBuilder, File},
    io::{self, Read, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Mutex,
    time::{Duration, Instant, SystemTime},
};

use serde::{Deserialize, Serialize};

use crate::plugins::{Digest, Remote};

/// How long what nobody wants is kept.
const UNUSED: Duration = Duration::from_secs(24 * 60 * 60);
/// How often that is looked for.
const SWEEP: Duration = Duration::from_secs(60 * 60);
/// Longest note that is read.
const MAX_NOTE: u64 = 64 << 10;

/// The folder; its methods block for moments. Without one nothing is kept.
pub(super) struct Kept {
    folder: Option<PathBuf>,
    limit: u64,
    /// When the last sweep was. Also held while something is written, so that it is not swept before it is whole.
    swept: Mutex<Option<Instant>>,
}

/// Which module came from a place.
#[derive(Serialize, Deserialize)]
struct Note {
    /// For people who look at it.
    url: String,
    digest: Digest,
}

impl Kept {
    pub(super) fn new(data_dir: Option<&Path>, limit: u64) -> Self {
        Self { folder: data_dir.map(|folder| folder.join("fetched")), limit, swept: Mutex::new(None) }
    }

    /// The module that came from there last.
    pub(super) fn find(&self, remote: &Remote) -> Option<(Digest, PathBuf)> {
        let folder = self.folder.as_ref()?;
        let path = folder.join(note_name(remote));
        let mut text = Vec::new();
        File::open(&path).ok()?.take(MAX_NOTE).read_to_end(&mut text).ok()?;
        let note: Note = serde_json::from_slice(&text).ok()?;
        let module = folder.join(module_name(note.digest));
        module.is_file().then_some((note.digest, module))
    }

    /// Keeps a module. `None`: there is no folder.
    pub(super) fn keep(&self, remote: &Remote, digest: Digest, module: &[u8]) -> io::Result<Option<PathBuf>> {
        let Some(folder) = &self.folder else { return Ok(None) };
        let _writing = self.swept.lock();
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let note = serde_json::to_vec(&Note { url: remote.url.clone(), digest })?;
        let path = folder.join(module_name(digest));
        write(&path, module)?;
        write(&folder.join(note_name(remote)), &note)?;
        Ok(Some(path))
    }

    /// What came from there is no good.
    pub(super) fn forget(&self, remote: &Remote) {
        if let Some(folder) = &self.folder {
            // It is overwritten when it comes again.
            let _ = fs::remove_file(folder.join(note_name(remote)));
        }
    }

    /// Removes what nobody has wanted for a day, and the oldest of that while there is too much. Looks once an hour.
    pub(super) fn sweep<'a, I: Iterator<Item = &'a Remote>>(&self, wanted: impl FnOnce() -> I) {
        let Some(folder) = &self.folder else { return };
        // The control task does not wait for a disk that is being written to.
        let Ok(mut swept) = self.swept.try_lock() else { return };
        if swept.is_some_and(|swept| swept.elapsed() < SWEEP) {
            return;
        }
        *swept = Some(Instant::now());
        let wanted: HashSet<String> = wanted().map(note_name).collect();
        let now = SystemTime::now();
        let mut notes = Vec::new();
        let mut modules = Vec::new();
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let (name, path) = (entry.file_name(), entry.path());
            let Some((stem, kind)) = name.to_str().and_then(|name| name.split_once('.')) else { continue };
            let (Ok(stem), Ok(metadata)) = (stem.parse::<Digest>(), entry.metadata()) else { continue };
            match kind {
                "json" if name.to_str().is_some_and(|name| wanted.contains(name)) => {
                    // What is in use is as good as new.
                    let _ = File::options().write(true).open(&path).and_then(|file| file.set_modified(now));
                    notes.push((None, path));
                }
                "json" => {
                    let age = metadata.modified().ok().and_then(|time| now.duration_since(time).ok());
                    notes.push((Some(age.unwrap_or_default()), path));
                }
                "wasm" => modules.push((stem, metadata.len(), path)),
                _ => {}
            }
        }
        // Wanted ones last: `None` is the smallest.
        notes.sort_by_key(|(age, _)| std::cmp::Reverse(*age));
        let mut named: Vec<Option<Digest>> = notes.iter().map(|(_, path)| read_note(path)).collect();
        for (at, (age, path)) in notes.iter().enumerate() {
            let held: HashSet<Digest> = named.iter().flatten().copied().collect();
            let total: u64 =
                modules.iter().filter(|(digest, ..)| held.contains(digest)).map(|(_, bytes, _)| bytes).sum();
            let Some(age) = age else { break };
            if *age < UNUSED && total <= self.limit {
                break;
            }
            if fs::remove_file(path).is_ok()
                && let Some(named) = named.get_mut(at)
            {
                *named = None;
            }
        }
        let held: HashSet<Digest> = named.into_iter().flatten().collect();
        for (_, _, path) in modules.iter().filter(|(digest, ..)| !held.contains(digest)) {
            // What cannot be removed is tried again the next time.
            let _ = fs::remove_file(path);
        }
    }
}

fn read_note(path: &Path) -> Option<Digest> {
    let mut text = Vec::new();
    File::open(path).ok()?.take(MAX_NOTE).read_to_end(&mut text).ok()?;
    serde_json::from_slice::<Note>(&text).ok().map(|note| note.digest)
}

fn module_name(digest: Digest) -> String {
    format!("{digest}.wasm")
}

/// A place is a URL, what is expected there, and who asks: a private image does not become another tenant's.
fn note_name(remote: &Remote) -> String {
    let secret = remote.secret.as_ref().map_or("", |secret| &secret.name);
    let place = [&remote.url, remote.sha256.as_deref().unwrap_or_default(), secret].join("\n");
    format!("{}.json", Digest::of(place.as_bytes()))
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // While one process takes over from another, both may write.
    let next = path.with_extension(format!("{}.next", std::process::id()));
    let mut file = File::create(&next)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(next, path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::plugins::PullSecret;

    fn remote(url: &str) -> Remote {
        Remote { url: url.into(), sha256: None, revision: None, secret: None }
    }

    fn kept(folder: &Path, limit: u64) -> Kept {
        Kept::new(Some(folder), limit)
    }

    fn aged(kept: &Kept, remote: &Remote, hours: u64) {
        let path = kept.folder.as_ref().unwrap().join(note_name(remote));
        let time = SystemTime::now() - Duration::from_secs(hours * 3600);
        File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
    }

    #[test]
    fn what_was_kept_is_found_by_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let (one, digest) = (remote("oci://r/a:1"), Digest::of(b"module"));
        assert!(kept(folder.path(), 100).find(&one).is_none());
        let path = kept(folder.path(), 100).keep(&one, digest, b"module").unwrap().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"module");
        let again = kept(folder.path(), 100);
        assert_eq!(again.find(&one), Some((digest, path.clone())));
        let secret = PullSecret { name: "ns/s".into(), docker_config: Err("none".into()) };
        for other in [
            remote("oci://r/a:2"),
            Remote { sha256: Some("ab".into()), ..one.clone() },
            Remote { secret: Some(secret), ..one.clone() },
        ] {
            assert!(again.find(&other).is_none(), "{other:?}");
        }
        assert!(again.find(&Remote { revision: Some(1), ..one.clone() }).is_some());
        fs::remove_file(path).unwrap();
        assert!(again.find(&one).is_none());
        assert!(Kept::new(None, 100).keep(&one, digest, b"module").unwrap().is_none());
    }

    #[test]
    fn what_nobody_wants_goes_after_a_day_or_when_there_is_too_much() {
        let folder = tempfile::tempdir().unwrap();
        let all: Vec<Remote> = ["a", "b", "c", "d"].into_iter().map(remote).collect();
        let contents = [&b"first module"[..], b"second one", b"third", b"third"];
        let write = kept(folder.path(), 100);
        for (remote, bytes) in all.iter().zip(contents) {
            write.keep(remote, Digest::of(bytes), bytes).unwrap();
        }
        for (remote, hours) in all.iter().zip([25, 25, 25, 3]) {
            aged(&write, remote, hours);
        }
        write.sweep(|| all[..1].iter());
        let there = |kept: &Kept| all.iter().map(|remote| kept.find(remote).is_some()).collect::<Vec<_>>();
        assert_eq!(
            there(&write),
            [true, false, false, true],
            "one is wanted, one is young and has the module of an old one"
        );

        // At most once an hour.
        aged(&write, &all[0], 25);
        write.sweep(|| all[..0].iter());
        assert_eq!(there(&write), [true, false, false, true]);

        aged(&write, &all[0], 2);
        let small = kept(folder.path(), 14);
        small.sweep(|| all[..1].iter());
        assert_eq!(there(&small), [true, false, false, false], "what is wanted stays");
        kept(folder.path(), 3).sweep(|| all[..0].iter());
        assert_eq!(fs::read_dir(folder.path().join("fetched")).unwrap().count(), 0);
    }
}
