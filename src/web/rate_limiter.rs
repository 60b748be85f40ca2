//! `rate_limit`: a sliding window. No period, whenever it begins, has more accepted requests than the
//! rate says.
//!
//! The window is a log of the moments at which requests were accepted. It is exact up to 4,096 requests
//! in a period. Beyond that, requests accepted within the same 4,096th of a period share an entry, which
//! counts until the last of them is a period old: never too many are accepted, and a place is free again
//! at most a 4,096th of a period late. An entry takes 24 bytes, a source at most 96 KiB and a few.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::rejection::Rejection;
use crate::config::Rate;
use crate::domain::SourceId;

const ENTRIES_MAX: u32 = 4096;

/// Requests accepted at one moment, or at nearly the same one. Moments are in nanoseconds.
#[derive(Clone, Copy, Debug)]
struct Entry {
    first_ns: u64,
    last_ns: u64,
    requests: u32,
}

/// The requests accepted within the last period.
#[derive(Debug)]
struct Window {
    entries: VecDeque<Entry>,
    entries_max: u32,
    /// Of all entries.
    requests: u64,
}

impl Window {
    fn new(entries_max: u32) -> Self {
        Self { entries: VecDeque::new(), entries_max, requests: 0 }
    }

    /// Counts a request, and gives the moment that it counts from; else how long to wait for a place.
    fn admit(&mut self, rate: Rate, now_ns: u64) -> Result<u64, u64> {
        let period_ns = u64::try_from(rate.period.as_nanos()).unwrap_or(u64::MAX);
        let now_ns = self.entries.back().map_or(now_ns, |last| now_ns.max(last.last_ns));
        while let Some(first) = self.entries.front()
            && now_ns - first.last_ns >= period_ns
        {
            self.requests -= u64::from(first.requests);
            self.entries.pop_front();
        }
        if self.requests >= u64::from(rate.count) {
            return Err(self.wait_ns(rate, period_ns, now_ns));
        }
        let share_ns = match rate.count > self.entries_max {
            true => period_ns / u64::from(self.entries_max),
            false => 0,
        };
        self.requests += 1;
        match self.entries.back_mut() {
            Some(last) if now_ns - last.first_ns < share_ns => {
                last.last_ns = now_ns;
                last.requests += 1;
            }
            _ => {
                let entry = Entry { first_ns: now_ns, last_ns: now_ns, requests: 1 };
                self.entries.push_back(entry);
            }
        }
        Ok(now_ns)
    }

    /// How long until so many have left that one more may come. A reload may have lowered the rate, so
    /// that it is more than one.
    fn wait_ns(&self, rate: Rate, period_ns: u64, now_ns: u64) -> u64 {
        let mut left = self.requests;
        for entry in &self.entries {
            left -= u64::from(entry.requests);
            if left < u64::from(rate.count) {
                return entry.last_ns + period_ns - now_ns;
            }
        }
        period_ns
    }

    /// Takes back a request that was not accepted after all.
    fn give_back(&mut self, at_ns: u64) {
        let at = self.entries.partition_point(|entry| entry.last_ns < at_ns);
        let Some(entry) = self.entries.get_mut(at).filter(|entry| entry.first_ns <= at_ns) else {
            return;
        };
        entry.requests -= 1;
        self.requests -= 1;
        if entry.requests == 0 {
            self.entries.remove(at);
        }
    }
}

/// The window of each source: a reload empties none.
#[derive(Debug, Default)]
pub struct Windows(Mutex<HashMap<SourceId, Arc<SharedWindow>>>);

impl Windows {
    /// The limit of a source at this rate.
    pub fn limit(&self, source: SourceId, rate: Rate) -> RateLimiter {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        RateLimiter { rate, window: Arc::clone(all.entry(source).or_default()) }
    }
}

/// A window for all intake threads.
#[derive(Debug)]
struct SharedWindow {
    began_at: Instant,
    window: Mutex<Window>,
}

impl Default for SharedWindow {
    fn default() -> Self {
        Self { began_at: Instant::now(), window: Mutex::new(Window::new(ENTRIES_MAX)) }
    }
}

impl SharedWindow {
    fn lock(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One source's limit.
#[derive(Debug)]
pub struct RateLimiter {
    rate: Rate,
    window: Arc<SharedWindow>,
}

/// A request that was counted.
#[derive(Debug)]
pub struct Admission<'l> {
    limit: &'l RateLimiter,
    at_ns: u64,
}

impl RateLimiter {
    /// Counts one request.
    ///
    /// # Errors
    /// It is beyond the rate: after so many seconds the next would not be.
    pub fn admit(&self) -> Result<Admission<'_>, u64> {
        let mut window = self.window.lock();
        // With the lock: so moments are in their order.
        let since_ns = self.window.began_at.elapsed().as_nanos();
        let admitted = window.admit(self.rate, u64::try_from(since_ns).unwrap_or(u64::MAX));
        drop(window);
        match admitted {
            Ok(at_ns) => Ok(Admission { limit: self, at_ns }),
            // Rounded up: who comes then is not too early.
            Err(wait_ns) => Err(wait_ns.div_ceil(1_000_000_000).max(1)),
        }
    }
}

impl Admission<'_> {
    /// The request was refused for another reason. One whose connection broke off stays counted, as its
    /// event may be stored.
    pub fn give_back(self) {
        self.limit.window.lock().give_back(self.at_ns);
    }
}

