//! Sets of ids: those that a user names, and those that a selection found. Millions of ids fit in little
//! memory.

use std::ops::RangeInclusive;

use roaring::RoaringTreemap;

/// Ids as disjoint ranges in ascending order. A range takes the same memory however long it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdRanges(Vec<RangeInclusive<i64>>);

impl IdRanges {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the ranges in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = RangeInclusive<i64>> {
        self.0.iter().cloned()
    }
}

impl FromIterator<RangeInclusive<i64>> for IdRanges {
    /// Sorts the ranges, and joins those that overlap or are adjacent.
    fn from_iter<I: IntoIterator<Item = RangeInclusive<i64>>>(ranges: I) -> Self {
        let mut sorted: Vec<RangeInclusive<i64>> = ranges.into_iter().collect();
        sorted.sort_unstable_by_key(|range| *range.start());
        let mut joined: Vec<RangeInclusive<i64>> = Vec::new();
        for range in sorted {
            match joined.last_mut() {
                Some(last) if *range.start() <= last.end().saturating_add(1) => {
                    *last = *last.start()..=*last.end().max(range.end());
                }
                _ => joined.push(range),
            }
        }
        Self(joined)
    }
}

/// Ids in ascending order, each once. A million ids take about 130 KiB, or less if they are adjacent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct IdSet(RoaringTreemap);

impl IdSet {
    pub fn insert(&mut self, id: i64) {
        // Ids are positive.
        if let Ok(id) = u64::try_from(id) {
            self.0.insert(id);
        }
    }

    pub fn contains(&self, id: i64) -> bool {
        u64::try_from(id).is_ok_and(|id| self.0.contains(id))
    }

    pub fn len(&self) -> u64 {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the ids in ascending order, and descending order from the back.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = i64> {
        self.0.iter().filter_map(|id| i64::try_from(id).ok())
    }
}

impl FromIterator<i64> for IdSet {
    fn from_iter<I: IntoIterator<Item = i64>>(ids: I) -> Self {
        let mut set = Self::default();
        ids.into_iter().for_each(|id| set.insert(id));
        set
    }
}

impl Extend<i64> for IdSet {
    fn extend<I: IntoIterator<Item = i64>>(&mut self, ids: I) {
        ids.into_iter().for_each(|id| self.insert(id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_sorted_and_joined() {
        let ranges: IdRanges =
            [7..=9, 1..=2, 3..=3, 8..=8, 11..=i64::MAX, 12..=12].into_iter().collect();
        assert_eq!(ranges.iter().collect::<Vec<_>>(), [1..=3, 7..=9, 11..=i64::MAX]);
    }

    #[test]
    fn a_set_has_each_id_once_in_ascending_order() {
        let set: IdSet = [5, 1, 5, i64::MAX].into_iter().collect();
        assert_eq!(set.iter().collect::<Vec<_>>(), [1, 5, i64::MAX]);
        assert_eq!((set.len(), set.contains(5), set.contains(-1)), (3, true, false));
    }
}
