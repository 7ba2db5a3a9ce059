//! The module in what was fetched: as it is, or packed with gzip or tar or both. Whoever packed it is not trusted: no
//! more is unpacked than the limits say, and nothing is ever written to where an archive wants it.

use std::{
    cell::Cell,
    io::{self, Cursor, Read},
};

use flate2::bufread::MultiGzDecoder;

use super::{FetchError, FetchLimit, client::FetchLimits};

/// What every module begins with.
const WASM: &[u8] = b"\0asm";
const GZIP: &[u8] = &[0x1f, 0x8b];
/// Where a tar archive says what it is.
const TAR_MAGIC: std::ops::Range<usize> = 257..262;
const TAR_BLOCK: usize = 512;

/// Which file of an archive is the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// The first that is a module.
    Any,
    /// The one with this name, in whatever folder.
    Named(&'static str),
}

/// Finds the module in `bytes`.
pub(super) fn module(bytes: &[u8], wanted: Wanted, limits: &FetchLimits) -> Result<Vec<u8>, FetchError> {
    let exhausted = Cell::new(false);
    let found = if bytes.starts_with(GZIP) {
        plain(
            Budget { inner: MultiGzDecoder::new(bytes), left: limits.unpacked, exhausted: &exhausted },
            wanted,
            limits,
        )
    } else {
        plain(bytes, wanted, limits)
    };
    found.map_err(|error| match error.kind() {
        _ if exhausted.get() => {
            let message = format!("what was fetched unpacks to more than {} bytes", limits.unpacked);
            FetchError::beyond(FetchLimit::Bytes, message)
        }
        io::ErrorKind::FileTooLarge => {
            FetchError::beyond(FetchLimit::Bytes, format!("what was fetched cannot be used: {error}"))
        }
        _ => FetchError::new("module-malformed", format!("what was fetched is not a WebAssembly module: {error}")),
    })
}

fn plain(mut reader: impl Read, wanted: Wanted, limits: &FetchLimits) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(TAR_BLOCK);
    reader.by_ref().take(TAR_BLOCK as u64).read_to_end(&mut head)?;
    let is_tar = head.get(TAR_MAGIC).is_some_and(|magic| magic == b"ustar");
    let mut whole = Cursor::new(&head).chain(reader);
    if is_tar {
        return in_archive(whole, wanted, limits);
    }
    if !head.starts_with(WASM) {
        return Err(no_module(&head));
    }
    limited(&mut whole, limits.module)
}

fn in_archive(reader: impl Read, wanted: Wanted, limits: &FetchLimits) -> io::Result<Vec<u8>> {
    let mut archive = tar::Archive::new(reader);
    // Raw: the names of long names are not read into memory.
    for entry in archive.entries()?.raw(true) {
        let mut entry = entry?;
        let regular = matches!(entry.header().entry_type(), tar::EntryType::Regular | tar::EntryType::Continuous);
        let named = match wanted {
            Wanted::Any => true,
            Wanted::Named(name) => entry.path_bytes().rsplit(|byte| *byte == b'/').next() == Some(name.as_bytes()),
        };
        if !regular || !named {
            continue;
        }
        let mut magic = Vec::with_capacity(WASM.len());
        entry.by_ref().take(WASM.len() as u64).read_to_end(&mut magic)?;
        if magic == WASM {
            return limited(&mut Cursor::new(WASM).chain(entry), limits.module);
        }
        if wanted != Wanted::Any {
            return Err(no_module(&magic));
        }
    }
    let what = match wanted {
        Wanted::Any => "the archive has no WebAssembly module in it".to_owned(),
        Wanted::Named(name) => format!("the archive has no file {name}"),
    };
    Err(io::Error::new(io::ErrorKind::InvalidData, what))
}

