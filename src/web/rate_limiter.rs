//! `rate_limit`: a sliding window. In no period, whenever it begins, are more requests accepted
//! than the rate allows.
//!
//! The window is a log of the times at which requests were accepted. It is exact up to 4,096
//! requests in a period. Above that, requests accepted within the same 4,096th of a period share an
//! entry, which counts until the last of them is one period old. So the limiter never accepts too
//! many requests, and a place becomes free at most a 4,096th of a period late. An entry takes 24
//! bytes, so a source takes a little over 96 KiB at most.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use super::rejection::Rejection;
use crate::config::Rate;
use crate::domain::SourceId;

const MAX_ENTRIES: u32 = 4096;

/// Requests accepted at one time, or nearly one. Times are in nanoseconds.
#[derive(Clone, Copy, Debug)]
struct WindowEntry {
    first_ns: u64,
    last_ns: u64,
    requests: u32,
}

/// The requests accepted within the last period.
#[derive(Debug)]
struct Window {
    entries: VecDeque<WindowEntry>,
    max_entries: u32,
    /// The requests of all entries.
    requests: u64,
}

impl Window {
    fn new(max_entries: u32) -> Self {
        Self { entries: VecDeque::new(), max_entries, requests: 0 }
    }

    /// Counts a request and returns the time under which it is counted, or else how long to wait
    /// for a place.
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
        let entry_span_ns = match rate.count > self.max_entries {
            true => period_ns / u64::from(self.max_entries),
            false => 0,
        };
        self.requests += 1;
        match self.entries.back_mut() {
            Some(last) if now_ns - last.first_ns < entry_span_ns => {
                last.last_ns = now_ns;
                last.requests += 1;
            }
            _ => {
                let entry = WindowEntry { first_ns: now_ns, last_ns: now_ns, requests: 1 };
                self.entries.push_back(entry);
            }
        }
        Ok(now_ns)
    }

    /// Returns how long until a request is accepted. After a reload lowered the rate, several
    /// entries may have to expire.
    fn wait_ns(&self, rate: Rate, period_ns: u64, now_ns: u64) -> u64 {
        let mut remaining = self.requests;
        for entry in &self.entries {
            remaining -= u64::from(entry.requests);
            if remaining < u64::from(rate.count) {
                return entry.last_ns + period_ns - now_ns;
            }
        }
        period_ns
    }

    /// Removes a request that was not accepted in the end.
    fn cancel(&mut self, at_ns: u64) {
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

/// The window of each source. A reload keeps them.
#[derive(Debug, Default)]
pub struct RateWindows(Mutex<HashMap<SourceId, Arc<SharedWindow>>>);

impl RateWindows {
    /// Makes the limiter of a source at this rate.
    pub fn limiter(&self, source: SourceId, rate: Rate) -> SourceRateLimiter {
        let mut by_source = self.0.lock();
        SourceRateLimiter { rate, window: Arc::clone(by_source.entry(source).or_default()) }
    }
}

/// The window that all intake threads share.
#[derive(Debug)]
struct SharedWindow {
    started_at: Instant,
    window: Mutex<Window>,
}

impl Default for SharedWindow {
    fn default() -> Self {
        Self { started_at: Instant::now(), window: Mutex::new(Window::new(MAX_ENTRIES)) }
    }
}

/// `rate_limit` of a source; all intake threads share the window.
#[derive(Debug)]
pub struct SourceRateLimiter {
    rate: Rate,
    window: Arc<SharedWindow>,
}

/// A counted request.
#[derive(Debug)]
pub struct Admission<'l> {
    limiter: &'l SourceRateLimiter,
    at_ns: u64,
}

impl SourceRateLimiter {
    /// Counts one request.
    ///
    /// # Errors
    /// The rate is exceeded: the number of seconds after which another request is accepted.
    pub fn admit(&self) -> Result<Admission<'_>, u64> {
        let mut window = self.window.window.lock();
        // Under the lock, so that the times are in order.
        let since_ns = self.window.started_at.elapsed().as_nanos();
        let admitted = window.admit(self.rate, u64::try_from(since_ns).unwrap_or(u64::MAX));
        drop(window);
        match admitted {
            Ok(at_ns) => Ok(Admission { limiter: self, at_ns }),
            // Rounded up, so that a client that waits this long is not too early.
            Err(wait_ns) => Err(wait_ns.div_ceil(1_000_000_000).max(1)),
        }
    }
}

