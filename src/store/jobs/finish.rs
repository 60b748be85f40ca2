//! Outcomes: the attempt's row, the new state of its job, and the handler's circuit breaker.

use rusqlite::params;

use super::super::batch_insert::{
    BatchInsert, BatchRow, RowValues, StatementTexts, statement_texts,
};
use super::super::breaker;
use super::super::seal::{AttemptContent, AttemptFields, AttemptSeal, SealedTable, attempt_digest};
use super::super::statements::Statements;
use super::super::write_transaction::WriteTransaction;
use super::{AttemptRecord, JobOrigin, VersionKey, keys, load_current_claim, transition};
use crate::domain::job::JobState;
use crate::domain::{HandlerId, NextStep, Outcome, SourceId};

/// Rows of `attempts` that are inserted together.
pub type AttemptInserts<'c, 'e> = BatchInsert<'c, AttemptRow<'e>>;

/// A row of `attempts`.
pub struct AttemptRow<'e> {
    id: i64,
    record: &'e AttemptRecord,
    next_at_ms: Option<i64>,
}

impl BatchRow for AttemptRow<'_> {
    const STATEMENTS: StatementTexts = statement_texts!(
        "attempts (id, job, attempt, outcome, detail, ended_at, duration_ms, next_at, salt, stdout, stderr)",
        "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    );

    fn byte_count(&self) -> usize {
        self.record.stdout.len() + self.record.stderr.len()
    }

    fn bind(&self, values: &mut RowValues<'_, '_>) -> rusqlite::Result<()> {
        let record = self.record;
        values.bind(params![
            self.id,
            record.claim.job,
            record.claim.attempt,
            record.outcome.name(),
            record.detail,
            record.ended_at_ms,
            record.duration_ms,
            self.next_at_ms,
            record.seal.as_ref().map(|seal| &seal.salt),
            non_empty(&record.stdout),
            non_empty(&record.stderr),
        ])
    }
}

/// Writes one outcome, in a transaction without other outcomes.
///
/// # Errors
/// The write failed. The caller rolls the transaction back.
pub fn finish_single(
    tx: &mut WriteTransaction<'_>,
    record: &AttemptRecord,
) -> rusqlite::Result<Option<JobState>> {
    let mut attempts = AttemptInserts::new(tx.conn);
    let state_after = finish(tx, &mut attempts, record)?;
    attempts.flush()?;
    Ok(state_after)
}

/// Writes an outcome and updates the job, if the claim is current: the job succeeds, waits for a retry,
/// becomes dead or is cancelled. Returns its state. If the claim is no longer current, nothing changes. The
/// row of the attempt may be inserted only when the caller flushes `attempts`.
///
/// # Errors
/// The write failed. The caller rolls the transaction back.
pub fn finish<'e>(
    tx: &mut WriteTransaction<'_>,
    attempts: &mut AttemptInserts<'_, 'e>,
    record: &'e AttemptRecord,
) -> rusqlite::Result<Option<JobState>> {
    if matches!(record.next, NextStep::Succeeded) && transition::succeed_plain(tx, record)? {
        insert_attempt(tx, attempts, record, None)?;
        breaker::on_attempt(tx, record)?;
        add_success(tx, record)?;
        return Ok(Some(JobState::Succeeded));
    }
    let Some(current) = load_current_claim(tx.conn, record.claim)? else {
        breaker::end_probe(tx.cache, record.handler, record.is_probe, tx.effects);
        return Ok(None);
    };
    let (state, wait_ms) = transition::finish(tx, record, &current)?;
    let next_at_ms = wait_ms.map(|wait_ms| record.ended_at_ms + wait_ms);
    insert_attempt(tx, attempts, record, next_at_ms)?;
    breaker::on_attempt(tx, record)?;
    if matches!(state, JobState::Succeeded) {
        add_success(tx, record)?;
        if let Some((key, value)) = current.ordering_key.zip(current.version) {
            let version = VersionKey { key, value };
            keys::record_version(tx.conn, record.handler, &version, record.claim.job)?;
        }
    }
    Ok(Some(state))
}

