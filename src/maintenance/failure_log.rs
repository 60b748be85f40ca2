//! The log lines about rejections and dead jobs. Their form is fixed, because other programs read them
//! (docs/operations.md), and strangers can cause them, so their number is bounded.
//!
//! The first lines of a group within a minute are written as they come. The rest become one line with their
//! count. A group is one kind of failure of a source and an address, or of a source and a handler.

use std::collections::HashMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use log::Level;
use parking_lot::Mutex;

use crate::domain;
use crate::log::{FIXED_FORM, redactor};
use crate::store::dead_job::DeadJob;
use crate::store::rejections::RejectionRow;

/// The period of the limits.
const PERIOD: Duration = Duration::from_secs(60);

/// Maximum number of lines of a group in a period, plus one with the count of the rest. fail2ban bans after
/// five by default.
const MAX_LINES: u32 = 5;

/// Maximum number of groups in a period. Beyond it, rejections are counted without their address, and dead
/// jobs without their kind.
const MAX_GROUPS: usize = 100;

/// Writes the lines about rejections and dead jobs.
#[derive(Debug, Default)]
pub struct FailureLog {
    rejections: Mutex<LineLimiter>,
    dead_jobs: Mutex<LineLimiter>,
}

impl FailureLog {
    /// Logs rejections. Their reasons are redacted already.
    pub fn log_rejections(&self, rows: &[RejectionRow]) {
        if rows.is_empty() {
            return;
        }
        let now = Instant::now();
        let mut limiter = self.rejections.lock();
        // The last row of an hour may add nothing.
        for row in rows.iter().filter(|row| row.count > 0) {
            let RejectionRow { status, source, ip, reason, count, .. } = row;
            let text = |ip: &str| {
                let source = source.as_deref().unwrap_or("-");
                let ip = if ip.is_empty() { "-" } else { ip };
                format!("rejected {status} source={source} ip={ip} reason={reason:?}")
            };
            let key = hash(&(status, source, domain::client_network(ip), kind(reason)));
            let line = match limiter.has_room(key) {
                true => Line { key, text: text(ip) },
                // Of several addresses, so it has none.
                false => Line { key: hash(&(status, source)), text: text("") },
            };
            limiter.add(line, *count, now).into_iter().for_each(write_rejection);
        }
    }

    /// Logs a dead job, with secrets redacted.
    pub fn log_dead_job(&self, dead_job: &DeadJob) {
        // Redacted before it is quoted: the escapes could hide a secret.
        let detail = redactor().redact(&dead_job.detail).into_owned();
        let dead_job = DeadJob { detail, ..dead_job.clone() };
        let DeadJob { source, handler, detail, .. } = &dead_job;
        let mut limiter = self.dead_jobs.lock();
        let key = hash(&(source, handler, kind(detail)));
        let key = if limiter.has_room(key) { key } else { hash(&(source, handler)) };
        let line = Line { key, text: dead_job.to_string() };
        limiter.add(line, 1, Instant::now()).into_iter().for_each(write_dead_job);
    }

    /// Logs the counts of the groups whose period is over, or with `all` those of all groups.
    pub fn log_counts(&self, all: bool) {
        let now = Instant::now();
        let take = |limiter: &Mutex<LineLimiter>| limiter.lock().take_counts(now, all);
        take(&self.rejections).into_iter().for_each(write_rejection);
        take(&self.dead_jobs).into_iter().for_each(write_dead_job);
    }
}

/// A stranger can cause a rejection, so it is nothing that an operator has to look at.
fn write_rejection(line: CountedLine) {
    log::log!(target: FIXED_FORM, Level::Info, "{line}");
}

/// A dead job waits for a person.
fn write_dead_job(line: CountedLine) {
    log::log!(target: FIXED_FORM, Level::Warn, "{line}");
}

