//! Whether a rule may remove an event now.

use const_format::formatcp;
use rusqlite::Connection;

use super::super::jobs::transition::{
    HAS_UNFINISHED_BETWEEN_1_AND_2, IS_DEAD, IS_NOT_GIVEN_UP, IS_UNFINISHED, IS_UNRELEASED,
};
use super::super::statements::Statements;
use super::{RemovedPart, RetentionRule, SeenEvent};

/// The writer does not read more jobs than this again.
const MAX_JOBS_READ_AGAIN: usize = 2000;

/// A rule looks at an event again after this time at the earliest, however short its duration is.
const MIN_WAIT_MS: i64 = 5000;

/// What a rule does with an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Assessment {
    /// There is nothing to remove, now or later.
    Forget,
    /// Look again when the rule's duration has passed since then (wall clock).
    Wait {
        since_ms: i64,
    },
    Remove(RemovableEvent),
}

/// An event that a rule removes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct RemovableEvent {
    pub id: i64,
    pub first_job: i64,
    pub last_job: i64,
    pub jobs: usize,
    /// A replay or a retry appended jobs.
    pub has_appended: bool,
    /// One of its jobs is dead or cancelled.
    pub has_given_up: bool,
}

impl RemovableEvent {
    /// Returns whether the ids of `next` and of its jobs follow those of this event.
    pub fn is_followed_by(&self, next: &Self) -> bool {
        next.id == self.id + 1 && next.first_job == self.last_job + 1
    }
}

/// What decides about an event, besides its jobs.
struct EventFacts {
    received_at_ms: i64,
    first_job: i64,
    last_job: i64,
    has_body: bool,
    /// Its jobs are not all inserted, or a duplicate is retrying them.
    is_pending: bool,
    has_appended: bool,
}

fn load_facts(conn: &Connection, event: i64) -> rusqlite::Result<Option<EventFacts>> {
    let sql = "SELECT received_at, first_job, last_job, removed_bytes IS NULL,
         EXISTS (SELECT 1 FROM deferred_events WHERE event = e.id)
           OR EXISTS (SELECT 1 FROM expansions WHERE event = e.id)
           OR EXISTS (SELECT 1 FROM dead_job_retries WHERE event = e.id),
         EXISTS (SELECT 1 FROM jobs WHERE appended_to = e.id)
       FROM events e WHERE id = ?1";
    conn.find(sql, [event], |row| {
        Ok(EventFacts {
            received_at_ms: row.get(0)?,
            first_job: row.get(1)?,
            last_job: row.get(2)?,
            has_body: row.get(3)?,
            is_pending: row.get(4)?,
            has_appended: row.get(5)?,
        })
    })
}

/// The jobs of an event.
#[derive(Clone, Copy, Default)]
struct JobFacts {
    jobs: usize,
    has_unfinished: bool,
    last_ended_at_ms: Option<i64>,
    last_died_at_ms: Option<i64>,
    has_given_up: bool,
}

impl JobFacts {
    const COLUMNS: &'static str = formatcp!(
        "count(*), coalesce(max({IS_UNFINISHED} OR {IS_UNRELEASED}), 0), max(ended_at),
         max(iif({IS_DEAD}, ended_at, NULL)), coalesce(max(NOT ({IS_NOT_GIVEN_UP})), 0)"
    );

    fn load(conn: &Connection, event: i64, facts: &EventFacts) -> rusqlite::Result<Self> {
        const OWN: &str =
            formatcp!("SELECT {} FROM jobs WHERE id BETWEEN ?1 AND ?2", JobFacts::COLUMNS);
        const APPENDED: &str =
            formatcp!("SELECT {} FROM jobs WHERE appended_to = ?1", JobFacts::COLUMNS);
        let mut found = Self::default();
        if facts.first_job <= facts.last_job {
            found =
                conn.statement(OWN)?.query_row([facts.first_job, facts.last_job], Self::read)?;
        }
        if facts.has_appended {
            found = found.with(conn.statement(APPENDED)?.query_row([event], Self::read)?);
        }
        Ok(found)
    }

    fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            jobs: usize::try_from(row.get::<_, i64>(0)?).unwrap_or(usize::MAX),
            has_unfinished: row.get(1)?,
            last_ended_at_ms: row.get(2)?,
            last_died_at_ms: row.get(3)?,
            has_given_up: row.get(4)?,
        })
    }

    fn with(self, other: Self) -> Self {
        Self {
            jobs: self.jobs + other.jobs,
            has_unfinished: self.has_unfinished || other.has_unfinished,
            last_ended_at_ms: self.last_ended_at_ms.max(other.last_ended_at_ms),
            last_died_at_ms: self.last_died_at_ms.max(other.last_died_at_ms),
            has_given_up: self.has_given_up || other.has_given_up,
        }
    }
}

