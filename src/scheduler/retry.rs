//! The retry policy: a pure function from policy, history, outcome and a random number to the next step.
//!
//! The delay before the next attempt is `initial_delay × multiplier^(n−1)`, at most `max_delay`,
//! ± `jitter`. n counts the failures and timeouts since the first attempt or the last `retry`.

use std::time::Duration;

use crate::config::Retry;
use crate::domain::{AttemptResult, NextStep, Outcome};

/// The longest delay that a handler may request, regardless of `max_delay`.
pub const MAX_REQUESTED_DELAY: Duration = Duration::from_secs(86_400);

/// The shortest delay that a handler may request. Without it, `Retry-After: 0` would make the server
/// call the handler without a pause.
pub const MIN_REQUESTED_DELAY: Duration = Duration::from_secs(1);

/// Consecutive crashes that do not count as failures. Each further crash counts.
pub const UNCOUNTED_CRASHES: u32 = 3;

/// The history of a job whose attempt has ended.
#[derive(Clone, Copy, Debug)]
pub struct JobHistory {
    /// Attempts that failed or timed out before this one.
    pub failures: u32,
    /// The time since its first attempt or last `retry`, without the time that its handler was paused or
    /// its circuit breaker open.
    pub age: Duration,
    /// Consecutive server crashes during this job, including this one.
    pub crashes: u32,
}

/// Decides the next step of a job. `random` returns a number from 0 to 1; it is called only if there is
/// a delay.
pub fn next_step(
    policy: &Retry,
    history: JobHistory,
    attempt_result: &AttemptResult,
    random: fn() -> f64,
) -> NextStep {
    let is_counted_failure = match attempt_result.outcome {
        Outcome::Succeeded => return NextStep::Succeeded,
        Outcome::Failed if attempt_result.is_permanent => {
            return NextStep::Dead(attempt_result.detail.clone());
        }
        Outcome::Failed | Outcome::TimedOut => true,
        Outcome::Interrupted => history.crashes > UNCOUNTED_CRASHES,
        Outcome::Deferred => false,
    };
    let failures = history.failures.saturating_add(u32::from(is_counted_failure));
    if is_counted_failure && failures >= policy.max_attempts {
        return NextStep::Dead(attempt_result.detail.clone());
    }
    if history.age >= policy.max_age
        && (is_counted_failure || attempt_result.outcome == Outcome::Deferred)
    {
        let detail = &attempt_result.detail;
        return NextStep::Dead(format!("{detail} (given up after {:?})", policy.max_age));
    }
    let delay = match (attempt_result.outcome, attempt_result.retry_after) {
        (Outcome::Interrupted, None) if !is_counted_failure => Duration::ZERO,
        (_, Some(requested)) => requested.clamp(MIN_REQUESTED_DELAY, MAX_REQUESTED_DELAY),
        _ => backoff(policy, failures.max(1), random()),
    };
    NextStep::Retry { delay, failures }
}

/// Returns the number of the last attempt that the policy allows, given the current attempt.
pub fn max_attempts(policy: &Retry, attempt: u32, failures: u32) -> u32 {
    attempt.saturating_add(policy.max_attempts.saturating_sub(failures).saturating_sub(1))
}

