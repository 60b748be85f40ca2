//! What happens after an attempt: one pure function of policy, count, outcome, age and chance.
//!
//! The wait before the next attempt is `first × factor^(n−1)`, at most `longest`, ± `jitter`, where
//! n counts what failed or timed out since the first attempt or the last `retry`.

use std::time::Duration;

use crate::config::Retry;
use crate::domain::{AttemptResult, Outcome};

/// A wait that a handler asked for is at most a day, whatever `longest` says.
pub const MAX_REQUESTED_DELAY: Duration = Duration::from_secs(86_400);

/// And at least a second: without an end to it, `Retry-After: 0` would have it called without a pause.
pub const ASKED_WAIT_MIN: Duration = Duration::from_secs(1);

/// From this crash in a row on, each counts as a failed attempt.
pub const FREE_CRASHES: u32 = 3;

/// What becomes of the job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NextStep {
    Succeeded,
    Dead(String),
    Again { wait: Duration, failures: u32 },
}

/// What is known of a job when its attempt has ended.
#[derive(Clone, Copy, Debug)]
pub struct JobHistory {
    /// Failed or timed out before this attempt.
    pub failures: u32,
    /// Since its first attempt or last `retry`, its handler's pauses apart.
    pub age: Duration,
    /// Ends of the server with this job running, in a row, this one included.
    pub crashes: u32,
}

/// Decides; `chance` gives a number from 0 to 1, and is asked only where there is a wait.
pub fn next_step(
    policy: &Retry,
    record: JobHistory,
    ended: &AttemptResult,
    chance: fn() -> f64,
) -> NextStep {
    let counts = match ended.outcome {
        Outcome::Succeeded => return NextStep::Succeeded,
        Outcome::Failed if ended.is_permanent => return NextStep::Dead(ended.detail.clone()),
        Outcome::Failed | Outcome::TimedOut => true,
        Outcome::Interrupted => record.crashes > FREE_CRASHES,
        Outcome::Deferred => false,
    };
    let failures = record.failures.saturating_add(u32::from(counts));
    if counts && failures >= policy.max_attempts {
        return NextStep::Dead(ended.detail.clone());
    }
    if record.age >= policy.max_age && (counts || ended.outcome == Outcome::Deferred) {
        let detail = &ended.detail;
        return NextStep::Dead(format!("{detail} (given up after {:?})", policy.max_age));
    }
    let wait = match (ended.outcome, ended.retry_after) {
        (Outcome::Interrupted, None) if !counts => Duration::ZERO,
        (_, Some(asked)) => asked.clamp(ASKED_WAIT_MIN, MAX_REQUESTED_DELAY),
        _ => backoff(policy, failures.max(1), chance()),
    };
    NextStep::Again { wait, failures }
}

/// The number after which this run of attempts ends, seen from attempt `attempt`.
pub fn max_attempts(policy: &Retry, attempt: u32, failures: u32) -> u32 {
    attempt.saturating_add(policy.max_attempts.saturating_sub(failures).saturating_sub(1))
}

