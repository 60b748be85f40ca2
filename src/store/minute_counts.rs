//! Table `minute_counts`: events, rejections and attempts of each minute, for the rates of `stats`. The
//! writer counts in memory during a transaction and writes the sums before its commit. So the counts
//! are exact after a crash, and a rollback discards them with the rows that they count.

use rusqlite::{Connection, params};

use super::statements::Statements;
use super::writer_cache::WriterCache;
use crate::domain::{HandlerId, SourceId};

const MINUTE_MS: i64 = 60_000;

/// The minutes of the last hour: the current one and the 59 before it.
pub(super) const MINUTES_OF_LAST_HOUR: i64 = 60;

/// How many minutes are kept.
const KEPT_MINUTES: i64 = 24 * 60;

/// Maximum number of rows that one transaction deletes.
const MAX_PRUNED: usize = 1_000;

/// The handler of rows that count events, duplicates and rejections of a source.
const NO_HANDLER: HandlerId = HandlerId(0);

/// Returns the minute of a time (database clock).
pub(super) fn minute_of(now_ms: i64) -> i64 {
    now_ms.div_euclid(MINUTE_MS)
}

/// The counts in one row of the table.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    events: i64,
    duplicates: i64,
    rejections: i64,
    succeeded: i64,
    unsuccessful: i64,
    duration_ms: i64,
    last_event_at_ms: Option<i64>,
}

/// The counts of a transaction.
#[derive(Clone, Debug, Default)]
pub(super) struct MinuteCounts(Vec<((SourceId, HandlerId), Counts)>);

impl MinuteCounts {
    pub fn add_event(&mut self, source: SourceId, received_at_ms: i64) {
        let counts = self.counts(source, NO_HANDLER);
        counts.events += 1;
        counts.last_event_at_ms = Some(received_at_ms);
    }

    pub fn add_duplicate(&mut self, source: SourceId) {
        self.counts(source, NO_HANDLER).duplicates += 1;
    }

    pub fn add_rejections(&mut self, source: SourceId, count: i64) {
        self.counts(source, NO_HANDLER).rejections += count;
    }

    pub fn add_attempt(
        &mut self,
        source: SourceId,
        handler: HandlerId,
        has_succeeded: bool,
        duration_ms: i64,
    ) {
        let counts = self.counts(source, handler);
        match has_succeeded {
            true => counts.succeeded += 1,
            false => counts.unsuccessful += 1,
        }
        counts.duration_ms += duration_ms;
    }

    /// Returns for each source the number of events and of duplicates, and when the last event was received.
    pub fn sources(&self) -> impl Iterator<Item = (SourceId, u64, u64, Option<i64>)> {
        let of_sources = self.0.iter().filter(|((_, handler), _)| *handler == NO_HANDLER);
        let number = |count: i64| u64::try_from(count).unwrap_or(0);
        of_sources.map(move |((source, _), counts)| {
            let Counts { events, duplicates, last_event_at_ms, .. } = *counts;
            (*source, number(events), number(duplicates), last_event_at_ms)
        })
    }

    fn counts(&mut self, source: SourceId, handler: HandlerId) -> &mut Counts {
        let key = (source, handler);
        let index = self.0.iter().position(|(known, _)| *known == key).unwrap_or_else(|| {
            self.0.push((key, Counts::default()));
            self.0.len() - 1
        });
        &mut self.0[index].1
    }
}

/// Adds the counts to their rows. Called before each commit. The first time in each minute, also deletes
/// old rows.
pub(super) fn write(
    conn: &Connection,
    cache: &mut WriterCache,
    counts: &MinuteCounts,
) -> rusqlite::Result<()> {
    if counts.0.is_empty() {
        return Ok(());
    }
    let minute = minute_of(cache.now_ms);
    let mut upsert = conn.prepare_cached(
        "INSERT INTO minute_counts (minute, source, handler, events, duplicates, rejections, succeeded,
           unsuccessful, duration_ms, last_event_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
         ON CONFLICT DO UPDATE SET events = events + excluded.events,
           duplicates = duplicates + excluded.duplicates, rejections = rejections + excluded.rejections,
           succeeded = succeeded + excluded.succeeded, unsuccessful = unsuccessful + excluded.unsuccessful,
           duration_ms = duration_ms + excluded.duration_ms,
           last_event_at = coalesce(excluded.last_event_at, last_event_at)",
    )?;
    for ((source, handler), counts) in &counts.0 {
        upsert.execute(params![
            minute,
            source,
            handler,
            counts.events,
            counts.duplicates,
            counts.rejections,
            counts.succeeded,
            counts.unsuccessful,
            counts.duration_ms,
            counts.last_event_at_ms,
        ])?;
    }
    if cache.pruned_minute != minute && prune(conn, minute)? < MAX_PRUNED {
        cache.pruned_minute = minute;
    }
    Ok(())
}

/// Deletes some of the old rows and returns their number.
fn prune(conn: &Connection, minute: i64) -> rusqlite::Result<usize> {
    let sql = "DELETE FROM minute_counts WHERE (minute, source, handler) IN
      (SELECT minute, source, handler FROM minute_counts WHERE minute <= ?1 ORDER BY minute LIMIT ?2)";
    conn.change(sql, (minute - KEPT_MINUTES, i64::try_from(MAX_PRUNED).unwrap_or(i64::MAX)))
}