fn backoff(policy: &Retry, n: u32, random: f64) -> Duration {
    let max_delay_secs = policy.max_delay.as_secs_f64();
    let exponent = f64::from(n.saturating_sub(1));
    let delay_secs =
        (policy.initial_delay.as_secs_f64() * policy.multiplier.powf(exponent)).min(max_delay_secs);
    let delay_secs = if delay_secs.is_finite() { delay_secs } else { max_delay_secs };
    let jitter_factor = 1.0 + policy.jitter * (2.0 * random - 1.0);
    Duration::try_from_secs_f64(delay_secs * jitter_factor).unwrap_or(policy.max_delay)
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

    fn attempt_result(outcome: Outcome) -> AttemptResult {
        AttemptResult::new(outcome, "exit 7")
    }

    fn check(failures: u32, attempt_result: &AttemptResult, expected: &NextStep) {
        let history = JobHistory { failures, age: Duration::ZERO, crashes: 0 };
        assert_eq!(next_step(&policy(), history, attempt_result, || 0.5), *expected);
    }

    fn retry_in(secs: u64, failures: u32) -> NextStep {
        NextStep::Retry { delay: Duration::from_secs(secs), failures }
    }

    #[test]
    fn delays_grow_by_the_multiplier_until_the_last_attempt() {
        check(0, &attempt_result(Outcome::Failed), &retry_in(5, 1));
        check(1, &attempt_result(Outcome::TimedOut), &retry_in(10, 2));
        check(2, &attempt_result(Outcome::Failed), &retry_in(20, 3));
        check(3, &attempt_result(Outcome::Failed), &NextStep::Dead("exit 7".into()));
    }

    #[test]
    fn no_delay_is_longer_than_max_delay_however_many_attempts_failed() {
        let many = Retry { max_attempts: u32::MAX, ..policy() };
        for failures in [4, 100, 10_000_000] {
            let history = JobHistory { failures, age: Duration::ZERO, crashes: 0 };
            let found = next_step(&many, history, &attempt_result(Outcome::Failed), || 0.5);
            assert_eq!(found, retry_in(60, failures + 1));
        }
    }

    #[test]
    fn jitter_shortens_or_lengthens_a_delay() {
        let history = JobHistory { failures: 0, age: Duration::ZERO, crashes: 0 };
        let wait = |random: fn() -> f64| match next_step(
            &policy(),
            history,
            &attempt_result(Outcome::Failed),
            random,
        ) {
            NextStep::Retry { delay, .. } => delay.as_millis(),
            other => panic!("{other:?}"),
        };
        assert_eq!((wait(|| 0.0), wait(|| 1.0)), (4000, 6000));
    }

    #[test]
    fn a_crash_is_not_counted_until_the_fourth_in_a_row() {
        for (crashes, expected) in [(0, retry_in(0, 3)), (1, retry_in(0, 3)), (3, retry_in(0, 3))] {
            let history = JobHistory { failures: 3, age: Duration::MAX, crashes };
            assert_eq!(
                next_step(&policy(), history, &attempt_result(Outcome::Interrupted), || 0.5),
                expected
            );
        }
        let fourth = JobHistory { failures: 3, age: Duration::ZERO, crashes: 4 };
        let found = next_step(&policy(), fourth, &attempt_result(Outcome::Interrupted), || 0.5);
        assert_eq!(found, NextStep::Dead("exit 7".into()));
    }

    #[test]
    fn an_attempt_that_could_not_start_waits_and_is_never_counted_or_dead_by_max_age() {
        let wait = Some(Duration::from_secs(10));
        let could_not_start =
            AttemptResult { retry_after: wait, ..attempt_result(Outcome::Interrupted) };
        let history = JobHistory { failures: 3, age: Duration::MAX, crashes: 0 };
        assert_eq!(next_step(&policy(), history, &could_not_start, || 0.5), retry_in(10, 3));
    }

    #[test]
    fn a_deferred_attempt_waits_as_requested_from_a_second_to_a_day_and_is_no_failure() {
        let requested = |secs| AttemptResult {
            retry_after: Some(Duration::from_secs(secs)),
            ..attempt_result(Outcome::Deferred)
        };
        check(3, &requested(600), &retry_in(600, 3));
        check(3, &requested(100_000), &retry_in(86_400, 3));
        check(3, &requested(0), &retry_in(1, 3));
        let failed = AttemptResult {
            retry_after: Some(Duration::from_millis(1)),
            ..attempt_result(Outcome::Failed)
        };
        check(0, &failed, &retry_in(1, 1));
        check(0, &attempt_result(Outcome::Deferred), &retry_in(5, 0));
    }

    #[test]
    fn a_permanent_failure_is_dead_at_once() {
        let dead = AttemptResult { is_permanent: true, ..attempt_result(Outcome::Failed) };
        check(0, &dead, &NextStep::Dead("exit 7".into()));
    }

    #[test]
    fn a_job_older_than_max_age_dies_when_an_attempt_ends_without_success() {
        let history = JobHistory { failures: 0, age: Duration::from_secs(3600), crashes: 0 };
        assert!(matches!(
            next_step(&policy(), history, &attempt_result(Outcome::Failed), || 0.5),
            NextStep::Dead(_)
        ));
        let succeeded = next_step(&policy(), history, &attempt_result(Outcome::Succeeded), || 0.5);
        assert_eq!(succeeded, NextStep::Succeeded);
    }

    #[test]
    fn the_number_of_the_last_attempt_moves_with_attempts_that_did_not_count() {
        assert_eq!(max_attempts(&policy(), 1, 0), 4);
        assert_eq!(max_attempts(&policy(), 3, 0), 6);
        assert_eq!(max_attempts(&policy(), 4, 3), 4);
    }
}
