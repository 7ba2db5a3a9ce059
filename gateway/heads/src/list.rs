//! The fields of a head in the order in which they came.

use std::fmt;
use std::ops::Index;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::Named;
use crate::name::{mark, same};

/// Header fields. Several may have one name; they need not stand together.
///
/// How many there may be is for those who fill it to limit: everything is linear in their number.
#[derive(Clone, Default)]
pub struct HeaderList {
    fields: Vec<Field>,
    /// A bit for every mark that has come, so that most of what is missing is known to be.
    seen: u64,
    /// And for every one whose bit was there already: only of these there can be several.
    again: u64,
}

#[derive(Clone)]
struct Field {
    mark: u32,
    name: HeaderName,
    value: HeaderValue,
}

/// The bit of a mark: by its upper bits, on which every byte of a name has its effect.
#[inline]
const fn bit(mark: u32) -> u64 {
    1 << (mark >> 26)
}

#[allow(clippy::needless_pass_by_value, reason = "names are given as `http` takes them: by value or by reference")]
impl HeaderList {
    /// No fields; allocates nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self { fields: Vec::new(), seen: 0, again: 0 }
    }

    /// No fields, and room for so many.
    #[must_use]
    pub fn with_capacity(fields: usize) -> Self {
        Self { fields: Vec::with_capacity(fields), seen: 0, again: 0 }
    }

    /// Fields, not names.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.fields.len()
    }

    /// Whether there is none.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// Fields that there is room for.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.fields.capacity()
    }

    /// Makes room for so many more.
    pub fn reserve(&mut self, more: usize) {
        self.fields.reserve(more);
    }

    /// Removes all and keeps the room.
    pub fn clear(&mut self) {
        self.fields.clear();
        (self.seen, self.again) = (0, 0);
    }

    /// The first value of a name.
    #[inline]
    pub fn get(&self, name: impl Named) -> Option<&HeaderValue> {
        self.find(&name).and_then(|at| self.fields.get(at)).map(|field| &field.value)
    }

    /// Every value of a name, in order.
    #[inline]
    pub fn get_all<N: Named>(&self, name: N) -> impl DoubleEndedIterator<Item = &HeaderValue> + use<'_, N> {
        let mark = name.mark();
        let there = if self.seen & bit(mark) == 0 { &[] } else { &self.fields[..] };
        there.iter().filter(move |field| field.is(mark, &name)).map(|field| &field.value)
    }

    /// Whether there is a field of this name.
    #[inline]
    pub fn contains_key(&self, name: impl Named) -> bool {
        self.find(&name).is_some()
    }

    /// Adds a field behind all there are.
    #[inline]
    pub fn append(&mut self, name: impl Named, value: HeaderValue) {
        let mark = name.mark();
        self.push(mark, name.into_name(), value);
    }

    /// Puts one field in the place of the first of its name, and removes the others; adds it if there is none. Gives the
    /// first value that was there.
    #[inline]
    pub fn insert(&mut self, name: impl Named, value: HeaderValue) -> Option<HeaderValue> {
        let mark = name.mark();
        match self.find_marked(mark, &name) {
            None => {
                self.push(mark, name.into_name(), value);
                None
            }
            Some(at) => {
                self.remove_behind(at + 1, mark, &name);
                self.fields.get_mut(at).map(|field| std::mem::replace(&mut field.value, value))
            }
        }
    }

    /// Removes every field of a name. Gives the first value that was there.
    #[inline]
    pub fn remove(&mut self, name: impl Named) -> Option<HeaderValue> {
        let mark = name.mark();
        let at = self.find_marked(mark, &name)?;
        let first = self.fields.remove(at);
        self.remove_behind(at, mark, &name);
        Some(first.value)
    }

    /// Names and values.
    #[inline]
    pub fn iter(&self) -> Iter<'_> {
        Iter(self.fields.iter())
    }

    /// Adds what is in a map.
    pub fn append_map(&mut self, map: HeaderMap) {
        self.reserve(map.len());
        // Only the first of several fields of one name comes with it.
        let mut last = None;
        for (name, value) in map {
            if name.is_some() {
                last = name;
            }
            self.extend(last.clone().zip(Some(value)));
        }
    }

    /// Removes all and keeps the room, as [`Self::clear`]; what there was is in the map.
    pub fn take_map(&mut self) -> HeaderMap {
        let mut map = HeaderMap::with_capacity(self.len());
        for Field { name, value, .. } in self.fields.drain(..) {
            map.append(name, value);
        }
        self.clear();
        map
    }

    /// Names, and values to change.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&HeaderName, &mut HeaderValue)> {
        self.fields.iter_mut().map(|field| (&field.name, &mut field.value))
    }

    /// The name of every field.
    pub fn names(&self) -> impl Iterator<Item = &HeaderName> {
        self.fields.iter().map(|field| &field.name)
    }

    #[inline]
    fn push(&mut self, mark: u32, name: HeaderName, value: HeaderValue) {
        self.again |= self.seen & bit(mark);
        self.seen |= bit(mark);
        self.fields.push(Field { mark, name, value });
    }

    #[inline]
    fn find(&self, name: &impl Named) -> Option<usize> {
        self.find_marked(name.mark(), name)
    }

    #[inline]
    fn find_marked(&self, mark: u32, name: &impl Named) -> Option<usize> {
        if self.seen & bit(mark) == 0 {
            return None;
        }
        self.fields.iter().position(|field| field.is(mark, name))
    }

    /// Removes the fields of a name from a place on.
    #[inline]
    fn remove_behind(&mut self, from: usize, mark: u32, name: &impl Named) {
        if self.again & bit(mark) == 0 {
            return;
        }
        let mut at = from;
        while let Some(field) = self.fields.get(at) {
            if field.is(mark, name) {
                self.fields.remove(at);
            } else {
                at += 1;
            }
        }
    }
}

