//! How much memory there may be, and how much is in use.
//!
//! In a container the kernel kills the process whose cgroup (version 1 or 2) goes over its limit, so that limit is what
//! counts, and with it all that the kernel charges to the cgroup: sockets' buffers, too. Only pages of files that nobody
//! writes do not count, because the kernel takes those back first (kubelet's "working set"). An operator may give a
//! limit instead; then the process's own memory is held against it.
//!
//! Files are opened once and read again and again, so that it works without a free descriptor.

use std::{
    fmt,
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    str::FromStr,
};

/// Where the limit comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum MemoryLimit {
    /// The cgroup's; none if it has none.
    #[default]
    Cgroup,
    /// None.
    Off,
    /// So many bytes for the memory of the process, as far as it is in RAM and not the contents of files.
    Bytes(u64),
    /// That of the cgroup in this folder.
    Folder(PathBuf),
}

/// A limit that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no amount of memory; say 512Mi, 2Gi, a number of bytes (at least 16Mi), `cgroup`, the folder of one, or `off`"
)]
pub struct MemoryLimitError(String);

/// Below this no gateway can run.
const LEAST: u64 = 16 << 20;

impl FromStr for MemoryLimit {
    type Err = MemoryLimitError;

    /// `cgroup`, `off`, the folder of a cgroup, or bytes in the way Kubernetes writes them.
    fn from_str(text: &str) -> Result<Self, MemoryLimitError> {
        match text {
            "cgroup" => return Ok(Self::Cgroup),
            "off" => return Ok(Self::Off),
            path if path.starts_with('/') => return Ok(Self::Folder(path.into())),
            _ => {}
        }
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let factor = match unit {
            "" => Some(1),
            "Ki" => Some(1 << 10),
            "Mi" => Some(1 << 20),
            "Gi" => Some(1 << 30),
            "k" => Some(1_000),
            "M" => Some(1_000_000),
            "G" => Some(1_000_000_000),
            _ => None,
        };
        let bytes = number.parse::<u64>().ok().zip(factor).and_then(|(number, factor)| number.checked_mul(factor));
        bytes.filter(|bytes| *bytes >= LEAST).map(Self::Bytes).ok_or_else(|| MemoryLimitError(text.to_owned()))
    }
}

impl fmt::Display for MemoryLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cgroup => f.write_str("cgroup"),
            Self::Off => f.write_str("off"),
            Self::Bytes(bytes) => bytes.fmt(f),
            Self::Folder(folder) => folder.display().fmt(f),
        }
    }
}

/// A limit, and the files that say how much is in use.
#[derive(Debug)]
pub(super) struct Memory {
    limit: u64,
    source: String,
    reading: Reading,
}

#[derive(Debug)]
enum Reading {
    /// `/proc/self/statm`
    Process(File),
    Cgroup {
        /// Somebody may change it while we run.
        limit: File,
        used: File,
        stat: File,
        /// The line of `stat` with the pages of files that were not used lately.
        inactive: &'static str,
    },
}

/// Names of a version of cgroups.
struct Names {
    limit: &'static str,
    used: &'static str,
    inactive: &'static str,
}

const VERSIONS: [Names; 2] = [
    Names { limit: "memory.max", used: "memory.current", inactive: "inactive_file" },
    Names { limit: "memory.limit_in_bytes", used: "memory.usage_in_bytes", inactive: "total_inactive_file" },
];
/// Version 1 says "no limit" with the largest number of whole pages; no machine has as much as this.
const UNLIMITED: u64 = 1 << 60;

