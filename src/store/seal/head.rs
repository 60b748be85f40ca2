//! Heads: chain values that are kept elsewhere, as proof of what the trail was.

use std::fmt;
use std::str::FromStr;

use rusqlite::Connection;

use super::super::statements::Statements;
use super::append::SealChain;
use super::chain::{ChainValue, genesis};

/// A chain value and its seal: what to keep elsewhere as proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealHead {
    pub seal: i64,
    pub chain: ChainValue,
}

impl fmt::Display for SealHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.seal, hex::encode(self.chain))
    }
}

impl FromStr for SealHead {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (seal, value) = text.trim().split_once(':')?;
            let seal = seal.parse().ok().filter(|seal| *seal >= 0)?;
            let mut chain = ChainValue::default();
            hex::decode_to_slice(value, &mut chain).ok()?;
            Some(Self { seal, chain })
        };
        parse().ok_or_else(|| {
            "not a line of `verify --head`: expected a number, a colon and 64 hexadecimal digits".into()
        })
    }
}

/// The newest seal, for people.
#[derive(Clone, Copy, Debug)]
pub struct HeadSummary {
    pub head: SealHead,
    /// Wall clock. `None`: nothing is sealed yet.
    pub sealed_at_ms: Option<i64>,
    pub events: i64,
    pub outcomes: i64,
    pub rejections: i64,
}

/// Loads the newest seal.
///
/// # Errors
/// The read failed.
pub fn load_head(conn: &Connection) -> rusqlite::Result<HeadSummary> {
    let SealChain { id, value, totals, .. } = SealChain::load(conn)?;
    let sealed_at_ms =
        conn.find("SELECT sealed_at FROM seals WHERE id = ?1", [id], |row| row.get(0))?;
    let [events, outcomes, rejections] = totals.sealed;
    let head = SealHead { seal: id, chain: value };
    Ok(HeadSummary { head, sealed_at_ms, events, outcomes, rejections })
}

/// How a database compares to a head that was kept elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadCheck {
    /// The chain contains the head.
    Contained,
    /// The seal has another chain value.
    Different,
    /// The seal is newer than the newest one, which is in `newest`.
    Newer { newest: i64 },
    /// The seal is not stored: its rows were removed, or a restore has skipped its id.
    Gone,
}

/// Looks for a head in the chain.
///
/// # Errors
/// The read failed.
pub fn check_head(conn: &Connection, head: &SealHead) -> rusqlite::Result<HeadCheck> {
    let newest = SealChain::load(conn)?.id;
    let sql = "SELECT chain FROM seals WHERE id = ?1";
    let chain: Option<ChainValue> = match head.seal {
        0 => Some(genesis(conn)?),
        seal => conn.find(sql, [seal], |row| row.get(0))?,
    };
    if let Some(chain) = chain {
        return Ok(if chain == head.chain { HeadCheck::Contained } else { HeadCheck::Different });
    }
    Ok(if head.seal > newest { HeadCheck::Newer { newest } } else { HeadCheck::Gone })
}
