//! `rate`: when the next job of a handler may start. Arithmetic alone, on a clock that is given.
//!
//! Starts are counted by the moment at which they were handed out. The next one's moment goes by the
//! last one's, but may come up to `LATE_US` after it without moving those that follow: so that the
//! time a claim takes does not add up. What was missed for longer is never caught up. The gap between
//! two moments is a little over period / count, so that whatever comes late by as much, no period has
//! more than `count` starts (this is GCRA, ITU-T I.371, with the tolerance taken off the rate).

use crate::config::Rate;

/// What a start may come late by, with the others where they were.
const LATE_US: i64 = 10_000;

/// What a job may take from being handed out to its first instruction, one more than another.
const MARGIN_US: i64 = 5_000;

/// Starts nearer to each other than this are asked for together.
const TICK_US: i64 = 2_000;

/// The starts of one handler, evenly spread. All moments in microseconds on the trail's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimiter {
    rate: Rate,
    gap_us: i64,
    /// Nothing starts before.
    next_us: i64,
}

impl RateLimiter {
    pub fn new(rate: Rate) -> Self {
        Self { rate, gap_us: gap_us(rate), next_us: i64::MIN }
    }

    /// Another rate, from the last start on.
    pub fn set_rate(&mut self, rate: Rate) {
        if rate != self.rate {
            let last_us = self.next_us.saturating_sub(self.gap_us);
            *self = Self::new(rate);
            self.next_us = last_us.saturating_add(self.gap_us);
        }
    }

    /// What an earlier process left: no start before `at_us`. Never longer than two starts are apart,
    /// whatever the clock did.
    pub fn restore(&mut self, at_us: i64, now_us: i64) {
        let at_us = at_us.saturating_add(LATE_US);
        self.next_us = self.next_us.max(at_us.min(now_us + self.gap_us + 2 * LATE_US));
    }

    /// How long after a start the next one is, in milliseconds: what is kept over restarts.
    pub fn gap_ms(&self) -> i64 {
        self.gap_us / 1000 + 1
    }

    /// When jobs are to be asked for.
    pub fn due_us(&self) -> i64 {
        let others = (TICK_US - 1) / self.gap_us;
        self.next_us.saturating_add(others * self.gap_us)
    }

    /// How many may start now.
    pub fn permits_now(&self, now_us: i64) -> usize {
        if now_us < self.due_us() {
            return 0;
        }
        let late_us = now_us.saturating_sub(self.next_us).min(LATE_US);
        1 + usize::try_from(late_us / self.gap_us).unwrap_or(0)
    }

    /// So many were handed out.
    pub fn started(&mut self, count: usize, now_us: i64) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        if count > 0 {
            let from_us = self.next_us.max(now_us - LATE_US);
            self.next_us = from_us.saturating_add(self.gap_us.saturating_mul(count));
        }
    }
}

/// In a period that begins with a start there are those whose moments are less than the period and
/// what they may be late by apart: with this gap at most `count`.
fn gap_us(rate: Rate) -> i64 {
    let period_us = i64::try_from(rate.period.as_micros()).unwrap_or(i64::MAX / 4);
    (period_us + LATE_US + MARGIN_US).div_euclid(i64::from(rate.count)) + 1
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

    /// A handler that always has jobs, seen for so long: the moment of each start. `waits` are how
    /// long each claim takes, over and over; `pauses` how long before it nothing was ready.
    fn starts(rate: Rate, length_us: i64, waits: &[i64], pauses: &[i64]) -> Vec<i64> {
        let (mut pace, mut now_us, mut starts) = (RateLimiter::new(rate), START_US, Vec::new());
        for round in 0.. {
            now_us = now_us.max(pace.due_us()) + pauses[round % pauses.len()];
            if now_us >= START_US + length_us {
                break;
            }
            let count = pace.permits_now(now_us);
            assert!(count > 0, "asked when it was due");
            now_us += waits[round % waits.len()];
            pace.started(count, now_us);
            starts.extend(std::iter::repeat_n(now_us, count));
        }
        starts
    }

    /// The most in any period.
    fn most(starts: &[i64], period: Duration) -> usize {
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
            prop_assert!(most(&starts, rate.period) <= rate.count as usize);
        }

        #[test]
        fn nor_over_a_restart(count in 1..300_u32, wait in 0..8_000_i64, gone in 0..400_000_i64) {
            let rate = rate(count, 1);
            let mut all = starts(rate, 1_500_000, &[wait], &[0]);
            // What the writer keeps goes by when it wrote, which is before the start.
            let mut kept = RateLimiter::new(rate);
            let last = *all.last().unwrap();
            let together = all.iter().filter(|&&at| at == last).count() as i64;
            let now_us = last + gone;
            kept.restore(last - wait + together * kept.gap_ms() * 1000, now_us);
            let mut now_us = now_us;
            while now_us < last + 2_000_000 {
                now_us = now_us.max(kept.due_us());
                let count = kept.permits_now(now_us);
                now_us += wait;
                kept.started(count, now_us);
                all.extend(std::iter::repeat_n(now_us, count));
            }
            prop_assert!(most(&all, rate.period) <= count as usize);
        }
    }

    #[test]
    fn starts_are_evenly_spread_and_the_time_of_a_claim_does_not_add_up() {
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
    fn what_was_missed_is_never_caught_up() {
        let mut pace = RateLimiter::new(rate(50, 1));
        pace.started(1, START_US);
        let later_us = START_US + 3_600_000_000;
        assert_eq!(pace.permits_now(later_us), 1);
        pace.started(1, later_us);
        assert_eq!(pace.permits_now(later_us), 0);
        assert!(pace.due_us() - later_us >= 10_000);
    }

    #[test]
    fn what_is_nearer_than_a_tick_is_asked_for_together() {
        let mut pace = RateLimiter::new(rate(2_000, 1));
        pace.started(1, START_US);
        assert!(pace.due_us() - START_US < LATE_US);
        let due_us = pace.due_us();
        assert_eq!((pace.permits_now(due_us - 1), pace.permits_now(due_us)), (0, 4));
    }

    #[test]
    fn another_rate_holds_from_the_last_start_on() {
        let mut pace = RateLimiter::new(rate(1, 3_600));
        pace.started(1, START_US);
        pace.set_rate(rate(10, 1));
        assert!(pace.due_us() <= START_US + 110_000);
        pace.set_rate(rate(1, 60));
        assert!(pace.due_us() >= START_US + 59_000_000);
    }

    #[test]
    fn a_clock_that_leapt_holds_nothing_for_longer_than_a_gap() {
        let mut pace = RateLimiter::new(rate(1, 60));
        pace.restore(START_US + 86_400_000_000, START_US);
        assert!(pace.due_us() <= START_US + 61_000_000);
    }
}
