//! The resources in use: for each the last version that was good.
//!
//! A broken resource never takes others down, and never itself either if it has been good before. What
//! counts is what the source last showed: a resource that is gone from a readable file is removed, one
//! whose file cannot be read is kept. At the start there is no version before, so what is broken is left out.

use std::{
    collections::{HashMap, hash_map},
    fmt, io,
};

use bytes::Bytes;

use super::{
    Options,
    path::Path,
    problem::{BEYOND_LIMIT, Level, Problem},
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

/// What an update of the [`Store`] changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    /// EndpointSlices, and nothing else.
    Endpoints,
    /// Anything else, or nothing.
    Any,
}

/// The last state of a file. Its text may hold keys, so `Debug` does not show it.
struct File {
    /// What `contents` was read from.
    bytes: Bytes,
    contents: Contents,
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("File").field("bytes", &self.bytes.len()).field("contents", &self.contents).finish()
    }
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
    /// Says what that changes.
    pub fn update(&mut self, files: Vec<SourceFile>) -> Changed {
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
                    // If it is a folder, nobody knows what is in it now.
                    let mut inside: Vec<_> =
                        before.extract_if(|known, _| std::path::Path::new(known).starts_with(&path)).collect();
                    inside.sort_by(|(one, _), (other, _)| one.cmp(other));
                    for (path, file) in inside {
                        order.push(path.clone());
                        self.files.insert(path, file);
                    }
                    let contents = Contents { broken: true, ..Contents::default() };
                    known.unwrap_or(File { bytes: Bytes::new(), contents })
                }
            };
            order.push(path.clone());
            self.files.insert(path, now);
        }
        let in_use = self.choose(&order, &mut problems);
        let resources = Resources::collect(in_use);
        let changed =
            if resources.differ_in_endpoints_only(&self.resources) { Changed::Endpoints } else { Changed::Any };
        self.resources = resources;
        problems.extend(validate::references(&self.resources, &self.options));
        problems.sort_by(Problem::by_place);
        problems.dedup();
        self.problems = problems;
        changed
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
        code: if error.kind() == io::ErrorKind::FileTooLarge { BEYOND_LIMIT } else { "GW0001" },
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn entry(name: &str, address: &str) -> String {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}}}\nspec: {{hosts: [{name}.com], \
             resolution: STATIC, ports: [{{number: 80, name: http}}], endpoints: [{{address: '{address}'}}]}}\n"
        )
    }

    fn update(store: &mut Store, files: &[(&str, Option<String>)]) -> Vec<String> {
        let files = files.iter().map(|(path, text)| {
            let contents = text.clone().map(Bytes::from).ok_or_else(|| io::Error::other("broken disk"));
            SourceFile { path: (*path).to_owned(), contents }
        });
        store.update(files.collect());
        let resources = store.resources().service_entries.iter();
        resources
            .map(|entry| format!("{}={}", entry.name, entry.spec.endpoints.first().map_or("", |e| e.address.as_str())))
            .collect()
    }

    fn messages(store: &Store) -> Vec<String> {
        store.problems().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_last_good_version_stays() {
        let mut store = Store::new(Options::default());
        let good = entry("a", "1.1.1.1");
        assert_eq!(
            update(&mut store, &[("f", Some(good)), ("g", Some(entry("b", "2.2.2.2")))]),
            ["a=1.1.1.1", "b=2.2.2.2"]
        );
        assert!(messages(&store).is_empty(), "{:?}", messages(&store));

        // Refused by validation: the version before stays, and the rest is updated.
        let refused = entry("a", "localhost");
        assert_eq!(
            update(&mut store, &[("f", Some(refused)), ("g", Some(entry("b", "3.3.3.3")))]),
            ["a=1.1.1.1", "b=3.3.3.3"]
        );
        let found = messages(&store);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("Info [GW0006] (ServiceEntry default/a f:1)"), "{found:?}");
        assert!(found[1].contains("must be an IP address"), "{found:?}");

        // Not even YAML, or not readable at all.
        assert_eq!(update(&mut store, &[("f", Some("a: [".to_owned())), ("g", None)]), ["b=3.3.3.3", "a=1.1.1.1"]);
        let found = messages(&store);
        assert!(found.len() == 2 && found[0].contains("[GW0002]") && found[1].contains("broken disk"), "{found:?}");

        // Corrected; and a file that is gone takes its resources along.
        assert_eq!(update(&mut store, &[("f", Some(entry("a", "4.4.4.4")))]), ["a=4.4.4.4"]);
        assert!(messages(&store).is_empty());
        assert!(update(&mut store, &[]).is_empty());
    }

    #[test]
    fn at_the_start_there_is_no_version_before() {
        let mut store = Store::new(Options::default());
        let text =
            format!("{}---\n{}---\n[\n---\n{}", entry("a", "nowhere"), entry("b", "1.1.1.1"), entry("c", "2.2.2.2"));
        assert_eq!(update(&mut store, &[("f", Some(text))]), ["b=1.1.1.1", "c=2.2.2.2"]);
        let found = messages(&store);
        assert!(
            found.len() == 2 && found[0].starts_with("Error [IST0106]") && found[1].starts_with("Error [GW0002]"),
            "{found:?}"
        );
    }

    #[test]
    fn a_broken_document_hides_what_was_there_but_removal_is_removal() {
        let mut store = Store::new(Options::default());
        let both = format!("{}---\n{}", entry("a", "1.1.1.1"), entry("b", "2.2.2.2"));
        update(&mut store, &[("f", Some(both))]);
        let broken = format!("{}---\nmetadata: {{name: b\n", entry("a", "3.3.3.3"));
        assert_eq!(update(&mut store, &[("f", Some(broken))]), ["a=3.3.3.3", "b=2.2.2.2"]);
        assert_eq!(update(&mut store, &[("f", Some(entry("a", "3.3.3.3")))]), ["a=3.3.3.3"]);
    }

    #[test]
    fn a_folder_that_cannot_be_read_keeps_what_was_in_it() {
        let mut store = Store::new(Options::default());
        update(&mut store, &[("d/e/f", Some(entry("a", "1.1.1.1"))), ("dd", Some(entry("b", "2.2.2.2")))]);
        assert_eq!(update(&mut store, &[("d", None)]), ["a=1.1.1.1"]);
        assert_eq!(update(&mut store, &[("d", None)]), ["a=1.1.1.1"]);
        assert!(update(&mut store, &[]).is_empty());
    }

    #[test]
    fn a_file_that_is_about_to_be_written_keeps_what_it_had() {
        let mut store = Store::new(Options::default());
        update(&mut store, &[("f", Some(entry("a", "1.1.1.1")))]);
        assert_eq!(update(&mut store, &[("f", Some(String::new()))]), ["a=1.1.1.1"]);
        assert!(messages(&store)[0].starts_with("Warning [GW0008] (f) the file is empty"), "{:?}", messages(&store));
        // A comment is something: whoever writes it wants nothing else to be there.
        assert!(update(&mut store, &[("f", Some("# nothing\n".to_owned()))]).is_empty());
    }

    #[test]
    fn of_two_with_one_name_the_first_stands() {
        let mut store = Store::new(Options::default());
        let files = [("f", Some(entry("a", "1.1.1.1"))), ("g", Some(entry("a", "2.2.2.2")))];
        assert_eq!(update(&mut store, &files), ["a=1.1.1.1"]);
        assert_eq!(
            messages(&store),
            [
                "Error [GW0005] (ServiceEntry default/a g:1) is defined twice; the first, f:1, stands and this one has no effect"
            ]
        );
        // A resource may move to another file.
        assert_eq!(update(&mut store, &files[1..]), ["a=2.2.2.2"]);
    }

    #[test]
    fn lists_and_other_kinds() {
        let mut store = Store::new(Options::default());
        let list = format!(
            "apiVersion: v1\nkind: List\nitems:\n- {}- apiVersion: apps/v1\n  kind: Deployment\n  metadata: {{name: d}}\n- kind: x\n",
            entry("a", "x").replace('\n', "\n  ").trim_end_matches(' ')
        );
        assert!(update(&mut store, &[("f", Some(list))]).is_empty());
        let found = messages(&store);
        assert_eq!(found.len(), 3, "{found:#?}");
        assert!(found[0].contains("(ServiceEntry default/a f:7) spec.endpoints[0].address"), "{found:#?}");
        assert!(found[1].starts_with("Info [GW0004] (f:8) Deployment"), "{found:#?}");
        assert!(found[2].starts_with("Error [GW0003] (f:11)"), "{found:#?}");
    }

    #[test]
    fn encodings() {
        let mut store = Store::new(Options::default());
        let bom = format!("\u{feff}{}", entry("a", "1.1.1.1").replace('\n', "\r\n"));
        assert_eq!(update(&mut store, &[("f", Some(bom))]), ["a=1.1.1.1"]);
        store.update(vec![SourceFile { path: "g".to_owned(), contents: Ok(Bytes::from_static(b"a: 1\nb: \xff\n")) }]);
        assert_eq!(messages(&store), ["Error [GW0002] (g:2) not UTF-8 text; save the file as UTF-8"]);
    }
}
