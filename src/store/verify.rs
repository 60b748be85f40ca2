//! Checks a database: that SQLite can read all of it, and that its rows do not contradict each other or what the
//! server promises.

use std::num::NonZero;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use const_format::formatcp;
use parking_lot::Mutex;
use rusqlite::{Connection, ErrorCode};

use super::jobs::transition::{
    IS_DEAD, IS_INDEXED, IS_RUNNING, IS_SUCCEEDED, IS_UNFINISHED, IS_UNRELEASED, IS_WAITING,
};
use super::migrate::{check_is_ours, open_unused};
use super::seal::{self, SealHead};

pub use super::problem::Problem;

/// Damaged places that SQLite reports at most.
const MAX_DAMAGED: usize = 20;

/// The problem of a row or a page that SQLite cannot read.
const DAMAGED: &str = "SQLite finds the file damaged";

/// Checks that run at once. More would take the disk from the server.
const MAX_THREADS: usize = 3;

/// The page cache of each, negative for KiB (<https://www.sqlite.org/pragma.html#pragma_cache_size>).
const CACHE_KIB: i64 = -32 * 1024;

/// How often the progress is shown.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A rule that all databases follow.
#[derive(Debug)]
pub struct Check {
    /// What the check reads.
    pub name: &'static str,
    rule: Rule,
}

#[derive(Debug)]
enum Rule {
    /// `sql` returns the rows with the problem. A backup of an earlier version may lack `table`.
    Query { problem: &'static str, sql: &'static str, table: Option<&'static str> },
    /// The rows and the chain of seals agree.
    Seals,
}

impl Check {
    const fn new(name: &'static str, problem: &'static str, sql: &'static str) -> Self {
        Self { name, rule: Rule::Query { problem, sql, table: None } }
    }

    /// Returns what contradicts the rule. Damage that ends the check is a problem too, and so is one of `heads` that the
    /// trail does not contain. `is_ended` may end the check before.
    ///
    /// # Errors
    /// The database cannot be read for another reason.
    pub fn run(
        &self,
        conn: &Connection,
        heads: &[SealHead],
        is_ended: &dyn Fn() -> bool,
    ) -> rusqlite::Result<Vec<Problem>> {
        let mut damage = Problem::new(DAMAGED);
        let result = match self.rule {
            Rule::Seals => seal::check_seals(conn, heads, is_ended),
            Rule::Query { table: Some(table), .. } if !has_table(conn, table)? => Ok(Vec::new()),
            Rule::Query { problem, sql, .. } => {
                let mut problem = Problem::new(problem);
                collect(conn, sql, &mut problem)
                    .map(|()| Vec::from_iter(Some(problem).filter(|problem| problem.count > 0)))
            }
        };
        match result {
            Err(e)
                if e.sqlite_error_code() == Some(ErrorCode::DatabaseCorrupt)
                    || seal::is_wrong_type(&e) =>
            {
                damage.add(e.to_string());
                Ok(vec![damage])
            }
            result => result,
        }
    }
}

fn has_table(conn: &Connection, name: &str) -> rusqlite::Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = ?1)";
    conn.query_row(sql, [name], |row| row.get(0))
}

fn collect(conn: &Connection, sql: &str, problem: &mut Problem) -> rusqlite::Result<()> {
    let mut statement = conn.prepare(sql)?;
    let mut found = statement.query([])?;
    while let Some(row) = found.next()? {
        let row: String = row.get(0)?;
        // SQLite reports that nothing is wrong.
        if row != "ok" {
            problem.add(row);
        }
    }
    Ok(())
}

/// Opens a backup to check it.
///
/// # Errors
/// It is no Hooktrail database of this version, or a server uses it.
pub fn open(backup: &Path) -> anyhow::Result<Connection> {
    let conn = open_unused(backup)?;
    check_is_ours(&conn)?;
    Ok(conn)
}

