//! The streams of a module by the numbers that the host gave them.
//!
//! Every stream is put in, found for each of its callbacks, and taken out, which is a good part of what a small plugin
//! does. A host counts its numbers up, so a multiplication spreads them as evenly as can be, and one look finds them.
//! What runs for every callback is inlined: compilers that make modules small do not do it, and in WebAssembly a call costs
//! more than any of these, because each looks whether the plugin's time is over.

/// Values by number; open addressing with linear probing, at most half full.
pub(crate) struct Table<T> {
    /// A power of two of them, or none.
    slots: Vec<Option<(u32, T)>>,
    len: usize,
}

/// What a table begins with.
const FIRST: usize = 16;

impl<T> Table<T> {
    pub(crate) const fn new() -> Table<T> {
        Table { slots: Vec::new(), len: 0 }
    }

    /// Whether there is none.
    #[inline(always)]
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Puts a value in the place of what has this number, if anything has.
    #[inline(always)]
    pub(crate) fn insert(&mut self, number: u32, value: T) {
        if self.len * 2 >= self.slots.len() {
            self.grow();
        }
        let at = self.place(number);
        if let Some(slot) = self.slots.get_mut(at) {
            self.len += usize::from(slot.is_none());
            *slot = Some((number, value));
        }
    }

    /// The value with this number.
    #[inline(always)]
    pub(crate) fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        let at = self.place(number);
        self.slots.get_mut(at)?.as_mut().map(|(_, value)| value)
    }

    /// Takes the value with this number out.
    #[inline(always)]
    pub(crate) fn remove(&mut self, number: u32) -> Option<T> {
        let mut gap = self.place(number);
        let (_, value) = self.slots.get_mut(gap)?.take()?;
        self.len -= 1;
        // Whoever had to go further because of it, or because of those behind it, moves up.
        let mut at = gap;
        loop {
            at = self.after(at);
            let Some(Some((other, _))) = self.slots.get(at) else { return Some(value) };
            let home = self.home(*other);
            if self.distance(home, at) >= self.distance(gap, at) {
                self.slots.swap(gap, at);
                gap = at;
            }
        }
    }

    /// Where a number is, or else belongs.
    #[inline(always)]
    fn place(&self, number: u32) -> usize {
        let mut at = self.home(number);
        while matches!(self.slots.get(at), Some(Some((other, _))) if *other != number) {
            at = self.after(at);
        }
        at
    }

    /// Where a number is if nothing was in its way: Fibonacci hashing, by the golden ratio of 2^32.
    #[inline(always)]
    fn home(&self, number: u32) -> usize {
        let spread = u64::from(number.wrapping_mul(0x9e37_79b9));
        // As many of the upper bits as there are places.
        ((spread * self.slots.len() as u64) >> 32) as usize
    }

    #[inline(always)]
    fn after(&self, at: usize) -> usize {
        (at + 1) & (self.slots.len() - 1)
    }

    /// How many steps lead from one place to another.
    #[inline(always)]
    fn distance(&self, from: usize, to: usize) -> usize {
        to.wrapping_sub(from) & (self.slots.len() - 1)
    }

    #[cold]
    fn grow(&mut self) {
        let size = (self.slots.len() * 2).max(FIRST);
        let old = std::mem::take(&mut self.slots);
        self.slots.resize_with(size, || None);
        for slot in old {
            if let Some((number, _)) = &slot {
                let at = self.place(*number);
                if let Some(place) = self.slots.get_mut(at) {
                    *place = slot;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use std::collections::HashMap;

    #[test]
    fn it_holds_what_a_map_holds() {
        let (mut table, mut map) = (Table::new(), HashMap::new());
        let mut random = 1_u32;
        for step in 0..200_000_u32 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Few numbers, so that they meet.
            let number = (random >> 8) % 300;
            match random >> 30 {
                0 | 1 => {
                    table.insert(number, step);
                    map.insert(number, step);
                }
                2 => assert_eq!(table.remove(number), map.remove(&number)),
                _ => assert_eq!(table.get_mut(number), map.get_mut(&number)),
            }
            assert_eq!(table.len, map.len());
        }
        assert!(table.slots.len() <= 1024, "{}", table.slots.len());
        for (number, value) in map {
            assert_eq!(table.remove(number), Some(value));
        }
        assert_eq!(table.len, 0);
    }

    #[test]
    fn numbers_that_count_up_are_found_at_once() {
        let mut table = Table::new();
        // Ten thousand that stay, and others that come and go.
        for number in 2..10_002 {
            table.insert(number, ());
        }
        for number in 10_002..300_000 {
            table.insert(number, ());
            let steps = table.distance(table.home(number), table.place(number));
            assert!(steps <= 8, "{number}: {steps}");
            table.remove(number).unwrap();
        }
    }

    #[test]
    fn an_empty_one_has_nothing() {
        let mut table = Table::<u8>::new();
        assert_eq!((table.get_mut(7).copied(), table.remove(7)), (None, None));
    }
}
