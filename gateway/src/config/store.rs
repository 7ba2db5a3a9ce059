//! The resources in use: for each the last version that was good.
//!
//! A broken resource never takes others down, and never itself either if it has been good before. What
//! counts is what the source last showed: a resource that is gone from a readable file is removed, one
//! whose file cannot be read is kept. At the start there is no version before, so what is broken is left out.

use std::{
    collections::{HashMap, hash_map},
    io,
};

use bytes::Bytes;

use super::{
    Options,
    path::Path,
    problem::{Level, Problem},
    read::{Contents, Entry, Key, read},
    resources::{AnyResource, Resources},
    source::SourceFile,
    validate,
};

/// All resources, and everything that is wrong with them.
#[derive(Debug)]
pub struct Store {
    options: Options,
    files: HashMap<String, File>,
    /// What is in use, and which file it came from.
    good: HashMap<Key, (AnyResource, String)>,
    resources: Resources,
    problems: Vec<Problem>,
}

/// The last state of a file.
#[derive(Debug)]
struct File {
    /// What `contents` was read from.
    bytes: Bytes,
    contents: Contents,
}

impl Store {
    /// An empty store.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self {
            options,
            files: HashMap::new(),
            good: HashMap::new(),
            resources: Resources::default(),
            problems: Vec::new(),
        }
    }

    /// Takes what the source shows now: all files, in order. Files whose bytes did not change are not read again.
    pub fn update(&mut self, files: Vec<SourceFile>) {
        let mut problems = Vec::new();
        let mut before = std::mem::take(&mut self.files);
        let mut order = Vec::with_capacity(files.len());
        for SourceFile { path, contents } in files {
            let known = before.remove(&path);
            let now = match contents {
                Ok(bytes) => match known {
                    Some(file) if file.bytes == bytes => file,
                    _ => File { contents: read(&path, &bytes), bytes },
                },
                // Deleted between listing and reading.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => {
                    problems.push(unreadable(&path, &error));
                    let contents = Contents { broken: true, ..Contents::default() };
                    known.unwrap_or(File { bytes: Bytes::new(), contents })
                }
            };
            order.push(path.clone());
            self.files.insert(path, now);
        }
        let in_use = self.choose(&order, &mut problems);
        self.resources = Resources::collect(in_use);
        problems.extend(validate::references(&self.resources, &self.options));
        problems.sort_by(Problem::by_place);
        problems.dedup();
        self.problems = problems;
    }

    /// Decides which version of each resource is in use, in the order of files and documents.
    fn choose(&mut self, order: &[String], problems: &mut Vec<Problem>) -> Vec<AnyResource> {
        let mut good = std::mem::take(&mut self.good);
        let mut claimed: HashMap<&Key, &Entry> = HashMap::new();
        let mut in_use = Vec::new();
        for file in order.iter().filter_map(|path| self.files.get(path)) {
            problems.extend_from_slice(&file.contents.problems);
            for entry in &file.contents.entries {
                match claimed.entry(&entry.key) {
                    hash_map::Entry::Occupied(first) => problems.push(duplicate(entry, first.get())),
                    hash_map::Entry::Vacant(place) => {
                        place.insert(entry);
                        problems.extend_from_slice(&entry.problems);
                        let before = good.remove(&entry.key).map(|(resource, _)| resource);
                        if entry.resource.is_none() && before.is_some() {
                            problems.push(stays(entry));
                        }
                        if let Some(resource) = entry.resource.clone().or(before) {
                            in_use.push((entry.key.clone(), resource, entry.origin.file.to_string()));
                        }
                    }
                }
            }
        }
        // What is left was in a file that is gone, or was taken out of it, or hides in text that cannot be read.
        let mut hidden: Vec<_> = good
            .into_iter()
            .filter(|(_, (_, path))| self.files.get(path).is_some_and(|file| file.contents.broken))
            .map(|(key, (resource, path))| (key, resource, path))
            .collect();
        hidden.sort_by(|a, b| (&a.2, &a.0).cmp(&(&b.2, &b.0)));
        in_use.extend(hidden);
        let mut chosen = Vec::with_capacity(in_use.len());
        for (key, resource, path) in in_use {
            chosen.push(resource.clone());
            self.good.insert(key, (resource, path));
        }
        chosen
    }

    /// What is in use.
    #[must_use]
    pub fn resources(&self) -> &Resources {
        &self.resources
    }

    /// Everything that is wrong with files and resources, sorted by file and line.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

fn unreadable(path: &str, error: &io::Error) -> Problem {
    Problem {
        level: Level::Error,
        code: "GW0001",
        resource: String::new(),
        file: path.to_owned(),
        line: 0,
        field: String::new(),
        message: format!("cannot be read: {error}"),
    }
}

fn about(entry: &Entry, level: Level, code: &'static str, message: String) -> Problem {
    let (kind, namespace, name) = &entry.key;
    Problem {
        level,
        code,
        resource: format!("{kind} {namespace}/{name}"),
        file: entry.origin.file.to_string(),
        line: entry.origin.line(""),
        field: Path::Root.to_string(),
        message,
    }
}

fn duplicate(entry: &Entry, first: &Entry) -> Problem {
    let message = format!("is defined twice; the first, {}, stands and this one has no effect", first.origin);
    about(entry, Level::Error, "GW0005", message)
}

fn stays(entry: &Entry) -> Problem {
    about(entry, Level::Info, "GW0006", "the version before stays in use until the errors are corrected".to_owned())
}
