//! The items of a `split`: small ones in memory, large ones in an unnamed file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use serde::{Deserialize, Serialize};

/// Items one after another, each the JSON text of an output. In a message it is empty, and
/// its contents follow.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Items {
    #[serde(skip)]
    pub(crate) memory: Vec<u8>,
    /// The items, if they are too large for `memory`.
    #[serde(skip)]
    pub(crate) file: Option<File>,
    /// The end of each item.
    #[serde(skip)]
    pub(crate) ends: Vec<u64>,
}

impl Items {
    /// Marks what was added to `memory` as one item; returns its length.
    pub(crate) fn finish_item(&mut self) -> usize {
        let start = self.bytes();
        let end = self.memory.len() as u64;
        self.ends.push(end);
        usize::try_from(end - start).unwrap_or(usize::MAX)
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The size of all items together.
    pub fn bytes(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    /// Reads the item at `index`, counted from 0, into `item`, replacing its contents.
    ///
    /// # Errors
    /// There is no such item, or the file can't be read.
    pub fn get(&self, index: usize, item: &mut Vec<u8>) -> io::Result<()> {
        let end = *self.ends.get(index).ok_or(io::ErrorKind::NotFound)?;
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        let to_usize = |offset: u64| usize::try_from(offset).map_err(io::Error::other);
        item.clear();
        match &self.file {
            None => item.extend_from_slice(&self.memory[to_usize(start)?..to_usize(end)?]),
            Some(file) => {
                item.resize(to_usize(end - start)?, 0);
                file.read_exact_at(item, start)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn items_are_read_one_by_one_from_memory_and_from_a_file() {
        let (memory, ends) = (b"12{}".to_vec(), vec![1, 1, 2, 4]);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&memory).unwrap();
        let in_file = Items { file: Some(file), ends: ends.clone(), ..Items::default() };
        for items in [Items { memory, ends, file: None }, in_file] {
            assert_eq!((items.len(), items.bytes()), (4, 4));
            let mut item = b"old".to_vec();
            for (index, expected) in [&b"1"[..], b"", b"2", b"{}"].into_iter().enumerate() {
                items.get(index, &mut item).unwrap();
                assert_eq!(item, expected);
            }
            assert!(items.get(4, &mut item).is_err());
        }
    }
}