fn backoff(policy: &Retry, n: u32, chance: f64) -> Duration {
    let longest = policy.max_delay.as_secs_f64();
    let exponent = f64::from(n.saturating_sub(1));
    let plain =
        (policy.initial_delay.as_secs_f64() * policy.multiplier.powf(exponent)).min(longest);
    let plain = if plain.is_finite() { plain } else { longest };
    let share = 1.0 + policy.jitter * (2.0 * chance - 1.0);
    Duration::try_from_secs_f64(plain * share).unwrap_or(policy.max_delay)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> Retry {
        Retry {
            max_attempts: 4,
            initial_delay: Duration::from_secs(5),
            multiplier: 2.0,
            max_delay: Duration::from_secs(60),
            jitter: 0.2,
            max_age: Duration::from_secs(3600),
        }
    }

    fn ended(outcome: Outcome) -> AttemptResult {
        AttemptResult::new(outcome, "exit 7")
    }

    fn check(failures: u32, ended: &AttemptResult, expected: &NextStep) {
        let record = JobHistory { failures, age: Duration::ZERO, crashes: 0 };
        assert_eq!(next_step(&policy(), record, ended, || 0.5), *expected);
    }

    fn again(secs: u64, failures: u32) -> NextStep {
        NextStep::Again { wait: Duration::from_secs(secs), failures }
    }

    #[test]
    fn waits_grow_by_the_factor_until_the_last_attempt() {
        check(0, &ended(Outcome::Failed), &again(5, 1));
        check(1, &ended(Outcome::TimedOut), &again(10, 2));
        check(2, &ended(Outcome::Failed), &again(20, 3));
        check(3, &ended(Outcome::Failed), &NextStep::Dead("exit 7".into()));
    }

    #[test]
    fn no_wait_is_longer_than_the_longest_however_many_failed() {
        let many = Retry { max_attempts: u32::MAX, ..policy() };
        for failures in [4, 100, 10_000_000] {
            let record = JobHistory { failures, age: Duration::ZERO, crashes: 0 };
            let found = next_step(&many, record, &ended(Outcome::Failed), || 0.5);
            assert_eq!(found, again(60, failures + 1));
        }
    }

    #[test]
    fn chance_moves_a_wait_by_the_jitter_either_way() {
        let record = JobHistory { failures: 0, age: Duration::ZERO, crashes: 0 };
        let wait = |chance: fn() -> f64| match next_step(
            &policy(),
            record,
            &ended(Outcome::Failed),
            chance,
        ) {
            NextStep::Again { wait, .. } => wait.as_millis(),
            other => panic!("{other:?}"),
        };
        assert_eq!((wait(|| 0.0), wait(|| 1.0)), (4000, 6000));
    }

    #[test]
    fn a_stop_of_the_server_is_not_the_jobs_fault_until_the_fourth_crash_in_a_row() {
        for (crashes, expected) in [(0, again(0, 3)), (1, again(0, 3)), (3, again(0, 3))] {
            let record = JobHistory { failures: 3, age: Duration::MAX, crashes };
            assert_eq!(
                next_step(&policy(), record, &ended(Outcome::Interrupted), || 0.5),
                expected
            );
        }
        let fourth = JobHistory { failures: 3, age: Duration::ZERO, crashes: 4 };
        let found = next_step(&policy(), fourth, &ended(Outcome::Interrupted), || 0.5);
        assert_eq!(found, NextStep::Dead("exit 7".into()));
    }

    #[test]
    fn what_could_not_be_started_now_waits_is_no_failure_and_never_dies_of_age() {
        let wait = Some(Duration::from_secs(10));
        let not_now = AttemptResult { retry_after: wait, ..ended(Outcome::Interrupted) };
        let record = JobHistory { failures: 3, age: Duration::MAX, crashes: 0 };
        assert_eq!(next_step(&policy(), record, &not_now, || 0.5), again(10, 3));
    }

    #[test]
    fn what_is_deferred_waits_as_asked_a_second_to_a_day_and_is_no_failure() {
        let asked = |secs| AttemptResult {
            retry_after: Some(Duration::from_secs(secs)),
            ..ended(Outcome::Deferred)
        };
        check(3, &asked(600), &again(600, 3));
        check(3, &asked(100_000), &again(86_400, 3));
        check(3, &asked(0), &again(1, 3));
        let failed =
            AttemptResult { retry_after: Some(Duration::from_millis(1)), ..ended(Outcome::Failed) };
        check(0, &failed, &again(1, 1));
        check(0, &ended(Outcome::Deferred), &again(5, 0));
    }

    #[test]
    fn a_handler_that_says_dead_is_believed_at_once() {
        let dead = AttemptResult { is_permanent: true, ..ended(Outcome::Failed) };
        check(0, &dead, &NextStep::Dead("exit 7".into()));
    }

    #[test]
    fn a_job_past_give_up_after_dies_when_an_attempt_ends_without_success() {
        let record = JobHistory { failures: 0, age: Duration::from_secs(3600), crashes: 0 };
        assert!(matches!(
            next_step(&policy(), record, &ended(Outcome::Failed), || 0.5),
            NextStep::Dead(_)
        ));
        let succeeded = next_step(&policy(), record, &ended(Outcome::Succeeded), || 0.5);
        assert_eq!(succeeded, NextStep::Succeeded);
    }

    #[test]
    fn the_last_attempts_number_moves_with_what_did_not_count() {
        assert_eq!(max_attempts(&policy(), 1, 0), 4);
        assert_eq!(max_attempts(&policy(), 3, 0), 6);
        assert_eq!(max_attempts(&policy(), 4, 3), 4);
    }
}
