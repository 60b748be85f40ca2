//! The circuit breaker of a handler: it opens after too many failures in a row, later runs one job as a
//! probe, and closes if the probe succeeds.

/// The key `breaker` of a handler, as each outcome carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerPolicy {
    /// Number of failures in a row that open the breaker; 0 disables it.
    pub failures: u32,
    pub pause_ms: i64,
}

impl BreakerPolicy {
    pub const NEVER: Self = Self { failures: 0, pause_ms: 0 };
}

/// The state of a handler's circuit breaker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BreakerState {
    /// Failures and timeouts in a row.
    pub consecutive_failures: u32,
    /// Open until this time, when a probe may run (database clock). `None`: closed.
    pub open_until_ms: Option<i64>,
    /// An alert was recorded when the breaker opened, so another one follows when it closes.
    pub is_alerted: bool,
}