/// The letters of a reason that all reasons of its kind have in common.
fn kind(reason: &str) -> String {
    domain::reason_kind(reason).collect()
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// A line without its count, and the key of its group.
struct Line {
    key: u64,
    text: String,
}

/// A line to write. With a count above 1 it describes the last of them.
#[derive(Debug, PartialEq, Eq)]
struct CountedLine {
    text: String,
    count: i64,
}

impl fmt::Display for CountedLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} count={}", self.text, self.count)
    }
}

/// Decides which lines are written.
#[derive(Debug, Default)]
struct LineLimiter(HashMap<u64, LineGroup>);

/// The lines of one group in its current period.
#[derive(Debug)]
struct LineGroup {
    since: Instant,
    written: u32,
    /// How many are not written, and the last of them.
    rest: Option<CountedLine>,
}

impl LineLimiter {
    fn has_room(&self, key: u64) -> bool {
        self.0.len() < MAX_GROUPS || self.0.contains_key(&key)
    }

    /// Adds a line that stands for `count` failures. Returns it if it must be written now.
    fn add(&mut self, line: Line, count: i64, now: Instant) -> Option<CountedLine> {
        let Line { key, text } = line;
        let new = LineGroup { since: now, written: 0, rest: None };
        let group = self.0.entry(key).or_insert(new);
        if group.written < MAX_LINES {
            group.written += 1;
            return Some(CountedLine { text, count });
        }
        let before = group.rest.as_ref().map_or(0, |rest| rest.count);
        group.rest = Some(CountedLine { text, count: before + count });
        None
    }

    /// Ends the groups whose period is over, or all, and returns the lines with their counts.
    fn take_counts(&mut self, now: Instant, all: bool) -> Vec<CountedLine> {
        let has_ended = |group: &LineGroup| all || now.duration_since(group.since) >= PERIOD;
        self.0.extract_if(|_, group| has_ended(group)).filter_map(|(_, group)| group.rest).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(key: u64) -> Line {
        Line { key, text: format!("line {key}") }
    }

    #[test]
    fn the_first_lines_of_a_group_are_written_and_the_rest_counted_for_each_period() {
        let (mut limiter, began) = (LineLimiter::default(), Instant::now());
        let written = |limiter: &mut LineLimiter, at| {
            (0..20).filter(|_| limiter.add(line(1), 3, at).is_some()).count()
        };
        assert_eq!(written(&mut limiter, began), 5);
        assert_eq!(limiter.take_counts(began, false), []);
        let ended = began + PERIOD;
        let rest = CountedLine { text: "line 1".to_owned(), count: 45 };
        assert_eq!(limiter.take_counts(ended, false), [rest]);
        assert_eq!(written(&mut limiter, ended), 5);
        assert_eq!(limiter.take_counts(ended, true).len(), 1);
        assert!(limiter.0.is_empty());
    }

    #[test]
    fn beyond_the_bound_a_new_group_has_no_room_until_a_period_ends() {
        let (mut limiter, now) = (LineLimiter::default(), Instant::now());
        for key in 0..100 {
            assert!(limiter.has_room(key));
            limiter.add(line(key), 1, now);
        }
        assert!(limiter.has_room(99) && !limiter.has_room(100));
        assert_eq!(limiter.take_counts(now + PERIOD, false), []);
        assert!(limiter.has_room(100));
    }

    #[test]
    fn a_detail_cannot_forge_another_field() {
        let dead_job = DeadJob {
            job: domain::JobId(7),
            event: domain::EventId(3),
            source: "a".to_owned(),
            handler: "b".to_owned(),
            attempts: 40,
            detail: "exit 1: \" count=9\nrejected 401 source=a ip=192.0.2.1 \u{202e}".to_owned(),
        };
        let expected = r#"dead job=7 event=3 source=a handler=b attempts=40 detail="exit 1: \" count=9\nrejected 401 source=a ip=192.0.2.1 \u{202e}""#;
        assert_eq!(dead_job.to_string(), expected);
    }
}
