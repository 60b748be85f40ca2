//! Finds the events that a rule removes. It only reads.

use rusqlite::Connection;

use super::super::block_index::{block_of, ids_of_block};
use super::super::statements::Statements;
use super::{Assessment, MAX_BATCH_EVENTS, RetentionBatch, RetentionRule, SeenEvent, assess};

/// Events that one call reads at most.
const MAX_EVENTS_READ: i64 = 1000;

/// Jobs that a batch has at most, as far as that is possible.
const MAX_BATCH_JOBS: usize = 500;

/// Goes through the events of one rule, batch by batch.
#[derive(Clone, Copy, Debug)]
pub struct Scanner {
    rule: RetentionRule,
    next_event: i64,
    /// The last row of `retention_waiting` that was read. `None`: the rows are all read, or not wanted.
    waiting: Option<(i64, i64)>,
    is_recorded: bool,
}

impl Scanner {
    /// Goes on where the rule's last scan ended.
    ///
    /// # Errors
    /// The read failed.
    pub fn resume(conn: &Connection, rule: RetentionRule) -> rusqlite::Result<Self> {
        let sql = "SELECT next_event FROM retention_cursors WHERE source = ?1 AND rule = ?2";
        let next_event =
            conn.find(sql, (rule.source, rule.part.code()), |row| row.get(0))?.unwrap_or(0);
        Ok(Self { rule, next_event, waiting: Some((i64::MIN, i64::MIN)), is_recorded: true })
    }

    /// Goes through all events of the rule's source, and leaves no trace of that.
    pub fn from_first_event(rule: RetentionRule) -> Self {
        Self { rule, next_event: 0, waiting: None, is_recorded: false }
    }

    /// Returns the next batch at `now_ms` (wall clock), or `None` if the rule has nothing more to do now.
    ///
    /// # Errors
    /// The read failed.
    pub fn next_batch(
        &mut self,
        conn: &Connection,
        now_ms: i64,
    ) -> rusqlite::Result<Option<RetentionBatch>> {
        let Self { rule, is_recorded, .. } = *self;
        if let Some(seen) = self.next_waiting(conn, now_ms)? {
            return Ok(Some(RetentionBatch { rule, now_ms, seen, next_event: None, is_recorded }));
        }
        let before = self.next_event;
        let seen = self.next_events(conn, now_ms)?;
        let next_event = Some(self.next_event);
        let batch = RetentionBatch { rule, now_ms, seen, next_event, is_recorded };
        Ok((self.next_event > before).then_some(batch))
    }

    /// Returns waiting events whose wait is over.
    fn next_waiting(
        &mut self,
        conn: &Connection,
        now_ms: i64,
    ) -> rusqlite::Result<Option<Vec<SeenEvent>>> {
        let Some((since_ms, event)) = self.waiting else { return Ok(None) };
        let rule = &self.rule;
        let sql = "SELECT since, event FROM retention_waiting WHERE source = ?1 AND rule = ?2
                     AND (since, event) > (?3, ?4) AND since <= ?5 ORDER BY since, event LIMIT ?6";
        let values = (
            rule.source,
            rule.part.code(),
            since_ms,
            event,
            now_ms.saturating_sub(rule.keep_ms),
            MAX_BATCH_EVENTS as i64,
        );
        let rows: Vec<(i64, i64)> = conn.list(sql, values, |row| row.try_into())?;
        self.waiting = rows.last().copied();
        if rows.is_empty() {
            return Ok(None);
        }
        let see = |(since_ms, event)| {
            let assessment = assess(conn, &self.rule, event, now_ms)?;
            Ok(SeenEvent { event, waiting_since_ms: Some(since_ms), assessment })
        };
        rows.into_iter().map(see).collect::<rusqlite::Result<_>>().map(Some)
    }

    /// Returns the next events that were received long enough ago, and moves on behind them.
    fn next_events(&mut self, conn: &Connection, now_ms: i64) -> rusqlite::Result<Vec<SeenEvent>> {
        let mut seen = Vec::new();
        let source = self.rule.source;
        let sql = "SELECT block FROM event_blocks WHERE source = ?1 AND block >= ?2 ORDER BY block LIMIT 1";
        let block: Option<i64> =
            conn.find(sql, (source, block_of(self.next_event)), |row| row.get(0))?;
        let Some(block) = block else { return Ok(seen) };
        let (first, last) = ids_of_block(block);
        let first = first.max(self.next_event);
        let sql = "SELECT id, received_at FROM events WHERE id BETWEEN ?1 AND ?2 AND source = ?3
                   ORDER BY id LIMIT ?4";
        let rows: Vec<(i64, i64)> =
            conn.list(sql, (first, last, source, MAX_EVENTS_READ), |row| row.try_into())?;
        let is_complete = (rows.len() as i64) < MAX_EVENTS_READ;
        let mut jobs = 0;
        for (event, received_at_ms) in rows {
            // An event settles after it was received. A time in the future is that of a wrong clock.
            let is_recent = received_at_ms > now_ms.saturating_sub(self.rule.keep_ms);
            if seen.len() >= MAX_BATCH_EVENTS
                || jobs >= MAX_BATCH_JOBS
                || (is_recent && received_at_ms <= now_ms)
            {
                return Ok(seen);
            }
            let assessment = assess(conn, &self.rule, event, now_ms)?;
            if let Assessment::Remove(removable) = assessment {
                jobs += removable.jobs;
            }
            if assessment != Assessment::Forget {
                seen.push(SeenEvent { event, waiting_since_ms: None, assessment });
            }
            self.next_event = event + 1;
        }
        // A block without further events of the source is behind, unless it is the newest: it may get more.
        if is_complete && block < block_of(newest_event(conn)?) {
            self.next_event = last + 1;
        }
        Ok(seen)
    }
}

fn newest_event(conn: &Connection) -> rusqlite::Result<i64> {
    conn.value("SELECT event FROM counters", [])
}