impl Memory {
    /// What is to be watched; `None` if there is no limit.
    pub(super) fn find(limit: &MemoryLimit) -> Option<Self> {
        match limit {
            MemoryLimit::Off => None,
            MemoryLimit::Bytes(bytes) => match File::open("/proc/self/statm") {
                Ok(file) => {
                    Some(Self { limit: *bytes, source: "the process".to_owned(), reading: Reading::Process(file) })
                }
                Err(error) => {
                    tracing::error!(%error, "cannot read /proc/self/statm: --memory-limit has no effect");
                    None
                }
            },
            MemoryLimit::Folder(folder) => {
                let found = Self::of_cgroup(folder);
                if found.is_none() {
                    tracing::error!(folder = %folder.display(), "no cgroup with a limit of memory is there: --memory-limit has no effect");
                }
                found
            }
            MemoryLimit::Cgroup => {
                own_cgroups().iter().filter_map(|folder| Self::of_cgroup(folder)).min_by_key(Self::limit)
            }
        }
    }

    /// The cgroup in a folder; `None` if it has no limit or is none.
    fn of_cgroup(folder: &Path) -> Option<Self> {
        VERSIONS.iter().find_map(|Names { limit, used, inactive }| {
            let open = |name: &str| File::open(folder.join(name)).ok();
            let limit_file = open(limit)?;
            Some(Self {
                limit: limit_in(&limit_file).ok().flatten()?,
                source: folder.display().to_string(),
                reading: Reading::Cgroup { limit: limit_file, used: open(used)?, stat: open("memory.stat")?, inactive },
            })
        })
    }

    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    pub(super) fn source(&self) -> &str {
        &self.source
    }

    /// Bytes in use now.
    pub(super) fn read(&mut self) -> io::Result<u64> {
        let wrong = || io::Error::from(io::ErrorKind::InvalidData);
        match &self.reading {
            Reading::Process(statm) => {
                // Pages: all, resident, and those of files among the resident ones (proc(5)).
                let pages = text(statm, |text| {
                    let mut numbers = text.split_whitespace().skip(1).map(|number| number.parse::<u64>().ok());
                    numbers.next()??.checked_sub(numbers.next()??)
                })?;
                Ok(pages.ok_or_else(wrong)? * page_bytes())
            }
            Reading::Cgroup { limit, used, stat, inactive } => {
                self.limit = limit_in(limit)?.unwrap_or(UNLIMITED);
                let used = text(used, |text| text.trim().parse::<u64>().ok())?.ok_or_else(wrong)?;
                let idle = text(stat, |text| {
                    let line = text.lines().find_map(|line| line.strip_prefix(inactive)?.strip_prefix(' '));
                    line?.parse::<u64>().ok()
                })?;
                Ok(used.saturating_sub(idle.unwrap_or(0)))
            }
        }
    }
}

/// The limit in a file; `None`: there is none.
fn limit_in(file: &File) -> io::Result<Option<u64>> {
    text(file, |text| match text.trim() {
        "max" => Ok(None),
        text => {
            let limit = text.parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
            Ok(Some(limit).filter(|limit| *limit < UNLIMITED))
        }
    })?
}

/// Looks at the beginning of a small file.
fn text<T>(file: &File, look: impl FnOnce(&str) -> T) -> io::Result<T> {
    let mut buffer = [0; 8192];
    let read = file.read_at(&mut buffer, 0)?;
    Ok(look(&String::from_utf8_lossy(buffer.get(..read).unwrap_or_default())))
}

fn page_bytes() -> u64 {
    // SAFETY: sysconf reads a constant of the system.
    u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

/// The folders of this process's cgroups that account for memory, with those around them: the limit of a pod may be
/// tighter than the limit of its container.
fn own_cgroups() -> Vec<PathBuf> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    cgroups(&read("/proc/self/cgroup"), &read("/proc/self/mountinfo"))
}

