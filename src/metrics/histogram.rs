//! A histogram without a lock. That of `prometheus-client` is a mutex, which the threads of intake would share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The bounds of a histogram, and the unit that it is exported in.
#[derive(Debug)]
pub(super) struct Buckets {
    /// Inclusive upper bounds, ascending.
    bounds: &'static [u64],
    /// The factor from an observed value to a bound.
    values_per_bound: u64,
    /// The factor from the exported unit to a bound.
    bounds_per_unit: f64,
}

impl Buckets {
    /// Buckets of durations, which are exported in seconds.
    pub const fn of_microseconds(bounds: &'static [u64]) -> Self {
        Self { bounds, values_per_bound: 1_000, bounds_per_unit: 1e6 }
    }

    /// Buckets of plain numbers.
    pub const fn of_numbers(bounds: &'static [u64]) -> Self {
        Self { bounds, values_per_bound: 1, bounds_per_unit: 1.0 }
    }
}

/// Counts values by buckets. Threads may observe at the same time.
#[derive(Debug)]
pub(super) struct Histogram {
    buckets: &'static Buckets,
    /// One for each bound, and one for the values beyond the last.
    counts: Box<[AtomicU64]>,
    /// The sum of all values. It wraps after 584 years of nanoseconds.
    sum: AtomicU64,
}

impl Histogram {
    pub fn new(buckets: &'static Buckets) -> Self {
        let counts = (0..=buckets.bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { buckets, counts, sum: AtomicU64::new(0) }
    }

    /// Counts a number.
    pub fn observe(&self, value: u64) {
        let Buckets { bounds, values_per_bound, .. } = self.buckets;
        let bucket = bounds.partition_point(|bound| bound * values_per_bound < value);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// Counts a duration.
    pub fn observe_duration(&self, duration: Duration) {
        let seconds = duration.as_secs().saturating_mul(1_000_000_000);
        self.observe(seconds.saturating_add(u64::from(duration.subsec_nanos())));
    }
}

/// The values of a histogram, in its exported unit.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct HistogramValues {
    pub sum: f64,
    pub count: u64,
    /// Upper bounds, the last of which is infinite, and the number of values in each bucket.
    pub buckets: Vec<(f64, u64)>,
}

impl HistogramValues {
    /// Adds up histograms with the same buckets.
    pub fn of<'h>(
        buckets: &'static Buckets,
        histograms: impl IntoIterator<Item = &'h Histogram>,
    ) -> Self {
        let bounds = buckets.bounds.iter().map(|bound| to_f64(*bound) / buckets.bounds_per_unit);
        let mut sums: Vec<(f64, u64)> =
            bounds.chain([f64::INFINITY]).map(|bound| (bound, 0)).collect();
        let mut sum = 0_u64;
        for histogram in histograms {
            sum = sum.wrapping_add(histogram.sum.load(Ordering::Relaxed));
            for ((_, total), count) in sums.iter_mut().zip(&histogram.counts) {
                *total += count.load(Ordering::Relaxed);
            }
        }
        let per_unit = to_f64(buckets.values_per_bound) * buckets.bounds_per_unit;
        Self {
            sum: to_f64(sum) / per_unit,
            count: sums.iter().map(|(_, count)| count).sum(),
            buckets: sums,
        }
    }

    /// Returns the values of one histogram.
    pub fn of_one(histogram: &Histogram) -> Self {
        Self::of(histogram.buckets, [histogram])
    }
}

/// Converts a count. Beyond 2⁵³ it is rounded.
pub(super) fn to_f64(number: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "exported values may be rounded")]
    {
        number as f64
    }
}
