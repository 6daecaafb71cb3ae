//! Sets and maps of byte ranges: what changed, what was copied, what is zero.
//!
//! An [`ExtentMap`] holds disjoint ranges in order, each with a value; neighbours of equal value are one range, so equal content
//! means equal maps. With the value `()` it is a plain set. Its algebra is tested against a model of single bytes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Extent, ExtentKind};
use crate::error::{Error, ErrorKind, Result};
use crate::units::ByteRange;

/// Disjoint, sorted, coalesced byte ranges with values; with `()` a set. Memory: about 50 bytes for each range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtentMap<V = ()> {
    /// From the first byte to the first byte after, and the value.
    ranges: BTreeMap<u64, (u64, V)>,
}

impl<V> Default for ExtentMap<V> {
    fn default() -> Self {
        ExtentMap { ranges: BTreeMap::new() }
    }
}

impl<V: Clone + PartialEq> ExtentMap<V> {
    /// Nothing.
    #[must_use]
    pub fn new() -> Self {
        ExtentMap::default()
    }

    /// Gives all of `range` this value, whatever it had before.
    pub fn insert(&mut self, range: ByteRange, value: V) {
        if range.is_empty() {
            return;
        }
        self.remove(range);
        let (mut start, mut end) = (range.offset(), range.end());
        if let Some((&before, (before_end, before_value))) = self.ranges.range(..start).next_back()
            && *before_end == start
            && *before_value == value
        {
            start = before;
        }
        if let Some((after_end, after_value)) = self.ranges.get(&end)
            && *after_value == value
        {
            let after_end = *after_end;
            self.ranges.remove(&end);
            end = after_end;
        }
        self.ranges.insert(start, (end, value));
    }

    /// Forgets all of `range`.
    pub fn remove(&mut self, range: ByteRange) {
        if range.is_empty() {
            return;
        }
        self.split(range.offset());
        self.split(range.end());
        // Few ranges lie inside as a rule; so they are taken one by one, not by splitting the tree.
        while let Some((&start, _)) = self.ranges.range(range.offset()..range.end()).next() {
            self.ranges.remove(&start);
        }
    }

    /// Makes `at` a border, if it lies inside a range.
    fn split(&mut self, at: u64) {
        if let Some((_, (end, value))) = self.ranges.range_mut(..at).next_back()
            && *end > at
        {
            let tail = (*end, value.clone());
            *end = at;
            self.ranges.insert(at, tail);
        }
    }

    /// The value at one byte.
    #[must_use]
    pub fn get(&self, offset: u64) -> Option<&V> {
        self.ranges.range(..=offset).next_back().filter(|(_, (end, _))| *end > offset).map(|(_, (_, value))| value)
    }

    /// The ranges in order.
    pub fn iter(&self) -> impl Iterator<Item = (ByteRange, &V)> {
        self.ranges.iter().map(|(start, (end, value))| (ByteRange::between(*start, *end), value))
    }

    /// What lies in `range`, clipped to it, in order.
    pub fn within(&self, range: ByteRange) -> impl Iterator<Item = (ByteRange, &V)> {
        let first = self.ranges.range(..range.offset()).next_back().map_or(range.offset(), |(start, _)| *start);
        let last = first.max(range.end());
        self.ranges
            .range(first..last)
            .map(move |(start, (end, value))| (ByteRange::between(*start, *end).intersection(range), value))
            .filter(|(part, _)| !part.is_empty())
    }

    /// Whether every byte of `range` has a value; an empty range always has.
    #[must_use]
    pub fn covers(&self, range: ByteRange) -> bool {
        self.within(range).map(|(part, _)| part.length()).sum::<u64>() == range.length()
    }

