//! Heads of the sealed trail. An operator keeps them elsewhere, as proof of its earlier states.

use std::fmt;
use std::str::FromStr;

use rusqlite::Connection;

use super::super::statements::Statements;
use super::append::SealTree;
use super::digest::TreeDigest;

/// The number of seals at some time, and the root of the tree over them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealHead {
    pub seals: i64,
    pub root: TreeDigest,
}

impl fmt::Display for SealHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.seals, hex::encode(self.root))
    }
}

impl FromStr for SealHead {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (seals, digits) = text.trim().split_once(':')?;
            let seals = seals.parse().ok().filter(|seals| *seals >= 0)?;
            let mut root = TreeDigest::default();
            hex::decode_to_slice(digits, &mut root).ok()?;
            Some(Self { seals, root })
        };
        parse().ok_or_else(|| {
            "not a line of `verify --head`: expected a number, a colon and 64 hexadecimal digits".into()
        })
    }
}

/// The head of a database, for people.
#[derive(Clone, Copy, Debug)]
pub struct HeadSummary {
    pub head: SealHead,
    /// When the newest seal was made (wall clock). `None`: all of its rows are removed, or there is none.
    pub sealed_at_ms: Option<i64>,
    /// How many sealed events there are.
    pub events: i64,
    pub outcomes: i64,
    pub rejections: i64,
}

/// Loads the head of a database.
///
/// # Errors
/// The read failed.
pub fn load_head(conn: &Connection) -> rusqlite::Result<HeadSummary> {
    let snapshot = conn.unchecked_transaction()?;
    let SealTree { peaks, kept, .. } = SealTree::load(&snapshot)?;
    let head = SealHead { seals: peaks.size(), root: peaks.root() };
    let sql = "SELECT sealed_at FROM seals WHERE id = ?1";
    let sealed_at_ms = snapshot.find(sql, [head.seals], |row| row.get(0))?;
    let [events, outcomes, rejections] = kept;
    Ok(HeadSummary { head, sealed_at_ms, events, outcomes, rejections })
}

/// How a database compares to a head that was kept elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadCheck {
    /// The tree over its first seals has this root.
    Contained,
    /// It has another root.
    Different,
    /// There are fewer seals.
    Newer { seals: i64 },
    /// The rows before and after it are removed, so the root at that time is not known any more.
    Gone,
}
