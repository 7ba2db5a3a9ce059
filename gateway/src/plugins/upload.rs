//! One upload: the version that serves, those that it can go back to, and whether it is in use at all.
//!
//! A version is a module with its settings; both change what requests meet, so both can be undone. Going back
//! does not make a version: it moves along what there is, so that going back twice is two steps, and what was
//! left behind can still be named. A version that is made later follows the one that served then.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{Digest, Limits, Spec};

/// One upload as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Upload {
    /// When the name was first uploaded (RFC 3339): the tie-breaker of the chain order.
    pub(crate) created: String,
    /// It is in no chain, but kept.
    pub(crate) disabled: bool,
    /// What serves, or would.
    pub(crate) current: Arc<Version>,
    /// What served before it, the latest first: a rollback goes to the first.
    before: Vec<Arc<Version>>,
    /// What a rollback left behind, the latest first.
    undone: Vec<Arc<Version>>,
}

/// A module and its settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Version {
    /// 1 for the first of an upload; no two have the same.
    pub(crate) number: u64,
    /// Content of the module.
    pub(crate) digest: Digest,
    /// Size of the module.
    pub(crate) bytes: u64,
    /// Settings as users wrote them.
    pub(crate) settings: Spec,
    /// When it was made, RFC 3339.
    pub(crate) time: String,
}

/// All uploads by name.
pub(crate) type Uploads = BTreeMap<String, Upload>;

/// How somebody names a version of an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// The one that served before the current one.
    Before,
    Number(u64),
    /// The first digits of its digest, at least as many as lists show.
    Digest(String),
}

/// Digits of a digest that name a version: as many as lists show.
const SHORT_DIGEST: usize = 12;

impl Wanted {
    /// Reads `7`, `sha256:0123…` or `0123456789ab`; `None` if it is none of these.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        let hexadecimal = digits.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        if hexadecimal && (SHORT_DIGEST..=64).contains(&digits.len()) {
            return Some(Self::Digest(digits.to_owned()));
        }
        text.parse().ok().map(Self::Number)
    }

    fn is(&self, version: &Version) -> bool {
        match self {
            Self::Before => true,
            Self::Number(number) => version.number == *number,
            Self::Digest(digits) => version.digest.to_string().starts_with(digits),
        }
    }
}

impl Upload {
    /// The first version of a new upload.
    pub(crate) fn new(digest: Digest, bytes: u64, settings: Spec, time: String) -> Self {
        let current = Version { number: 1, digest, bytes, settings, time: time.clone() };
        Self { created: time, disabled: false, current: Arc::new(current), before: Vec::new(), undone: Vec::new() }
    }

    /// Makes a version the current one.
    pub(crate) fn push(&mut self, digest: Digest, bytes: u64, settings: Spec, time: String, limits: &Limits) {
        let number = 1 + self.versions().map(|version| version.number).max().unwrap_or(0);
        let version = Arc::new(Version { number, digest, bytes, settings, time });
        self.before.insert(0, std::mem::replace(&mut self.current, version));
        while self.before.len() + self.undone.len() >= limits.versions.max(1)
            || self.others().map(|version| version.settings_bytes()).sum::<usize>() > limits.settings_bytes
        {
            self.forget_oldest();
        }
    }

    /// Goes to another version. `false`: there is none of that kind.
    pub(crate) fn roll_back(&mut self, wanted: &Wanted) -> bool {
        if *wanted != Wanted::Before && wanted.is(&self.current) {
            return true;
        }
        if let Some(place) = self.before.iter().position(|version| wanted.is(version)) {
            let mut passed: Vec<_> = self.before.drain(..=place).collect();
            if let Some(version) = passed.pop() {
                // Those in between lie after the one that serves now.
                passed.insert(0, std::mem::replace(&mut self.current, version));
                self.undone.splice(0..0, passed);
            }
            return true;
        }
        if *wanted == Wanted::Before {
            return false;
        }
        let Some(place) = self.undone.iter().position(|version| wanted.is(version)) else { return false };
        let version = self.undone.remove(place);
        self.before.insert(0, std::mem::replace(&mut self.current, version));
        true
    }

    /// Every version, in no order.
    pub(crate) fn versions(&self) -> impl Iterator<Item = &Arc<Version>> {
        std::iter::once(&self.current).chain(self.others())
    }

    fn others(&self) -> impl Iterator<Item = &Arc<Version>> {
        self.before.iter().chain(&self.undone)
    }

    /// What was left behind goes first. Does nothing if there is only the current one.
    fn forget_oldest(&mut self) {
        if self.undone.pop().is_none() {
            self.before.pop();
        }
    }
}

impl Version {
    fn settings_bytes(&self) -> usize {
        // An object made of JSON can be written as JSON.
        serde_json::to_vec(&self.settings).map_or(0, |text| text.len())
    }
}

/// Forgets old versions until all modules together have at most `limit` bytes: those that do not serve give way, the
/// oldest first. `false`: those that serve are too many.
pub(crate) fn make_room(uploads: &mut Uploads, limit: u64) -> bool {
    while stored_bytes(uploads) > limit {
        let oldest = uploads.values_mut().filter(|upload| upload.others().next().is_some()).min_by(|one, other| {
            let oldest = |upload: &Upload| upload.others().map(|version| version.time.clone()).min();
            oldest(one).cmp(&oldest(other))
        });
        match oldest {
            Some(upload) => upload.forget_oldest(),
            None => return false,
        }
    }
    true
}

/// A module counts once, however many versions have it.
fn stored_bytes(uploads: &Uploads) -> u64 {
    let modules: HashMap<Digest, u64> =
        uploads.values().flat_map(Upload::versions).map(|version| (version.digest, version.bytes)).collect();
    modules.values().sum()
}