/// Adds a job that succeeded to the block index.
fn add_success(tx: &mut WriteTransaction<'_>, record: &AttemptRecord) -> rusqlite::Result<()> {
    let AttemptRecord { handler, source, claim, .. } = *record;
    tx.cache.blocks.add_success(tx.conn, handler, source, claim.job.0)
}

/// Inserts the row of a finished attempt.
fn insert_attempt<'e>(
    tx: &mut WriteTransaction<'_>,
    attempts: &mut AttemptInserts<'_, 'e>,
    record: &'e AttemptRecord,
    next_at_ms: Option<i64>,
) -> rusqlite::Result<()> {
    let id = tx.cache.counters.attempt + 1;
    attempts.push(AttemptRow { id, record, next_at_ms })?;
    let fields = AttemptFields {
        event: record.event.0,
        item: record.item.map(i64::from),
        job: record.claim.job.0,
        attempt: i64::from(record.claim.attempt),
        outcome: record.outcome.name(),
        ended_at_ms: record.ended_at_ms,
        duration_ms: record.duration_ms,
        next_at_ms,
    };
    let content = match &record.seal {
        Some(seal) => seal.content(),
        None => AttemptContent::Permanent { detail: &record.detail },
    };
    add_attempt(tx, (record.source, record.handler), fields, &content)
}

/// Records what follows from the row of an attempt: the highest id, its seal, the block index and the counts of the
/// minute.
fn add_attempt(
    tx: &mut WriteTransaction<'_>,
    (source, handler): (SourceId, HandlerId),
    fields: AttemptFields<'_>,
    content: &AttemptContent<'_>,
) -> rusqlite::Result<()> {
    let id = tx.cache.counters.attempt + 1;
    tx.cache.counters.attempt = id;
    let name = tx.cache.handler_names.get(&handler).map_or("", String::as_str);
    let digest = attempt_digest(name, &fields, content);
    tx.effects.sealed.add(SealedTable::Attempts, id, digest);
    tx.cache.blocks.add_attempt(tx.conn, handler, source, id)?;
    let has_succeeded = fields.outcome == Outcome::Succeeded.name();
    tx.effects.minute_counts.add_attempt(source, handler, has_succeeded, fields.duration_ms);
    Ok(())
}

/// Inserts the failed attempt of a job whose expression failed at intake.
///
/// # Errors
/// The write failed.
pub(in crate::store) fn record_failure(
    tx: &mut WriteTransaction<'_>,
    (origin, job): (JobOrigin, i64),
    reason: &str,
) -> rusqlite::Result<()> {
    let seal = AttemptSeal::new(reason, &[], &[]);
    let fields = AttemptFields {
        event: origin.event,
        item: None,
        job,
        attempt: 1,
        outcome: Outcome::Failed.name(),
        ended_at_ms: tx.cache.wall_ms,
        duration_ms: 0,
        next_at_ms: None,
    };
    tx.conn.change(
        "INSERT INTO attempts (id, job, attempt, outcome, detail, ended_at, duration_ms, salt)
         VALUES (?1, ?2, 1, ?3, ?4, ?5, 0, ?6)",
        params![
            tx.cache.counters.attempt + 1,
            job,
            fields.outcome,
            reason,
            fields.ended_at_ms,
            seal.as_ref().map(|seal| &seal.salt)
        ],
    )?;
    let content = match &seal {
        Some(seal) => seal.content(),
        None => AttemptContent::Permanent { detail: reason },
    };
    add_attempt(tx, (origin.source, origin.handler), fields, &content)
}

fn non_empty(bytes: &[u8]) -> Option<&[u8]> {
    (!bytes.is_empty()).then_some(bytes)
}