/// Decides about an event at `now_ms` (wall clock).
pub(super) fn assess(
    conn: &Connection,
    rule: &RetentionRule,
    event: i64,
    now_ms: i64,
) -> rusqlite::Result<Assessment> {
    let Some(facts) = load_facts(conn, event)? else { return Ok(Assessment::Forget) };
    if rule.part == RemovedPart::Body && !facts.has_body {
        return Ok(Assessment::Forget);
    }
    let jobs = JobFacts::load(conn, event, &facts)?;
    Ok(decide(rule, event, &facts, &jobs, now_ms))
}

/// Decides again, in the transaction that removes the event. An event with very many jobs is only checked for
/// unfinished ones: the scan that read all of them was less than a moment ago.
pub(super) fn assess_again(
    conn: &Connection,
    rule: &RetentionRule,
    seen: &SeenEvent,
    now_ms: i64,
) -> rusqlite::Result<Assessment> {
    let Assessment::Remove(event) = seen.assessment else { return Ok(seen.assessment) };
    if event.jobs <= MAX_JOBS_READ_AGAIN {
        return assess(conn, rule, event.id, now_ms);
    }
    let Some(facts) = load_facts(conn, event.id)? else { return Ok(Assessment::Forget) };
    let is_settled = !facts.is_pending && !has_unfinished(conn, &event)?;
    Ok(if is_settled { seen.assessment } else { Assessment::Wait { since_ms: now_ms } })
}

/// Returns an event that `erase` may change now. `None`: it does not exist, or is not settled.
pub(in crate::store) fn find_settled(
    conn: &Connection,
    event: i64,
) -> rusqlite::Result<Option<RemovableEvent>> {
    let Some(facts) = load_facts(conn, event)? else { return Ok(None) };
    if facts.is_pending {
        return Ok(None);
    }
    let jobs = JobFacts::load(conn, event, &facts)?;
    Ok((!jobs.has_unfinished).then(|| removable(event, &facts, &jobs)))
}

fn removable(event: i64, facts: &EventFacts, jobs: &JobFacts) -> RemovableEvent {
    RemovableEvent {
        id: event,
        first_job: facts.first_job,
        last_job: facts.last_job,
        jobs: jobs.jobs,
        has_appended: facts.has_appended,
        has_given_up: jobs.has_given_up,
    }
}

/// Returns whether an event with many jobs has an unfinished one, by the index of states.
fn has_unfinished(conn: &Connection, event: &RemovableEvent) -> rusqlite::Result<bool> {
    const APPENDED: &str =
        formatcp!("SELECT EXISTS (SELECT 1 FROM jobs WHERE appended_to = ?1 AND {IS_UNFINISHED})");
    Ok(conn.value(HAS_UNFINISHED_BETWEEN_1_AND_2, [event.first_job, event.last_job])?
        || conn.value(APPENDED, [event.id])?)
}