    /// How many ranges there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// How many bytes the ranges hold together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.iter().map(|(range, _)| range.length()).sum()
    }

    /// What is in either; where both have a value, that of `other`.
    #[must_use]
    pub fn union(&self, other: &ExtentMap<V>) -> ExtentMap<V> {
        let mut all = self.clone();
        for (range, value) in other.iter() {
            all.insert(range, value.clone());
        }
        all
    }

    /// What is in both, with the values of this one.
    #[must_use]
    pub fn intersection<W: Clone + PartialEq>(&self, other: &ExtentMap<W>) -> ExtentMap<V> {
        let mut both = ExtentMap::new();
        for (range, _) in other.iter() {
            for (part, value) in self.within(range) {
                both.insert(part, value.clone());
            }
        }
        both
    }

    /// What is in this one and not in `other`.
    #[must_use]
    pub fn difference<W: Clone + PartialEq>(&self, other: &ExtentMap<W>) -> ExtentMap<V> {
        let mut left = self.clone();
        for (range, _) in other.iter() {
            left.remove(range);
        }
        left
    }

    /// The bytes of a disk of `size` bytes that have no value.
    #[must_use]
    pub fn complement(&self, size: u64) -> ExtentMap {
        let mut gaps = ExtentMap::new();
        gaps.insert(ByteRange::between(0, size), ());
        gaps.difference(self)
    }

    /// The bytes that have a value for which `keep` says yes, as a set.
    #[must_use]
    pub fn select(&self, keep: impl Fn(&V) -> bool) -> ExtentMap {
        self.iter().filter(|(_, value)| keep(value)).map(|(range, _)| (range, ())).collect()
    }
}

impl ExtentMap {
    /// Every range widened to multiples of `block`, but not beyond `size`. A `block` of 0 changes nothing.
    #[must_use]
    pub fn align(&self, block: u64, size: u64) -> ExtentMap {
        let block = block.max(1);
        self.iter()
            .map(|(range, ())| {
                let start = range.offset() / block * block;
                let end = range.end().checked_next_multiple_of(block).unwrap_or(u64::MAX);
                (ByteRange::between(start, end.min(size.max(range.end()))), ())
            })
            .collect()
    }

    /// Gaps of at most `gap` bytes between two ranges are filled, for one longer request costs less than two.
    #[must_use]
    pub fn close_gaps(&self, gap: u64) -> ExtentMap {
        let mut closed = ExtentMap::new();
        let mut open: Option<ByteRange> = None;
        for (range, ()) in self.iter() {
            open = match open {
                Some(before) if range.offset() - before.end() <= gap => Some(ByteRange::between(before.offset(), range.end())),
                Some(before) => {
                    closed.insert(before, ());
                    Some(range)
                }
                None => Some(range),
            };
        }
        if let Some(last) = open {
            closed.insert(last, ());
        }
        closed
    }
}

impl<V: Clone + PartialEq> FromIterator<(ByteRange, V)> for ExtentMap<V> {
    /// In order: a later one overwrites.
    fn from_iter<I: IntoIterator<Item = (ByteRange, V)>>(ranges: I) -> Self {
        let mut map = ExtentMap::new();
        for (range, value) in ranges {
            map.insert(range, value);
        }
        map
    }
}

/// One line of an extents file. `zero` says that the range is known to read as zero.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    offset: u64,
    length: u64,
    #[serde(default)]
    zero: bool,
}

impl ExtentMap<ExtentKind> {
    /// The extents a disk reports, coalesced.
    #[must_use]
    pub fn from_extents(extents: &[Extent]) -> Self {
        extents.iter().map(|e| (e.range, e.kind)).collect()
    }

