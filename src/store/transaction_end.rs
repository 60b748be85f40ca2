//! What a transaction writes last, before its commit.

use rusqlite::Connection;

use super::effects::Effects;
use super::writer_cache::{Counters, WriterCache};
use super::{alerts, minute_counts};

/// Writes the alerts, the counts of the minute and the counters of a transaction. `before`: the counters when
/// it began.
///
/// # Errors
/// The write failed.
pub fn write_last(
    conn: &Connection,
    cache: &mut WriterCache,
    before: Counters,
    effects: &mut Effects,
) -> rusqlite::Result<()> {
    alerts::record_conditions(conn, cache, effects)?;
    minute_counts::write(conn, cache, &effects.minute_counts)?;
    if cache.counters != before {
        cache.write_counters(conn)?;
    }
    Ok(())
}
