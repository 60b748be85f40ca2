//! `rate_limit` of a handler: computes when its next job may start. Pure arithmetic on a given clock.
//!
//! This is the generic cell rate algorithm (GCRA, ITU-T I.371), with the interval lengthened to absorb
//! late starts. A start counts from the moment at which the job is handed to a worker. Each start has a
//! scheduled time, one interval after that of the previous start. A start may be late by up to
//! `MAX_LATENESS_US` without moving the next ones, so that claim latency does not accumulate. A start
//! that is later than that moves the schedule: missed starts are never caught up. The interval is a
//! little longer than period / count, so that no period has more than `count` starts even if one of
//! them is late.

use crate::config::Rate;

/// How late a start may be without moving the scheduled times of the next ones.
const MAX_LATENESS_US: i64 = 10_000;

/// Maximum variation of the time between handing out a job and its start.
const MAX_JITTER_US: i64 = 5_000;

/// Starts that are closer to each other than this are claimed together.
const TICK_US: i64 = 2_000;

/// The rate limit of one handler: evenly spread starts. All times are microseconds on the database
/// clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimiter {
    rate: Rate,
    interval_us: i64,
    /// No job starts before.
    next_us: i64,
}

impl RateLimiter {
    pub fn new(rate: Rate) -> Self {
        Self { rate, interval_us: interval_us(rate), next_us: i64::MIN }
    }

    /// Changes the rate, counted from the last start.
    pub fn set_rate(&mut self, rate: Rate) {
        if rate != self.rate {
            let last_us = self.next_us.saturating_sub(self.interval_us);
            *self = Self::new(rate);
            self.next_us = last_us.saturating_add(self.interval_us);
        }
    }

    /// Restores what an earlier process left: no job starts before `at_us`. The wait is never longer
    /// than one interval, so that a clock that jumped cannot hold jobs back.
    pub fn restore(&mut self, at_us: i64, now_us: i64) {
        let at_us = at_us.saturating_add(MAX_LATENESS_US);
        self.next_us = self.next_us.max(at_us.min(now_us + self.interval_us + 2 * MAX_LATENESS_US));
    }

    /// The interval between two starts in milliseconds. The database keeps it over restarts.
    pub fn interval_ms(&self) -> i64 {
        self.interval_us / 1000 + 1
    }

    /// Returns when to make the next claim.
    pub fn due_us(&self) -> i64 {
        let within_tick = (TICK_US - 1) / self.interval_us;
        self.next_us.saturating_add(within_tick * self.interval_us)
    }

    /// Returns how many jobs may start now.
    pub fn permits_now(&self, now_us: i64) -> usize {
        if now_us < self.due_us() {
            return 0;
        }
        let late_us = now_us.saturating_sub(self.next_us).min(MAX_LATENESS_US);
        1 + usize::try_from(late_us / self.interval_us).unwrap_or(0)
    }

    /// Records that `count` jobs were handed out.
    pub fn record_starts(&mut self, count: usize, now_us: i64) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        if count > 0 {
            let from_us = self.next_us.max(now_us - MAX_LATENESS_US);
            self.next_us = from_us.saturating_add(self.interval_us.saturating_mul(count));
        }
    }
}

