//! What a module remembers of its streams: everything between their handlers, or nothing.
//!
//! A plugin whose `Context` is `()` and that sees no bodies has nothing to remember. Its module says so with an export, and
//! this gateway then does not tell it where a stream begins and ends: a fifth of what a small plugin costs.

use crate::Plugin;
use crate::stream::Stream;
use crate::table::Table;
use std::rc::Rc;

/// There is one root in this gateway; other hosts may give one module several configurations, each with a root of its
/// own. In the order in which they were made.
pub struct Roots<P>(Vec<(u32, Option<Rc<P>>)>);

impl<P> Roots<P> {
    pub(crate) const fn new() -> Roots<P> {
        Roots(Vec::new())
    }

    /// The plugin that a root context has become, once it is configured.
    pub(crate) fn get(&self, number: u32) -> Option<&Rc<P>> {
        self.0.iter().find(|(root, _)| *root == number)?.1.as_ref()
    }

    /// That of the first one that is still there.
    #[inline(always)]
    pub(crate) fn first(&self) -> Option<&Rc<P>> {
        self.0.first()?.1.as_ref()
    }

    /// Whether a stream may belong to more than one.
    pub(crate) fn are_several(&self) -> bool {
        self.0.len() > 1
    }

    #[cold]
    pub(crate) fn set(&mut self, number: u32, plugin: Option<Rc<P>>) {
        match self.0.iter_mut().find(|(root, _)| *root == number) {
            Some((_, known)) => *known = plugin,
            None => self.0.push((number, plugin)),
        }
    }

    #[cold]
    pub(crate) fn remove(&mut self, number: u32) {
        self.0.retain(|(root, _)| *root != number);
    }
}

/// The streams of a module by the numbers that the host gave them.
pub trait Streams<P: Plugin> {
    /// None of them.
    const NONE: Self;

    /// A stream of this root has begun.
    fn begin(&mut self, context: u32, root: u32, roots: &Roots<P>);

    /// It is over. False: it was none, or nobody has noted it.
    fn end(&mut self, context: u32) -> bool;

    /// Works on a stream. `None`: there is none, or its root has no configuration.
    fn with<R>(&mut self, context: u32, roots: &Roots<P>, work: impl FnOnce(&mut Stream<P>) -> R) -> Option<R>;
}

/// All of them, from their beginning to their end.
pub struct Remembered<P: Plugin>(Table<Option<Stream<P>>>);

impl<P: Plugin> Streams<P> for Remembered<P> {
    const NONE: Self = Remembered(Table::new());

    #[inline(always)]
    fn begin(&mut self, context: u32, root: u32, roots: &Roots<P>) {
        self.0.insert(context, roots.get(root).map(|plugin| Stream::new(Rc::clone(plugin))));
    }

    #[inline(always)]
    fn end(&mut self, context: u32) -> bool {
        self.0.remove(context).is_some()
    }

    #[inline(always)]
    fn with<R>(&mut self, context: u32, _: &Roots<P>, work: impl FnOnce(&mut Stream<P>) -> R) -> Option<R> {
        self.0.get_mut(context)?.as_mut().map(work)
    }
}

/// Only whose they are, and that only where there is more than one root. A stream that nobody has noted began while
/// there was one, or was never announced: it belongs to the oldest, which is there for as long as its streams are.
pub struct Forgotten(Table<u32>);

impl<P: Plugin<Context = ()>> Streams<P> for Forgotten {
    const NONE: Self = Forgotten(Table::new());

    #[inline(always)]
    fn begin(&mut self, context: u32, root: u32, roots: &Roots<P>) {
        if roots.are_several() {
            self.0.insert(context, root);
        }
    }

    #[inline(always)]
    fn end(&mut self, context: u32) -> bool {
        !self.0.is_empty() && self.0.remove(context).is_some()
    }

    #[inline(always)]
    fn with<R>(&mut self, context: u32, roots: &Roots<P>, work: impl FnOnce(&mut Stream<P>) -> R) -> Option<R> {
        let noted = if self.0.is_empty() { None } else { self.0.get_mut(context).copied() };
        let plugin = match noted {
            Some(root) => roots.get(root),
            None => roots.first(),
        };
        Some(work(&mut Stream::new(Rc::clone(plugin?))))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::Result;
    use std::collections::{BTreeMap, HashMap};

    struct Named(u32);

    impl Plugin for Named {
        type Config = BTreeMap<String, String>;
        type Context = ();

        fn configure(_: Self::Config) -> Result<Named> {
            Ok(Named(0))
        }
    }

    fn root_of(streams: &mut impl Streams<Named>, context: u32, roots: &Roots<Named>) -> Option<u32> {
        streams.with(context, roots, |stream| stream.plugin().0)
    }

    #[test]
    fn a_stream_that_was_never_announced_is_of_the_only_root() {
        let (mut roots, mut streams) = (Roots::new(), <Forgotten as Streams<Named>>::NONE);
        assert_eq!(root_of(&mut streams, 2, &roots), None, "no root");
        roots.set(1, None);
        assert_eq!(root_of(&mut streams, 2, &roots), None, "it has no configuration");
        roots.set(1, Some(Rc::new(Named(1))));
        assert_eq!(root_of(&mut streams, 2, &roots), Some(1));
        let mut remembered = <Remembered<Named> as Streams<Named>>::NONE;
        assert_eq!(root_of(&mut remembered, 2, &roots), None, "has to be announced");
    }

    /// Other hosts give one module several configurations, one after the other or at once.
    #[test]
    fn a_stream_has_the_root_that_it_began_with() {
        let (mut roots, mut streams) = (Roots::new(), <Forgotten as Streams<Named>>::NONE);
        let mut remembered = <Remembered<Named> as Streams<Named>>::NONE;
        let (mut random, mut next) = (1_u32, 1_u32);
        let mut open: HashMap<u32, u32> = HashMap::new();
        let mut living: Vec<u32> = Vec::new();
        for _ in 0..100_000 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let pick = (random >> 12) as usize;
            match random >> 29 {
                0 if living.len() < 4 => {
                    roots.set(next, None);
                    roots.set(next, Some(Rc::new(Named(next))));
                    living.push(next);
                    next += 1;
                }
                // A root goes when its streams have gone.
                1 if !living.is_empty() => {
                    let root = living[pick % living.len()];
                    if !open.values().any(|owner| *owner == root) {
                        assert!(!Streams::<Named>::end(&mut streams, root));
                        roots.remove(root);
                        living.retain(|known| *known != root);
                    }
                }
                2..=4 if !living.is_empty() => {
                    let root = living[pick % living.len()];
                    streams.begin(next, root, &roots);
                    remembered.begin(next, root, &roots);
                    open.insert(next, root);
                    next += 1;
                }
                _ => {
                    if let Some(context) = open.keys().copied().nth(pick % open.len().max(1)) {
                        Streams::<Named>::end(&mut streams, context);
                        assert!(remembered.end(context));
                        open.remove(&context);
                    }
                }
            }
            for (context, root) in &open {
                assert_eq!(root_of(&mut streams, *context, &roots), Some(*root));
                assert_eq!(root_of(&mut remembered, *context, &roots), Some(*root));
            }
        }
        assert!(next > 20_000);
    }
}