/// Reads to the end, but no more than `limit` bytes.
fn limited(reader: &mut impl Read, limit: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > limit {
        let message = format!("it is larger than {limit} bytes, the limit of a module");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok(bytes)
}

fn no_module(head: &[u8]) -> io::Error {
    let text = head.trim_ascii_start();
    let what = if text.is_empty() {
        "it is empty".to_owned()
    } else if text.starts_with(b"<") {
        "it is HTML, probably a page with an error or a login".to_owned()
    } else {
        format!("it begins with \"{}\"", text.iter().take(16).copied().collect::<Vec<u8>>().escape_ascii())
    };
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Gives no more than so many bytes.
struct Budget<'a, R> {
    inner: R,
    left: usize,
    /// Whether there was more: those who read wrap errors in their own.
    exhausted: &'a Cell<bool>,
}

impl<R: Read> Read for Budget<'_, R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(out)?;
        match self.left.checked_sub(read) {
            Some(left) => {
                self.left = left;
                Ok(read)
            }
            None => {
                self.exhausted.set(true);
                Err(io::ErrorKind::FileTooLarge.into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};

    use super::*;
    use crate::plugins::Limits;

    fn limits() -> FetchLimits {
        FetchLimits::new(&Limits { module_bytes: 1000, unpacked_bytes: 20_000, ..Limits::default() })
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, bytes) in files {
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, *bytes).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn any(bytes: &[u8]) -> Result<Vec<u8>, FetchError> {
        module(bytes, Wanted::Any, &limits())
    }

    #[test]
    fn a_module_is_found_however_it_is_packed() {
        let wasm = b"\0asm\x01\0\0\0 and more".to_vec();
        let archive = tar(&[("README", b"read me"), ("a/b/plugin.wasm", &wasm)]);
        for packed in [wasm.clone(), gzip(&wasm), archive.clone(), gzip(&archive)] {
            assert_eq!(any(&packed).unwrap(), wasm);
        }
        let two = tar(&[("other.wasm", b"\0asm other"), ("a/plugin.wasm", &wasm)]);
        assert_eq!(any(&two).unwrap(), b"\0asm other");
        assert_eq!(module(&gzip(&two), Wanted::Named("plugin.wasm"), &limits()).unwrap(), wasm);
    }

    #[test]
    fn what_is_no_module_is_refused_with_what_it_is() {
        let archive = tar(&[("plugin.wasm", b"text"), ("my-plugin.wasm", b"\0asm")]);
        for (bytes, wanted, words) in [
            (b"".to_vec(), Wanted::Any, "empty"),
            (b"\n<!doctype html>".to_vec(), Wanted::Any, "HTML"),
            (b"{\"error\": 1}".to_vec(), Wanted::Any, "begins with"),
            (gzip(b"<html>"), Wanted::Any, "HTML"),
            (gzip(&gzip(b"\0asm")), Wanted::Any, "begins with"),
            (gzip(b"\0asm")[..12].to_vec(), Wanted::Any, "not a WebAssembly module"),
            (tar(&[("a", b"b")]), Wanted::Any, "no WebAssembly module"),
            (archive, Wanted::Named("plugin.wasm"), "begins with"),
            (tar(&[("my-plugin.wasm", b"\0asm")]), Wanted::Named("plugin.wasm"), "no file plugin.wasm"),
        ] {
            let error = module(&bytes, wanted, &limits()).unwrap_err();
            assert_eq!(error.code, "module-malformed", "{error}");
            assert!(error.message.contains(words), "{words}: {error}");
        }
    }

    #[test]
    fn bombs_do_not_go_off() {
        let large = [&b"\0asm"[..], &[0; 1000]].concat();
        let zeroes = vec![0; 1 << 20];
        let mut lying = tar(&[("plugin.wasm", b"\0asm")]);
        // Says that the file has eight gigabytes.
        lying[124..136].copy_from_slice(b"77777777777\0");
        let checksum: u32 = lying[..512]
            .iter()
            .enumerate()
            .map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) })
            .sum();
        lying[148..156].copy_from_slice(format!("{checksum:06o}\0 ").as_bytes());
        let endless = [&lying[..512], &b"\0asm"[..], &zeroes[..]].concat();
        let skipped = tar(&[("a", &zeroes), ("plugin.wasm", b"\0asm")]);
        for bytes in
            [large.clone(), gzip(&large), endless.clone(), gzip(&endless), gzip(&skipped), gzip(&tar(&[("p", &large)]))]
        {
            let error = any(&bytes).unwrap_err();
            assert_eq!((error.code, error.limit), ("module-too-large", Some(FetchLimit::Bytes)), "{error}");
        }
    }
}
