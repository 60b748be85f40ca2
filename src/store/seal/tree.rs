//! The hash tree over all seals, as RFC 9162 section 2.1.1 defines it. Its root depends on each seal, and a subtree
//! whose seals are removed is represented by its digest alone.

use super::digest::{TreeDigest, empty_root, parent_digest};

/// The perfect subtrees of a tree from left to right, each smaller than the one before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Peaks {
    /// The number of leaves.
    size: i64,
    /// The level of each subtree, which has 2^level leaves, and its digest.
    subtrees: Vec<(u32, TreeDigest)>,
}

/// The highest level of a subtree in a tree whose size is an `i64`.
pub(super) const MAX_LEVEL: u32 = 62;

impl Peaks {
    /// Reads the digests of the peaks of a tree with `size` leaves. `None`: there are more or fewer of them.
    pub fn from_bytes(size: i64, bytes: &[u8]) -> Option<Self> {
        let (digests, rest) = bytes.as_chunks();
        let subtrees: Vec<(u32, TreeDigest)> =
            Self::levels(size).zip(digests.iter().copied()).collect();
        let is_whole = size >= 0
            && rest.is_empty()
            && subtrees.len() == digests.len()
            && digests.len() == size.count_ones() as usize;
        is_whole.then_some(Self { size, subtrees })
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        self.subtrees.iter().flat_map(|(_, digest)| *digest).collect()
    }

    pub fn size(&self) -> i64 {
        self.size
    }

    /// A tree of this size whose digests are not known.
    pub fn unknown(size: i64) -> Self {
        let levels = Self::levels(size);
        Self { size, subtrees: levels.map(|level| (level, TreeDigest::default())).collect() }
    }

    /// Returns the levels of the peaks of a tree, the highest first.
    fn levels(size: i64) -> impl Iterator<Item = u32> {
        (0..=MAX_LEVEL).rev().filter(move |level| size >> level & 1 == 1)
    }

    /// Returns the size after a subtree of this level was added. `None`: it cannot be at this place.
    fn size_with(&self, level: u32) -> Option<i64> {
        let leaves = (level <= MAX_LEVEL).then(|| 1_i64 << level)?;
        (self.size % leaves == 0).then(|| self.size.checked_add(leaves))?
    }

    /// Adds a subtree on the right. Returns false if it cannot be at this place.
    pub fn push(&mut self, mut level: u32, mut digest: TreeDigest) -> bool {
        let Some(size) = self.size_with(level) else { return false };
        while let Some((_, left)) = self.subtrees.pop_if(|(left_level, _)| *left_level == level) {
            digest = parent_digest(&left, &digest);
            level += 1;
        }
        self.subtrees.push((level, digest));
        self.size = size;
        true
    }

    pub fn root(&self) -> TreeDigest {
        let right_to_left = self.subtrees.iter().rev().map(|(_, digest)| *digest);
        right_to_left.reduce(|right, left| parent_digest(&left, &right)).unwrap_or_else(empty_root)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(number: u8) -> TreeDigest {
        [number; 32]
    }

    /// The definition of RFC 9162.
    fn root_of(leaves: &[TreeDigest]) -> TreeDigest {
        match leaves {
            [] => empty_root(),
            [leaf] => *leaf,
            leaves => {
                let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
                parent_digest(&root_of(left), &root_of(right))
            }
        }
    }

    #[test]
    fn the_root_is_that_of_the_definition() {
        let leaves: Vec<TreeDigest> = (0..70).map(leaf).collect();
        let mut peaks = Peaks::default();
        for count in 0..leaves.len() {
            assert_eq!(peaks.root(), root_of(&leaves[..count]), "{count}");
            assert_eq!(Peaks::from_bytes(peaks.size(), &peaks.to_bytes()), Some(peaks.clone()));
            assert!(peaks.push(0, leaves[count]));
        }
    }

    #[test]
    fn a_subtree_stands_for_its_leaves() {
        let leaves: Vec<TreeDigest> = (0..13).map(leaf).collect();
        let mut peaks = Peaks::default();
        assert!(peaks.push(3, root_of(&leaves[..8])));
        assert!(!peaks.push(4, leaf(0)));
        assert!(peaks.push(1, root_of(&leaves[8..10])));
        assert!(!peaks.push(2, leaf(0)));
        for leaf in &leaves[10..] {
            assert!(peaks.push(0, *leaf));
        }
        assert_eq!(peaks.root(), root_of(&leaves));
        assert!(!peaks.push(MAX_LEVEL + 1, leaf(0)));
    }

    #[test]
    fn bytes_of_another_size_are_no_peaks() {
        for (size, bytes) in [(1, 0), (0, 32), (3, 32), (2, 64), (1, 33), (-1, 0), (i64::MIN, 32)] {
            assert_eq!(Peaks::from_bytes(size, &vec![0; bytes]), None, "{size} {bytes}");
        }
    }
}