/// The interval between two starts. A period that begins with a start holds the starts scheduled
/// within the period plus their possible lateness: with this interval, at most `count`.
fn interval_us(rate: Rate) -> i64 {
    let period_us = i64::try_from(rate.period.as_micros()).unwrap_or(i64::MAX / 4);
    (period_us + MAX_LATENESS_US + MAX_JITTER_US).div_euclid(i64::from(rate.count)) + 1
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const START_US: i64 = 1_700_000_000_000_000;

    fn rate(count: u32, secs: u64) -> Rate {
        Rate { count, period: Duration::from_secs(secs) }
    }

    /// The start times of a handler that always has jobs, over `length_us`. `waits` are the durations of
    /// its claims, cycled; `pauses` are the times without a ready job before each claim, cycled.
    fn starts(rate: Rate, length_us: i64, waits: &[i64], pauses: &[i64]) -> Vec<i64> {
        let (mut limiter, mut now_us, mut starts) = (RateLimiter::new(rate), START_US, Vec::new());
        for round in 0.. {
            now_us = now_us.max(limiter.due_us()) + pauses[round % pauses.len()];
            if now_us >= START_US + length_us {
                break;
            }
            let count = limiter.permits_now(now_us);
            assert!(count > 0, "asked when it was due");
            now_us += waits[round % waits.len()];
            limiter.record_starts(count, now_us);
            starts.extend(std::iter::repeat_n(now_us, count));
        }
        starts
    }

    /// The largest number of starts in any period.
    fn max_in_any_period(starts: &[i64], period: Duration) -> usize {
        let period_us = i64::try_from(period.as_micros()).unwrap();
        let within =
            |from: usize| starts[from..].partition_point(|at| at - starts[from] < period_us);
        (0..starts.len()).map(within).max().unwrap_or(0)
    }

    fn rates() -> impl Strategy<Value = Rate> {
        let count = prop_oneof![1..5_u32, 1..200_u32, 1..5_000_u32];
        (count, prop_oneof![Just(1), Just(60), Just(3_600)]).prop_map(|(n, secs)| rate(n, secs))
    }

    proptest! {
        #[test]
        fn no_period_has_more_starts_than_its_count(
            rate in rates(),
            waits in prop::collection::vec(prop_oneof![0..3_000_i64, 0..40_000_i64, 0..2_000_000_i64], 1..20),
            pauses in prop::collection::vec(prop_oneof![9 => Just(0), 1 => 0..5_000_000_i64], 1..20),
        ) {
            let length_us = 3 * i64::try_from(rate.period.as_micros()).unwrap();
            let starts = starts(rate, length_us.min(600_000_000), &waits, &pauses);
            prop_assert!(max_in_any_period(&starts, rate.period) <= rate.count as usize);
        }

        #[test]
        fn no_period_across_a_restart_has_more_starts_than_its_count(count in 1..300_u32, wait in 0..8_000_i64, downtime_us in 0..400_000_i64) {
            let rate = rate(count, 1);
            let mut all = starts(rate, 1_500_000, &[wait], &[0]);
            // The writer stores a time that counts from its commit, which is before the start.
            let mut restored = RateLimiter::new(rate);
            let last = *all.last().unwrap();
            let together = all.iter().filter(|&&at| at == last).count() as i64;
            let now_us = last + downtime_us;
            restored.restore(last - wait + together * restored.interval_ms() * 1000, now_us);
            let mut now_us = now_us;
            while now_us < last + 2_000_000 {
                now_us = now_us.max(restored.due_us());
                let count = restored.permits_now(now_us);
                now_us += wait;
                restored.record_starts(count, now_us);
                all.extend(std::iter::repeat_n(now_us, count));
            }
            prop_assert!(max_in_any_period(&all, rate.period) <= count as usize);
        }
    }

    #[test]
    fn starts_are_evenly_spread_and_claim_latency_does_not_accumulate() {
        for (count, secs) in [(1, 1), (50, 1), (600, 60), (1_000, 1), (20_000, 1)] {
            let starts = starts(rate(count, secs), 60_000_000, &[700, 2_500, 900], &[0]);
            let wanted = f64::from(count) * 60.0 / secs as f64;
            let share = starts.len() as f64 / wanted;
            assert!((0.97..=1.0).contains(&share), "{count}/{secs}s: {share} of the rate");
            let apart = starts.windows(2).map(|two| two[1] - two[0]);
            let longest = apart.max().unwrap_or(0);
            let even_us = 1_015_000 * secs as i64 / i64::from(count);
            assert!(longest <= even_us + 5_000, "{count}/{secs}s: {longest} µs without a start");
        }
    }

    #[test]
    fn missed_starts_are_never_caught_up() {
        let mut limiter = RateLimiter::new(rate(50, 1));
        limiter.record_starts(1, START_US);
        let later_us = START_US + 3_600_000_000;
        assert_eq!(limiter.permits_now(later_us), 1);
        limiter.record_starts(1, later_us);
        assert_eq!(limiter.permits_now(later_us), 0);
        assert!(limiter.due_us() - later_us >= 10_000);
    }

    #[test]
    fn starts_closer_than_a_tick_are_claimed_together() {
        let mut limiter = RateLimiter::new(rate(2_000, 1));
        limiter.record_starts(1, START_US);
        assert!(limiter.due_us() - START_US < MAX_LATENESS_US);
        let due_us = limiter.due_us();
        assert_eq!((limiter.permits_now(due_us - 1), limiter.permits_now(due_us)), (0, 4));
    }

    #[test]
    fn a_changed_rate_counts_from_the_last_start() {
        let mut limiter = RateLimiter::new(rate(1, 3_600));
        limiter.record_starts(1, START_US);
        limiter.set_rate(rate(10, 1));
        assert!(limiter.due_us() <= START_US + 110_000);
        limiter.set_rate(rate(1, 60));
        assert!(limiter.due_us() >= START_US + 59_000_000);
    }

    #[test]
    fn a_clock_jump_delays_no_start_for_longer_than_an_interval() {
        let mut limiter = RateLimiter::new(rate(1, 60));
        limiter.restore(START_US + 86_400_000_000, START_US);
        assert!(limiter.due_us() <= START_US + 61_000_000);
    }
}