/// Counts one request of a source, if it has a limit: events, repeats and handshakes.
pub(super) fn check(limit: Option<&RateLimiter>) -> Result<Option<Admission<'_>>, Rejection> {
    let admission = limit.map(RateLimiter::admit).transpose();
    admission.map_err(|retry_after| Rejection::Rate { retry_after })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    fn per_second(count: u32) -> Rate {
        Rate { count, period: Duration::from_secs(1) }
    }

    /// The most in any second.
    fn most(accepted: &[u64]) -> usize {
        let within =
            |from: usize| accepted[from..].partition_point(|at| at - accepted[from] < SECOND_NS);
        (0..accepted.len()).map(within).max().unwrap_or(0)
    }

    /// How far apart requests are: of the size of a period, of its shares, or none at all.
    fn gaps() -> impl Strategy<Value = Vec<u64>> {
        let gap = prop_oneof![
            4 => 0..2_000_000_u64, 2 => 0..200_000_000_u64, 1 => Just(0), 1 => 0..3 * SECOND_NS
        ];
        prop::collection::vec(gap, 1..600)
    }

    proptest! {
        #[test]
        fn a_request_is_accepted_exactly_where_the_last_period_has_room(
            count in 1..40_u32, gaps in gaps(),
        ) {
            let (mut window, mut now_ns, mut accepted) = (Window::new(64), 0, Vec::<u64>::new());
            for gap in gaps {
                now_ns += gap;
                let recent = accepted.iter().filter(|&&at| now_ns - at < SECOND_NS).count();
                let admitted = window.admit(per_second(count), now_ns);
                prop_assert_eq!(admitted.is_ok(), recent < count as usize);
                match admitted {
                    Ok(_) => accepted.push(now_ns),
                    Err(wait_ns) => {
                        let place = accepted[accepted.len() - count as usize] + SECOND_NS;
                        prop_assert_eq!(now_ns + wait_ns, place);
                    }
                }
            }
            prop_assert!(most(&accepted) <= count as usize);
        }

        #[test]
        fn a_long_log_never_accepts_too_many_and_is_late_by_a_share_at_most(
            count in 9..60_u32, gaps in gaps(),
        ) {
            let (mut window, mut now_ns, mut accepted) = (Window::new(8), 0, Vec::<u64>::new());
            for gap in gaps {
                now_ns += gap;
                let longer_ns = SECOND_NS + SECOND_NS / 8;
                let recent = accepted.iter().filter(|&&at| now_ns - at < longer_ns).count();
                match window.admit(per_second(count), now_ns) {
                    Ok(_) => accepted.push(now_ns),
                    Err(_) => prop_assert!(recent >= count as usize),
                }
                prop_assert!(window.entries.len() <= 8 + 2);
            }
            prop_assert!(most(&accepted) <= count as usize);
        }

        #[test]
        fn what_is_given_back_counts_no_more(
            count in 1..20_u32, entries_max in 1..30_u32, gaps in gaps(), kept in any::<u64>(),
        ) {
            let (mut window, mut now_ns) = (Window::new(entries_max), 0);
            let (mut accepted, mut given_back) = (Vec::new(), 0);
            for (at, gap) in gaps.into_iter().enumerate() {
                now_ns += gap;
                let Ok(at_ns) = window.admit(per_second(count), now_ns) else { continue };
                if kept >> (at % 64) & 1 == 0 {
                    window.give_back(at_ns);
                    given_back += 1;
                } else {
                    accepted.push(now_ns);
                }
            }
            let counted: u64 = window.entries.iter().map(|entry| u64::from(entry.requests)).sum();
            prop_assert_eq!(counted, window.requests);
            prop_assert!(window.requests <= accepted.len() as u64, "{} given back", given_back);
            prop_assert!(most(&accepted) <= count as usize);
        }
    }

    #[test]
    fn a_rate_that_a_reload_lowers_or_raises_counts_what_was_accepted_before() {
        let mut window = Window::new(64);
        let accepted: BTreeSet<u64> =
            (0..10).filter_map(|at| window.admit(per_second(10), at).ok()).collect();
        assert_eq!(accepted.len(), 10);
        assert_eq!(window.admit(per_second(3), 10), Err(7 + SECOND_NS - 10), "eight must leave");
        assert_eq!(window.admit(per_second(11), 10), Ok(10));
        assert_eq!(window.admit(per_second(11), 10), Err(SECOND_NS - 10));
    }

    #[test]
    fn beyond_its_rate_a_request_is_told_when_to_come_again() {
        let rate = Rate { count: 2, period: Duration::from_secs(3600) };
        let limit = Windows::default().limit(SourceId(1), rate);
        assert!(limit.admit().is_ok());
        limit.admit().unwrap().give_back();
        assert!(limit.admit().is_ok());
        let wait = limit.admit().unwrap_err();
        assert!((3590..=3600).contains(&wait), "{wait}");
    }

    #[test]
    fn a_window_is_shared_by_all_limits_of_its_source() {
        let windows = Windows::default();
        let rate = Rate { count: 1, period: Duration::from_secs(3600) };
        assert!(windows.limit(SourceId(1), rate).admit().is_ok());
        assert!(windows.limit(SourceId(1), rate).admit().is_err());
        assert!(windows.limit(SourceId(2), rate).admit().is_ok());
    }
}
