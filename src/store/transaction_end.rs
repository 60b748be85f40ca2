//! What a transaction writes last, before its commit.

use std::time::Instant;

use super::effects::Effects;
use super::write_transaction::WriteTransaction;
use super::writer_cache::{Counters, WriterCache};
use super::{
    Store, alerts, failure_groups, in_transaction, job_counts, minute_counts, seal, settlements,
};

/// Writes the alerts, the settled jobs, the counts of jobs, failures and minutes, the seal and the counters of a
/// transaction. `before`: the counters when it began.
///
/// # Errors
/// The write failed.
pub fn write_last(tx: &mut WriteTransaction<'_>, before: Counters) -> rusqlite::Result<()> {
    alerts::record_conditions(tx)?;
    settlements::write(tx)?;
    job_counts::write(tx.conn, &mut tx.effects.job_counts)?;
    failure_groups::write(tx.conn, &mut tx.effects.failure_groups)?;
    minute_counts::write(tx.conn, tx.cache, &tx.effects.minute_counts)?;
    let wall_ms = tx.cache.wall_ms;
    seal::write_pending(tx.conn, &mut tx.cache.seals, &mut tx.effects.sealed, wall_ms)?;
    if tx.cache.counters != before {
        tx.cache.write_counters(tx.conn)?;
    }
    Ok(())
}

/// Runs a change in a separate transaction, without the writer. `change` also gets the start of the
/// transaction. A server that runs meanwhile reads the queue again, so it needs no effects.
///
/// # Errors
/// The error of `change`, or of a failed write.
pub fn write_directly<T>(
    store: &Store,
    change: impl FnOnce(&mut WriteTransaction<'_>, Instant) -> anyhow::Result<T>,
) -> anyhow::Result<(T, Effects)> {
    in_transaction(&store.conn, |conn| {
        let began_at = Instant::now();
        let mut cache = WriterCache::read(conn, store.clock)?;
        let (before, mut effects) = (cache.counters, Effects::default());
        let mut tx = WriteTransaction::new(conn, &mut cache, &mut effects);
        let result = change(&mut tx, began_at)?;
        write_last(&mut tx, before)?;
        drop(tx);
        Ok((result, effects))
    })
}
