//! Limits the attempts to sign in, by address and in total, so that nobody can guess a token.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Failed attempts of one address within the window.
const MAX_PER_ADDRESS: u32 = 10;

/// Failed attempts of all addresses within the window.
const MAX_IN_TOTAL: u32 = 100;

const WINDOW: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct Window {
    began_at: Instant,
    total: u32,
    by_address: HashMap<String, u32>,
}

/// The failed attempts of the last minute.
#[derive(Debug)]
pub struct AttemptLimit(Mutex<Window>);

impl Default for AttemptLimit {
    fn default() -> Self {
        Self(Mutex::new(Window::new(Instant::now())))
    }
}

impl Window {
    fn new(began_at: Instant) -> Self {
        Self { began_at, total: 0, by_address: HashMap::new() }
    }
}

impl AttemptLimit {
    /// Returns how long an address has to wait before its next attempt, if it has to.
    pub fn wait(&self, address: &str, now: Instant) -> Option<Duration> {
        let mut window = self.0.lock();
        let age = now.saturating_duration_since(window.began_at);
        if age >= WINDOW {
            *window = Window::new(now);
        }
        let of_address = window.by_address.get(address).copied().unwrap_or(0);
        (of_address >= MAX_PER_ADDRESS || window.total >= MAX_IN_TOTAL)
            .then(|| WINDOW.saturating_sub(age))
    }

    /// Records a failed attempt. The window has at most as many addresses as attempts.
    pub fn record_failure(&self, address: &str) {
        let mut window = self.0.lock();
        window.total += 1;
        if window.total <= MAX_IN_TOTAL {
            *window.by_address.entry(address.to_owned()).or_default() += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_waits_after_ten_failures_and_another_does_not() {
        let (limit, start) = (AttemptLimit::default(), Instant::now());
        for _ in 0..10 {
            assert_eq!(limit.wait("192.0.2.1", start), None);
            limit.record_failure("192.0.2.1");
        }
        assert!(limit.wait("192.0.2.1", start).is_some());
        assert_eq!(limit.wait("192.0.2.2", start), None);
        assert_eq!(limit.wait("192.0.2.1", start + WINDOW), None);
    }

    #[test]
    fn many_addresses_together_wait_too() {
        let (limit, start) = (AttemptLimit::default(), Instant::now());
        for number in 0..1000 {
            limit.record_failure(&number.to_string());
        }
        assert!(limit.wait("new", start).is_some());
        assert!(limit.0.lock().by_address.len() <= 100);
    }
}
