//! Losses of the connection of a source, which a message may have caused.
//!
//! A message whose headers no client can read ends the connection. Messages behind it on the connection are lost with it,
//! and the stream delivers all of them again together, so that those behind it would never arrive. After a repeated loss, a
//! source therefore asks for one message at a time.

use std::time::Duration;

use tokio::time::Instant;

use super::consumer::MAX_BATCH;

/// How many acknowledgement waits lie at most between two losses that the same message may have caused.
const MAX_WAITS_BETWEEN: u32 = 3;

/// What a new connection adds to that time.
const RECONNECT_TIME: Duration = Duration::from_secs(10);

/// For how many acknowledgement waits a source asks for single messages. Each of its machines has to see the message first.
const CAUTIOUS_WAITS: u32 = 10;

/// What a source remembers of the losses of its connection.
#[derive(Debug, Default)]
pub struct LossHistory {
    last: Option<Instant>,
    cautious_until: Option<Instant>,
}

impl LossHistory {
    /// Notes that the source could not go on reading. `ack_wait`: the time after which the stream delivers a
    /// message again. Returns true if the source asks for single messages from now on.
    pub fn add(&mut self, now: Instant, ack_wait: Duration) -> bool {
        let was_cautious = self.is_cautious(now);
        let max_pause = ack_wait.saturating_mul(MAX_WAITS_BETWEEN).saturating_add(RECONNECT_TIME);
        let is_repeated = self.last.is_some_and(|last| now - last <= max_pause);
        if is_repeated {
            self.cautious_until = now.checked_add(ack_wait.saturating_mul(CAUTIOUS_WAITS));
        }
        self.last = Some(now);
        is_repeated && !was_cautious
    }

    /// Returns how many messages the source should ask for at once now.
    pub fn max_request(&self, now: Instant) -> usize {
        if self.is_cautious(now) { 1 } else { MAX_BATCH }
    }

    fn is_cautious(&self, now: Instant) -> bool {
        self.cautious_until.is_some_and(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_loss_makes_a_source_cautious_for_a_while() {
        let wait = Duration::from_secs(30);
        let mut history = LossHistory::default();
        let first = Instant::now();
        assert!(!history.add(first, wait), "a server may have restarted");
        assert_eq!(history.max_request(first), MAX_BATCH);
        let (second, third) = (first + wait, first + 2 * wait);
        assert!(history.add(second, wait));
        assert!(!history.add(third, wait), "it is cautious already");
        let until = third + 10 * wait;
        assert_eq!(history.max_request(until - Duration::from_millis(1)), 1);
        assert_eq!(history.max_request(until), MAX_BATCH);
        assert!(!history.add(until, wait), "the last loss was long ago");
    }
}