fn decide(
    rule: &RetentionRule,
    event: i64,
    facts: &EventFacts,
    jobs: &JobFacts,
    now_ms: i64,
) -> Assessment {
    let later_ms = now_ms + (MIN_WAIT_MS - rule.keep_ms).max(0);
    if facts.is_pending || jobs.has_unfinished {
        return Assessment::Wait { since_ms: later_ms };
    }
    let settled_at_ms = jobs.last_ended_at_ms.unwrap_or(facts.received_at_ms);
    if settled_at_ms > now_ms - rule.keep_ms {
        // If the wall clock was wrong once, the time may be far ahead.
        return Assessment::Wait { since_ms: settled_at_ms.min(now_ms) };
    }
    if let Some(died_at_ms) = jobs.last_died_at_ms {
        let until_ms = rule.keep_dead_ms.map(|keep_ms| died_at_ms.saturating_add(keep_ms));
        if until_ms.is_none_or(|until_ms| until_ms > now_ms) {
            // `cancel` may dismiss the job before.
            let since_ms =
                until_ms.map_or(later_ms, |until_ms| later_ms.min(until_ms - rule.keep_ms));
            return Assessment::Wait { since_ms };
        }
    }
    Assessment::Remove(removable(event, facts, jobs))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::SourceId;

    const NOW: i64 = 1_000_000;
    const KEEP: i64 = 10_000;

    fn rule(keep_dead_ms: Option<i64>) -> RetentionRule {
        let part = RemovedPart::Event;
        RetentionRule { source: SourceId(1), part, keep_ms: KEEP, keep_dead_ms }
    }

    fn facts() -> EventFacts {
        EventFacts {
            received_at_ms: NOW - 50_000,
            first_job: 7,
            last_job: 7,
            has_body: true,
            is_pending: false,
            has_appended: false,
        }
    }

    fn decision(keep_dead_ms: Option<i64>, jobs: JobFacts) -> Assessment {
        decide(&rule(keep_dead_ms), 3, &facts(), &jobs, NOW)
    }

    fn ended(at_ms: i64) -> JobFacts {
        JobFacts { jobs: 1, last_ended_at_ms: Some(at_ms), ..JobFacts::default() }
    }

    fn died(at_ms: i64) -> JobFacts {
        JobFacts { last_died_at_ms: Some(at_ms), has_given_up: true, ..ended(at_ms) }
    }

    fn is_removed(assessment: Assessment) -> bool {
        matches!(assessment, Assessment::Remove(_))
    }

    #[test]
    fn the_duration_counts_from_the_end_of_the_last_job() {
        assert!(is_removed(decision(None, ended(NOW - KEEP))));
        assert_eq!(decision(None, ended(NOW - 9999)), Assessment::Wait { since_ms: NOW - 9999 });
        assert!(is_removed(decision(None, JobFacts::default())));
    }

    #[test]
    fn an_unfinished_job_protects_its_event() {
        let jobs = JobFacts { has_unfinished: true, ..ended(NOW - 90_000) };
        assert_eq!(decision(Some(0), jobs), Assessment::Wait { since_ms: NOW });
    }

    #[test]
    fn a_dead_job_protects_its_event_for_its_own_duration() {
        let died = died(NOW - 90_000);
        assert_eq!(decision(None, died), Assessment::Wait { since_ms: NOW });
        assert!(is_removed(decision(Some(90_000), died)));
        // It ends in 500 ms, and the rule looks again then, after its duration.
        let since_ms = NOW + 500 - KEEP;
        assert_eq!(decision(Some(90_500), died), Assessment::Wait { since_ms });
        assert_eq!(decision(Some(200_000), died), Assessment::Wait { since_ms: NOW });
    }

    #[test]
    fn a_short_duration_does_not_make_the_rule_look_again_at_once() {
        let mut rule = rule(None);
        rule.keep_ms = 1;
        let jobs = JobFacts { has_unfinished: true, ..ended(NOW - 90_000) };
        let assessment = decide(&rule, 3, &facts(), &jobs, NOW);
        assert_eq!(assessment, Assessment::Wait { since_ms: NOW + MIN_WAIT_MS - 1 });
    }

    #[test]
    fn an_end_in_the_future_is_looked_at_again_after_the_duration() {
        assert_eq!(decision(None, ended(NOW + 9_000_000)), Assessment::Wait { since_ms: NOW });
    }
}