/// From the texts of `/proc/self/cgroup` and `/proc/self/mountinfo` (cgroups(7), proc(5)).
fn cgroups(memberships: &str, mounts: &str) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for membership in memberships.lines() {
        let mut parts = membership.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let kind = match controllers {
            "" => "cgroup2",
            _ if controllers.split(',').any(|controller| controller == "memory") => "cgroup",
            _ => continue,
        };
        for mount in mounts.lines() {
            let Some((place, details)) = mount.split_once(" - ") else { continue };
            let mut details = details.split(' ');
            let matches = details.next() == Some(kind)
                && (kind == "cgroup2"
                    || details.next_back().is_some_and(|all| all.split(',').any(|one| one == "memory")));
            let mut place = place.split(' ').skip(3);
            let (true, Some(root), Some(point)) = (matches, place.next(), place.next()) else { continue };
            // In a container the path may be the host's, of which the mount shows the end only.
            let below = Path::new(path).strip_prefix(root).unwrap_or(Path::new(""));
            let own = Path::new(point).join(below.strip_prefix("/").unwrap_or(below));
            folders.extend(own.ancestors().take_while(|folder| folder.starts_with(point)).map(Path::to_owned));
        }
    }
    folders
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn amounts_are_read_as_kubernetes_writes_them() {
        for (text, bytes) in [("512Mi", 512 << 20), ("2Gi", 2 << 30), ("16777216", 16 << 20), ("1G", 1_000_000_000)] {
            assert_eq!(text.parse(), Ok(MemoryLimit::Bytes(bytes)));
        }
        assert_eq!("cgroup".parse(), Ok(MemoryLimit::Cgroup));
        assert_eq!("off".parse(), Ok(MemoryLimit::Off));
        assert_eq!("/a/b".parse(), Ok(MemoryLimit::Folder("/a/b".into())));
        for bad in ["", "1Mi", "512mb", "-1", "x", "99999999999999999999", "99999999999999Gi", "1.5Gi"] {
            assert!(bad.parse::<MemoryLimit>().is_err(), "{bad}");
        }
    }

    #[test]
    fn cgroups_are_found_in_both_versions_and_in_containers() {
        let v1 = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                  35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
                  32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n";
        let found = cgroups("4:memory:/a/b\n1:cpu:/\n0::/\n", v1);
        assert_eq!(
            found,
            ["/sys/fs/cgroup/memory/a/b", "/sys/fs/cgroup/memory/a", "/sys/fs/cgroup/memory"].map(PathBuf::from)
        );
        let v2 = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(cgroups("0::/pod/c\n", v2).first().unwrap(), Path::new("/sys/fs/cgroup/pod/c"));
        assert_eq!(cgroups("0::/\n", v2), [PathBuf::from("/sys/fs/cgroup")]);
        let container = "35 31 0:32 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
        assert_eq!(cgroups("4:memory:/docker/abc\n", container), [PathBuf::from("/sys/fs/cgroup/memory")]);
        assert_eq!(cgroups("4:memory:/elsewhere\n", container), [PathBuf::from("/sys/fs/cgroup/memory")]);
        assert!(cgroups("nonsense\n:\n", "nonsense - \n - cgroup\n").is_empty());
    }

    #[test]
    fn what_the_kernel_can_take_back_does_not_count() {
        for Names { limit, used, inactive } in VERSIONS {
            let folder = tempfile::tempdir().unwrap();
            let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
            write(limit, "1000\n");
            write(used, "700\n");
            write("memory.stat", &format!("cache 600\nx{inactive} 1\n{inactive} 300\n"));
            let mut memory = Memory::find(&MemoryLimit::Folder(folder.path().to_owned())).unwrap();
            assert_eq!((memory.read().unwrap(), memory.limit()), (400, 1000));
            write(used, "900\n");
            write(limit, "2000\n");
            assert_eq!((memory.read().unwrap(), memory.limit()), (600, 2000));
            write(used, "");
            assert!(memory.read().is_err());
            write(used, "900\n");
            write(limit, "");
            assert!(memory.read().is_err(), "a limit that is being written is not none");
            for unlimited in ["max\n", "9223372036854771712\n"] {
                write(limit, unlimited);
                assert!(Memory::find(&MemoryLimit::Folder(folder.path().to_owned())).is_none(), "{unlimited}");
            }
        }
    }

    #[test]
    fn this_process_has_memory() {
        let mut memory = Memory::find(&MemoryLimit::Bytes(1 << 40)).unwrap();
        let used = memory.read().unwrap();
        assert!(used > 1 << 20 && used < 1 << 40, "{used}");
        assert!(Memory::find(&MemoryLimit::Off).is_none());
    }
}