/// Runs all checks, several at once on a connection each. `open` makes further connections. `on_progress` gets how many
/// have begun, and may end them.
///
/// # Errors
/// The database cannot be read.
pub fn run_all(
    first: Connection,
    open: impl Fn() -> anyhow::Result<Connection>,
    heads: &[SealHead],
    on_progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
) -> anyhow::Result<Vec<Problem>> {
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get).min(MAX_THREADS);
    let mut connections = vec![first];
    for _ in 1..threads {
        connections.push(open()?);
    }
    let (begun, is_ended) = (AtomicUsize::new(0), AtomicBool::new(false));
    let results: Vec<Mutex<Vec<Problem>>> = CHECKS.iter().map(|_| Mutex::default()).collect();
    let run = |conn: &Connection| -> anyhow::Result<()> {
        conn.pragma_update(None, "cache_size", CACHE_KIB)?;
        while !is_ended.load(Ordering::Relaxed) {
            let index = begun.fetch_add(1, Ordering::Relaxed);
            let Some(check) = CHECKS.get(index) else { break };
            *results[index].lock() =
                check.run(conn, heads, &|| is_ended.load(Ordering::Relaxed))?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let running: Vec<_> =
            connections.into_iter().map(|conn| scope.spawn(move || run(&conn))).collect();
        while running.iter().any(|thread| !thread.is_finished()) {
            if on_progress(begun.load(Ordering::Relaxed).min(CHECKS.len())).is_break() {
                is_ended.store(true, Ordering::Relaxed);
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        running.into_iter().try_for_each(|thread| match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })?;
    let mut found: Vec<Vec<Problem>> = results.into_iter().map(Mutex::into_inner).collect();
    // The other checks report the same damage again, or what follows from it.
    if found.first().is_some_and(|damage| !damage.is_empty()) {
        found.truncate(1);
    }
    Ok(found.into_iter().flatten().collect())
}

/// All checks. The first one reads each page and each index; the others rely on it.
pub const CHECKS: &[Check] = &[
    Check::new(
        "pages and indexes",
        DAMAGED,
        formatcp!("PRAGMA integrity_check({MAX_DAMAGED})"),
    ),
    // It takes longest, so it comes early.
    Check { name: "seals", rule: Rule::Seals },
    Check::new(
        "ids",
        "an id was given that the counters do not know",
        "SELECT 'event ' || max(id) FROM events HAVING max(id) > (SELECT event FROM counters)
         UNION ALL SELECT 'job ' || max(id) FROM jobs HAVING max(id) > (SELECT job FROM counters)
         UNION ALL SELECT 'outcome ' || max(id) FROM attempts HAVING max(id) > (SELECT attempt FROM counters)",
    ),
    Check::new(
        "jobs of events",
        "an event lacks one of its jobs",
        "SELECT 'event ' || e.id FROM events e
         WHERE (SELECT count(*) FROM jobs j WHERE j.id BETWEEN e.first_job AND e.last_job AND j.event = e.id)
             < e.last_job - e.first_job + 1
           AND NOT EXISTS (SELECT 1 FROM expansions x WHERE x.event = e.id AND x.job IS NULL)
           AND NOT EXISTS (SELECT 1 FROM partial_removals p WHERE p.event = e.id)",
    ),
    Check::new(
        "events of jobs",
        "a job belongs to no event",
        "SELECT 'job ' || j.id FROM jobs j LEFT JOIN events e ON e.id = j.event
         WHERE e.id IS NULL
           OR (j.appended_to IS NULL AND j.id NOT BETWEEN e.first_job AND e.last_job)",
    ),
    Check::new(
        "names",
        "a source or handler has no name",
        "SELECT 'event ' || id FROM events WHERE source NOT IN (SELECT id FROM sources)
         UNION ALL SELECT 'job ' || id FROM jobs WHERE source NOT IN (SELECT id FROM sources)
           OR handler NOT IN (SELECT id FROM handlers)",
    ),
    Check::new(
        "outcomes of jobs",
        "an attempt has no outcome, or an outcome has no attempt",
        formatcp!(
            "SELECT 'job ' || j.id FROM jobs j
             WHERE NOT {IS_UNRELEASED}
               AND (SELECT count(*) FROM attempts a WHERE a.job = j.id AND a.attempt <= j.attempt)
                 <> j.attempt - ({IS_RUNNING})"
        ),
    ),
    Check::new(
        "jobs of outcomes",
        "an outcome belongs to no attempt of a job",
        "SELECT 'outcome ' || a.id FROM attempts a LEFT JOIN jobs j ON j.id = a.job
         WHERE j.id IS NULL OR a.attempt > j.attempt",
    ),
    Check::new(
        "successes",
        "a job succeeded without a successful attempt, or has one and did not succeed",
        formatcp!(
            "SELECT 'job ' || j.id FROM jobs j
             WHERE ({IS_SUCCEEDED}) <> EXISTS (SELECT 1 FROM attempts a WHERE a.job = j.id
               AND a.attempt = j.attempt AND a.outcome = 'succeeded')"
        ),
    ),
    Check::new(
        "items",
        "an output of `split` belongs to no job, or a job lacks its output",
        "SELECT 'item of job ' || i.job FROM items i LEFT JOIN jobs j ON j.id = i.job
         WHERE j.item IS NULL
         UNION ALL SELECT 'job ' || j.id FROM jobs j JOIN events e ON e.id = j.event
         WHERE j.item IS NOT NULL AND e.removed_bytes IS NULL
           AND NOT EXISTS (SELECT 1 FROM items i WHERE i.job = j.id)",
    ),
    Check::new(
        "removed bodies",
        "a body is removed, but something of it is left, or a job still needs it",
        formatcp!(
            "SELECT 'event ' || e.id FROM events e WHERE e.removed_bytes IS NOT NULL
             AND (e.headers <> x'' OR e.query IS NOT NULL
               OR EXISTS (SELECT 1 FROM duplicates d WHERE d.event = e.id AND d.body IS NOT NULL)
               OR EXISTS (SELECT 1 FROM jobs j LEFT JOIN items i ON i.job = j.id
                 WHERE j.id BETWEEN e.first_job AND e.last_job
                   AND ({IS_UNFINISHED} OR {IS_UNRELEASED} OR i.job IS NOT NULL)))
             AND NOT EXISTS (SELECT 1 FROM partial_removals p WHERE p.event = e.id)"
        ),
    ),
    Check::new(
        "what belongs to events",
        "a row belongs to no event",
        "SELECT 'duplicate ' || d.id FROM duplicates d LEFT JOIN events e ON e.id = d.event WHERE e.id IS NULL
         UNION ALL SELECT 'deferred event ' || event FROM deferred_events WHERE event NOT IN (SELECT id FROM events)
         UNION ALL SELECT 'range of jobs from ' || first_job FROM expansions
           WHERE event NOT IN (SELECT id FROM events)
         UNION ALL SELECT 'retry of event ' || event FROM dead_job_retries
           WHERE event NOT IN (SELECT id FROM events)
         UNION ALL SELECT 'removal of event ' || event FROM partial_removals
           WHERE event NOT IN (SELECT id FROM events)",
    ),
    Check {
        name: "settled jobs",
        rule: Rule::Query {
            problem: "a recorded end of a job names no job, source or handler, or no final state",
            sql: formatcp!(
                "SELECT 'settlement ' || id FROM (SELECT *, ended_as AS state FROM settlements)
                 WHERE job > (SELECT job FROM counters)
                   OR source NOT IN (SELECT id FROM sources) OR handler NOT IN (SELECT id FROM handlers)
                   OR {IS_UNFINISHED} OR {IS_UNRELEASED}"
            ),
            table: Some("settlements"),
        },
    },
    Check::new(
        "numbers of jobs",
        "the number of a handler's jobs, or of a group of failures, is wrong",
        formatcp!(
            "SELECT 'handler ' || h.name FROM handlers h LEFT JOIN (SELECT handler,
               sum({IS_WAITING}) AS queued, sum({IS_RUNNING}) AS running, sum({IS_DEAD}) AS dead
               FROM jobs WHERE {IS_INDEXED} GROUP BY handler) c ON c.handler = h.id
             WHERE h.queued <> coalesce(c.queued, 0) OR h.running <> coalesce(c.running, 0)
               OR h.dead <> coalesce(c.dead, 0)
             UNION ALL SELECT 'group ' || g.id FROM failure_groups g LEFT JOIN (SELECT failure,
               sum(NOT {IS_DEAD}) AS failing, sum({IS_DEAD}) AS dead
               FROM jobs WHERE failure IS NOT NULL GROUP BY failure) c ON c.failure = g.id
             WHERE g.failing IS NOT c.failing OR g.dead IS NOT c.dead
             UNION ALL SELECT 'job ' || id FROM jobs WHERE failure IS NOT NULL
               AND failure NOT IN (SELECT id FROM failure_groups)
             UNION ALL SELECT 'job ' || id FROM jobs WHERE {IS_DEAD} AND failure IS NULL"
        ),
    ),
    Check::new(
        "block index",
        "the block index lacks a row, so lists do not find it",
        "SELECT 'event ' || e.id FROM events e LEFT JOIN event_blocks b ON b.block = e.id >> 10
           AND b.source = e.source WHERE b.block IS NULL
         UNION ALL SELECT 'job ' || j.id FROM jobs j LEFT JOIN job_blocks b ON b.block = j.id >> 10
           AND b.handler = j.handler AND b.source = j.source WHERE b.block IS NULL
         UNION ALL SELECT 'outcome ' || a.id FROM attempts a JOIN jobs j ON j.id = a.job
           LEFT JOIN attempt_blocks b ON b.block = a.id >> 10 AND b.handler = j.handler AND b.source = j.source
           WHERE b.block IS NULL",
    ),
];