impl Field {
    #[inline]
    fn is(&self, mark: u32, name: &impl Named) -> bool {
        self.mark == mark && same(self.name.as_str().as_bytes(), name.text().as_bytes())
    }
}

/// Names and values of a list.
#[derive(Clone)]
pub struct Iter<'a>(std::slice::Iter<'a, Field>);

impl<'a> Iterator for Iter<'a> {
    type Item = (&'a HeaderName, &'a HeaderValue);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().map(|field| (&field.name, &field.value))
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl fmt::Debug for HeaderList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// Panics if there is no such field.
impl<N: Named> Index<N> for HeaderList {
    type Output = HeaderValue;

    #[allow(clippy::expect_used, reason = "what indexing is for")]
    fn index(&self, name: N) -> &HeaderValue {
        self.get(name).expect("there is no field of this name")
    }
}

/// The same fields in the same order.
impl PartialEq for HeaderList {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl<'a> IntoIterator for &'a HeaderList {
    type Item = (&'a HeaderName, &'a HeaderValue);
    type IntoIter = Iter<'a>;

    #[inline]
    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

/// Names and values, taken out of a list.
pub struct IntoIter(std::vec::IntoIter<Field>);

impl Iterator for IntoIter {
    type Item = (HeaderName, HeaderValue);

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().map(|field| (field.name, field.value))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl IntoIterator for HeaderList {
    type Item = (HeaderName, HeaderValue);
    type IntoIter = IntoIter;

    fn into_iter(self) -> IntoIter {
        IntoIter(self.fields.into_iter())
    }
}

impl Extend<(HeaderName, HeaderValue)> for HeaderList {
    fn extend<I: IntoIterator<Item = (HeaderName, HeaderValue)>>(&mut self, fields: I) {
        for (name, value) in fields {
            self.push(mark(name.as_str().as_bytes()), name, value);
        }
    }
}

impl FromIterator<(HeaderName, HeaderValue)> for HeaderList {
    fn from_iter<I: IntoIterator<Item = (HeaderName, HeaderValue)>>(fields: I) -> Self {
        let mut list = Self::new();
        list.extend(fields);
        list
    }
}

impl From<HeaderMap> for HeaderList {
    fn from(map: HeaderMap) -> Self {
        let mut list = Self::new();
        list.append_map(map);
        list
    }
}

impl From<HeaderList> for HeaderMap {
    fn from(mut list: HeaderList) -> Self {
        list.take_map()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use proptest::prelude::*;

    use super::*;
    use crate::Key;

    /// Values of a name by the list and by `http`'s map, which has to agree.
    fn values(list: &HeaderList, name: &HeaderName) -> Vec<HeaderValue> {
        list.get_all(name).cloned().collect()
    }

    #[test]
    fn fields_stay_in_order() {
        let mut list = HeaderList::new();
        for (name, value) in [("a", "1"), ("b", "2"), ("a", "3"), ("c", "4")] {
            list.append(name, HeaderValue::from_static(value));
        }
        assert_eq!(list.insert("b", HeaderValue::from_static("5")).unwrap(), "2");
        assert_eq!(format!("{list:?}"), r#"{"a": "1", "b": "5", "a": "3", "c": "4"}"#);
        assert_eq!(list.get_all("a").rev().collect::<Vec<_>>(), ["3", "1"]);
        assert_eq!(list.remove("a").unwrap(), "1");
        assert_eq!(list.names().map(HeaderName::as_str).collect::<Vec<_>>(), ["b", "c"]);
        assert!(!list.contains_key("a") && list.remove("a").is_none());
        list.clear();
        assert!(list.is_empty() && list.get("b").is_none() && list.capacity() >= 4);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Append,
        Insert,
        Remove,
        Get,
    }

    proptest! {
        #[test]
        fn it_answers_as_a_map(
            steps in prop::collection::vec(
                (prop_oneof![Just(Step::Append), Just(Step::Insert), Just(Step::Remove), Just(Step::Get)],
                 "(host|te|cookie|set-cookie|x-[ab]{1,2}|x-aaaaaaaa[ab]{0,2}-bbbbbbbb)", "[a-z]{0,3}"),
                0..60,
            ),
        ) {
            let (mut list, mut map) = (HeaderList::new(), HeaderMap::new());
            for (step, name, value) in steps {
                let (name, value) = (HeaderName::try_from(name).unwrap(), HeaderValue::try_from(value).unwrap());
                match step {
                    Step::Append => {
                        list.append(&name, value.clone());
                        map.append(&name, value);
                    }
                    Step::Insert => prop_assert_eq!(list.insert(&name, value.clone()), map.insert(&name, value)),
                    Step::Remove => prop_assert_eq!(list.remove(&name), map.remove(&name)),
                    Step::Get => {
                        prop_assert_eq!(list.get(&Key::from(name.clone())), map.get(&name));
                        prop_assert_eq!(list.contains_key(&name), map.contains_key(&name));
                    }
                }
                prop_assert_eq!(list.len(), map.len());
            }
            let again = HeaderList::from(map.clone());
            for name in map.keys() {
                let expected: Vec<_> = map.get_all(name).iter().cloned().collect();
                prop_assert_eq!(&values(&list, name), &expected);
                prop_assert_eq!(&values(&again, name), &expected);
            }
            prop_assert_eq!(HeaderMap::from(list), map);
        }
    }
}