impl Admission<'_> {
    /// Uncounts a request that was rejected for another reason. One whose client disconnected stays
    /// counted, because its event may be stored.
    pub fn cancel(self) {
        self.limiter.window.window.lock().cancel(self.at_ns);
    }
}

/// Counts a request of a source that has a limit: events, duplicates and handshakes.
pub(super) fn admit_request(
    limiter: Option<&SourceRateLimiter>,
) -> Result<Option<Admission<'_>>, Rejection> {
    let admission = limiter.map(SourceRateLimiter::admit).transpose();
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

    /// Returns the maximum number in any second.
    fn max_per_second(accepted: &[u64]) -> usize {
        let count_from =
            |from: usize| accepted[from..].partition_point(|at| at - accepted[from] < SECOND_NS);
        (0..accepted.len()).map(count_from).max().unwrap_or(0)
    }

    /// Generates gaps between requests: about a period, about an entry's share of it, or none.
    fn gaps() -> impl Strategy<Value = Vec<u64>> {
        let gap = prop_oneof![
            4 => 0..2_000_000_u64, 2 => 0..200_000_000_u64, 1 => Just(0), 1 => 0..3 * SECOND_NS
        ];
        prop::collection::vec(gap, 1..600)
    }

    proptest! {
        #[test]
        fn a_request_is_accepted_exactly_if_the_last_period_has_room(
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
            prop_assert!(max_per_second(&accepted) <= count as usize);
        }

        #[test]
        fn a_full_log_never_accepts_too_many_and_is_at_most_an_entry_late(
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
            prop_assert!(max_per_second(&accepted) <= count as usize);
        }

        #[test]
        fn a_cancelled_admission_does_not_count(
            count in 1..20_u32, max_entries in 1..30_u32, gaps in gaps(), keep_bits in any::<u64>(),
        ) {
            let (mut window, mut now_ns) = (Window::new(max_entries), 0);
            let (mut accepted, mut cancelled) = (Vec::new(), 0);
            for (at, gap) in gaps.into_iter().enumerate() {
                now_ns += gap;
                let Ok(at_ns) = window.admit(per_second(count), now_ns) else { continue };
                if keep_bits >> (at % 64) & 1 == 0 {
                    window.cancel(at_ns);
                    cancelled += 1;
                } else {
                    accepted.push(now_ns);
                }
            }
            let counted: u64 = window.entries.iter().map(|entry| u64::from(entry.requests)).sum();
            prop_assert_eq!(counted, window.requests);
            prop_assert!(window.requests <= accepted.len() as u64, "{} cancelled", cancelled);
            prop_assert!(max_per_second(&accepted) <= count as usize);
        }
    }

    #[test]
    fn a_changed_rate_counts_the_requests_accepted_before() {
        let mut window = Window::new(64);
        let accepted: BTreeSet<u64> =
            (0..10).filter_map(|at| window.admit(per_second(10), at).ok()).collect();
        assert_eq!(accepted.len(), 10);
        assert_eq!(window.admit(per_second(3), 10), Err(7 + SECOND_NS - 10), "eight must leave");
        assert_eq!(window.admit(per_second(11), 10), Ok(10));
        assert_eq!(window.admit(per_second(11), 10), Err(SECOND_NS - 10));
    }

    #[test]
    fn a_request_over_the_rate_gets_the_time_until_a_place_is_free() {
        let rate = Rate { count: 2, period: Duration::from_secs(3600) };
        let limiter = RateWindows::default().limiter(SourceId(1), rate);
        assert!(limiter.admit().is_ok());
        limiter.admit().unwrap().cancel();
        assert!(limiter.admit().is_ok());
        let wait = limiter.admit().unwrap_err();
        assert!((3590..=3600).contains(&wait), "{wait}");
    }

    #[test]
    fn all_limiters_of_a_source_share_its_window() {
        let windows = RateWindows::default();
        let rate = Rate { count: 1, period: Duration::from_secs(3600) };
        assert!(windows.limiter(SourceId(1), rate).admit().is_ok());
        assert!(windows.limiter(SourceId(1), rate).admit().is_err());
        assert!(windows.limiter(SourceId(2), rate).admit().is_ok());
    }
}