    /// Reads an extents file, `[{"offset":0,"length":65536,"zero":false},..]`, for a disk of `size` bytes. `zero` may be left out
    /// (false). Order and overlap do not matter; where entries disagree, data wins, for reading zeros is merely slow while
    /// skipping data loses it. An entry that is empty or reaches beyond the disk is refused, by its number from 0.
    pub fn from_json(text: &[u8], size: u64) -> Result<Self> {
        const OPERATION: &str = "read the extents";
        let entries: Vec<Entry> = serde_json::from_slice(text).map_err(|e| {
            Error::new(ErrorKind::InvalidInput, OPERATION, "it is not a JSON list of {\"offset\":..,\"length\":..,\"zero\":..}")
                .with_source(e)
        })?;
        let mut map = ExtentMap::new();
        let mut data = ExtentMap::new();
        for (index, entry) in entries.iter().enumerate() {
            let refuse = |text: &'static str| {
                Error::new(ErrorKind::InvalidInput, OPERATION, text)
                    .with("entry", index)
                    .with("offset", entry.offset)
                    .with("length", entry.length)
                    .with("size", size)
            };
            let range = ByteRange::new(entry.offset, entry.length).map_err(|_| refuse("the entry ends beyond 2^63-1"))?;
            if range.is_empty() {
                return Err(refuse("the entry is empty"));
            }
            if range.end() > size {
                return Err(refuse("the entry reaches beyond the end of the disk"));
            }
            if entry.zero { map.insert(range, ExtentKind::Zero) } else { data.insert(range, ExtentKind::Data) }
        }
        Ok(map.union(&data))
    }

    /// The same form as [`ExtentMap::from_json`] reads.
    #[must_use]
    pub fn to_json(&self) -> String {
        let entries: Vec<Entry> =
            self.iter().map(|(range, kind)| Entry { offset: range.offset(), length: range.length(), zero: kind.reads_zero() }).collect();
        // Numbers and truth values always have a JSON form.
        serde_json::to_string(&entries).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The disk of the model, in bytes.
    const SIZE: u64 = 64;

    type Model = [Option<u8>; 64];

    #[derive(Debug, Clone)]
    enum Step {
        Insert(u64, u64, u8),
        Remove(u64, u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0..SIZE, 0..=SIZE, 0..3u8).prop_map(|(a, b, v)| Step::Insert(a, b, v)),
            (0..SIZE, 0..=SIZE).prop_map(|(a, b)| Step::Remove(a, b)),
        ];
        prop::collection::vec(step, 0..24)
    }

    fn run(steps: &[Step]) -> (ExtentMap<u8>, Model) {
        let (mut map, mut model) = (ExtentMap::new(), [None; 64]);
        for step in steps {
            let (a, b, value) = match step {
                Step::Insert(a, b, v) => (*a, *b, Some(*v)),
                Step::Remove(a, b) => (*a, *b, None),
            };
            let range = ByteRange::between(a, b);
            match value {
                Some(v) => map.insert(range, v),
                None => map.remove(range),
            }
            (range.offset()..range.end()).for_each(|i| model[usize::try_from(i).unwrap()] = value);
        }
        (map, model)
    }

    /// The content byte by byte; checks on the way that ranges are sorted, disjoint, not empty, coalesced.
    fn bytes<V: Copy + PartialEq>(map: &ExtentMap<V>) -> [Option<V>; 64] {
        let mut content = [None; 64];
        let mut before: Option<(u64, V)> = None;
        for (range, value) in map.iter() {
            assert!(!range.is_empty());
            if let Some((end, v)) = before {
                assert!(range.offset() > end || (range.offset() == end && v != *value), "not coalesced");
            }
            before = Some((range.end(), *value));
            (range.offset()..range.end()).for_each(|i| content[usize::try_from(i).unwrap()] = Some(*value));
        }
        content
    }

    fn zip(a: Model, b: Model, f: impl Fn(Option<u8>, Option<u8>) -> Option<u8>) -> Model {
        std::array::from_fn(|i| f(a[i], b[i]))
    }

    fn set(map: &ExtentMap<u8>) -> ExtentMap {
        map.select(|_| true)
    }

    proptest! {
        #[test]
        fn a_map_is_what_its_steps_say(steps in steps(), at in 0..SIZE, a in 0..SIZE, b in 0..=SIZE) {
            let (map, model) = run(&steps);
            prop_assert_eq!(bytes(&map), model);
            prop_assert_eq!(map.get(at).copied(), model[usize::try_from(at).unwrap()]);
            prop_assert_eq!(map.total(), u64::try_from(model.iter().flatten().count()).unwrap());
            prop_assert_eq!(map.is_empty(), model.iter().flatten().next().is_none());
            let range = ByteRange::between(a, b);
            let inside = |i: usize| range.contains(ByteRange::new(u64::try_from(i).unwrap(), 1).unwrap());
            let clipped: ExtentMap<u8> = map.within(range).map(|(r, v)| (r, *v)).collect();
            prop_assert_eq!(bytes(&clipped), std::array::from_fn(|i| model[i].filter(|_| inside(i))));
            prop_assert_eq!(map.covers(range), (0..64).all(|i| !inside(i) || model[i].is_some()));
        }

        #[test]
        fn the_algebra_holds(x in steps(), y in steps()) {
            let ((a, ma), (b, mb)) = (run(&x), run(&y));
            prop_assert_eq!(bytes(&a.union(&b)), zip(ma, mb, |p, q| q.or(p)));
            prop_assert_eq!(bytes(&a.intersection(&b)), zip(ma, mb, |p, q| q.and(p)));
            prop_assert_eq!(bytes(&a.difference(&b)), zip(ma, mb, |p, q| if q.is_some() { None } else { p }));
            prop_assert_eq!(bytes(&a.complement(SIZE)), std::array::from_fn(|i| ma[i].is_none().then_some(())));
            prop_assert_eq!(bytes(&a.select(|v| *v == 1)), std::array::from_fn(|i| (ma[i] == Some(1)).then_some(())));
            let (s, t) = (set(&a), set(&b));
            prop_assert_eq!(s.union(&t), t.union(&s));
            prop_assert_eq!(s.intersection(&t), t.intersection(&s));
            prop_assert_eq!(s.complement(SIZE).complement(SIZE), s.clone());
            prop_assert_eq!(s.union(&t).complement(SIZE), s.complement(SIZE).intersection(&t.complement(SIZE)));
            prop_assert_eq!(s.difference(&t).union(&s.intersection(&t)), s.clone());
            prop_assert_eq!(s.union(&t).total(), s.total() + t.total() - s.intersection(&t).total());
        }

        #[test]
        fn widening_and_closing(x in steps(), block in 1..20u64, gap in 0..20u64) {
            let (a, _) = run(&x);
            let s = set(&a);
            let wide = bytes(&s.align(block, SIZE));
            let model = bytes(&s);
            let of = |i: u64| i / block;
            let expected: [Option<()>; 64] = std::array::from_fn(|i| {
                (0..64).any(|j: usize| model[j].is_some() && of(u64::try_from(i).unwrap()) == of(u64::try_from(j).unwrap())).then_some(())
            });
            prop_assert_eq!(wide, expected);
            // A byte is in the closed set if it is in the set, or in a gap of at most `gap` between two of its bytes.
            let closed = bytes(&s.close_gaps(gap));
            let before = |i: usize| (0..i).rev().find(|j| model[*j].is_some());
            let after = |i: usize| (i..64).find(|j| model[*j].is_some());
            for i in 0..64 {
                let in_gap = matches!((before(i), after(i)), (Some(p), Some(q)) if q - p - 1 <= usize::try_from(gap).unwrap());
                prop_assert_eq!(closed[i].is_some(), model[i].is_some() || in_gap, "at {}", i);
            }
        }

        #[test]
        fn json_goes_there_and_back(x in steps()) {
            let (a, _) = run(&x);
            let kinds: ExtentMap<ExtentKind> =
                a.iter().map(|(r, v)| (r, if *v == 0 { ExtentKind::Zero } else { ExtentKind::Data })).collect();
            prop_assert_eq!(ExtentMap::from_json(kinds.to_json().as_bytes(), SIZE).unwrap(), kinds);
        }
    }

    #[test]
    fn a_json_list_is_put_in_order_and_data_wins() {
        let text = br#"[{"offset":4096,"length":4096},{"offset":0,"length":8192,"zero":true},{"offset":8192,"length":1,"zero":false}]"#;
        let map = ExtentMap::from_json(text, 8193).unwrap();
        assert_eq!(map.to_json(), r#"[{"offset":0,"length":4096,"zero":true},{"offset":4096,"length":4097,"zero":false}]"#);
    }

    #[test]
    fn a_wrong_json_list_is_refused_by_entry() {
        let cases = [
            (r#"[{"offset":0,"length":1},{"offset":5,"length":0}]"#, Some("1")),
            (r#"[{"offset":4096,"length":4097}]"#, Some("0")),
            (r#"[{"offset":0,"length":1},{"offset":0,"length":1},{"offset":18446744073709551615,"length":2}]"#, Some("2")),
            (r#"[{"offset":0,"length":1,"hole":true}]"#, None),
            (r#"[{"offset":-1,"length":1}]"#, None),
            (r#"{"offset":0,"length":1}"#, None),
            (r#"[{"offset":0}]"#, None),
            ("", None),
        ];
        for (text, entry) in cases {
            let error = ExtentMap::from_json(text.as_bytes(), 8192).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{text}");
            assert_eq!(error.context_value("entry"), entry, "{text}");
        }
        assert!(ExtentMap::from_json(b"[]", 8192).unwrap().is_empty());
    }

    #[test]
    fn reported_extents_are_coalesced() {
        let extent = |offset, length, kind| Extent { range: ByteRange::new(offset, length).unwrap(), kind };
        let map =
            ExtentMap::from_extents(&[extent(0, 10, ExtentKind::Data), extent(10, 10, ExtentKind::Data), extent(20, 5, ExtentKind::Hole)]);
        assert_eq!(map.len(), 2);
        assert_eq!(map.select(|k| k.reads_zero()).total(), 5);
    }
}