/// An upload as the first format of the store had it: one set of settings, and digests of modules of which only the
/// current one was kept.
#[derive(Deserialize)]
pub(crate) struct FirstFormat {
    digest: Digest,
    bytes: u64,
    settings: Spec,
    created: String,
    versions: Vec<FirstFormatVersion>,
}

#[derive(Deserialize)]
struct FirstFormatVersion {
    time: String,
}

impl From<FirstFormat> for Upload {
    fn from(old: FirstFormat) -> Self {
        let FirstFormat { digest, bytes, settings, created, versions } = old;
        // The first is the current one.
        let time = versions.into_iter().next().map_or_else(|| created.clone(), |version| version.time);
        Self { created, ..Self::new(digest, bytes, settings, time) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(versions: usize) -> Limits {
        Limits { versions, settings_bytes: 100, ..Limits::default() }
    }

    fn push(upload: &mut Upload, module: &str, settings: Spec, limits: &Limits) {
        let time = format!("2026-01-01T00:00:{:02}Z", upload.versions().count());
        upload.push(Digest::of(module.as_bytes()), module.len() as u64, settings, time, limits);
    }

    /// An upload with the versions 1 to `last`.
    fn upload(last: u64) -> Upload {
        let mut upload = Upload::new(Digest::of(b"1"), 1, Spec::new(), "2026-01-01T00:00:00Z".into());
        for number in 2..=last {
            push(&mut upload, &number.to_string(), Spec::new(), &limits(10));
        }
        upload
    }

    fn numbers(upload: &Upload) -> (u64, Vec<u64>, Vec<u64>) {
        let numbers = |list: &[Arc<Version>]| list.iter().map(|version| version.number).collect();
        (upload.current.number, numbers(&upload.before), numbers(&upload.undone))
    }

    #[test]
    fn back_step_by_step_and_forward_by_name() {
        let mut upload = upload(4);
        assert!(upload.roll_back(&Wanted::Before));
        assert_eq!(numbers(&upload), (3, vec![2, 1], vec![4]));
        assert!(upload.roll_back(&Wanted::Number(1)));
        assert_eq!(numbers(&upload), (1, vec![], vec![3, 2, 4]));
        assert!(!upload.roll_back(&Wanted::Before));
        assert!(!upload.roll_back(&Wanted::Number(9)));
        assert!(upload.roll_back(&Wanted::Number(1)), "it is there already");
        assert_eq!(numbers(&upload), (1, vec![], vec![3, 2, 4]));
        assert!(upload.roll_back(&Wanted::Digest(Digest::of(b"4").to_string())));
        assert_eq!(numbers(&upload), (4, vec![1], vec![3, 2]));
    }

    #[test]
    fn the_version_before_a_new_one_is_the_one_that_served() {
        let mut upload = upload(3);
        assert!(upload.roll_back(&Wanted::Number(1)));
        push(&mut upload, "4", Spec::new(), &limits(10));
        assert_eq!(numbers(&upload), (4, vec![1], vec![3, 2]));
        assert!(upload.roll_back(&Wanted::Before));
        assert_eq!(upload.current.number, 1);
    }

    #[test]
    fn history_is_bounded_in_number_and_in_settings() {
        let mut upload = upload(3);
        assert!(upload.roll_back(&Wanted::Before));
        push(&mut upload, "4", Spec::new(), &limits(3));
        assert_eq!(numbers(&upload), (4, vec![2, 1], vec![]), "what was undone goes first");
        push(&mut upload, "5", Spec::new(), &limits(3));
        assert_eq!(numbers(&upload), (5, vec![4, 2], vec![]));
        let large = Spec::from_iter([("pluginConfig".to_owned(), "x".repeat(60).into())]);
        push(&mut upload, "6", large.clone(), &limits(10));
        push(&mut upload, "7", large, &limits(10));
        assert_eq!(numbers(&upload), (7, vec![6, 5, 4, 2], vec![]), "the current one does not count");
        push(&mut upload, "8", Spec::new(), &limits(10));
        assert_eq!(numbers(&upload), (8, vec![7], vec![]));
        push(&mut upload, "9", Spec::new(), &limits(0));
        assert_eq!(numbers(&upload), (9, vec![], vec![]));
    }

    #[test]
    fn versions_that_do_not_serve_give_way() {
        let mut uploads = Uploads::from([("a".to_owned(), upload(3)), ("b".to_owned(), upload(2))]);
        // The modules "1", "2" and "3" are one byte each.
        assert!(make_room(&mut uploads, 3));
        assert_eq!(uploads["a"].versions().count() + uploads["b"].versions().count(), 5);
        assert!(make_room(&mut uploads, 2));
        assert_eq!((uploads["a"].versions().count(), uploads["b"].versions().count()), (2, 1));
        assert!(!make_room(&mut uploads, 1));
        assert_eq!((uploads["a"].current.number, uploads["b"].current.number), (3, 2));
    }

    #[test]
    fn names_of_versions() {
        assert_eq!(Wanted::parse("7"), Some(Wanted::Number(7)));
        assert_eq!(Wanted::parse("sha256:0123456789ab"), Some(Wanted::Digest("0123456789ab".into())));
        assert_eq!(Wanted::parse("000000000012"), Some(Wanted::Digest("000000000012".into())));
        for text in ["", "-1", "v7", "sha256:", "sha256:7", "0123456789a", "0123456789AB", &"f".repeat(65)] {
            assert_eq!(Wanted::parse(text), None, "{text}");
        }
    }
}
