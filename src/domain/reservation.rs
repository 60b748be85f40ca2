//! A part of something bounded that all threads share.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts in `held` until it is dropped, wherever it is by then.
#[derive(Debug)]
pub struct Reservation {
    held: Arc<AtomicUsize>,
    amount: usize,
}

impl Reservation {
    /// Of nothing yet.
    pub fn new(held: &Arc<AtomicUsize>) -> Self {
        Self { held: Arc::clone(held), amount: 0 }
    }

    /// Reserves more, and gives what all of them hold now.
    pub fn grow(&mut self, amount: usize) -> usize {
        self.amount += amount;
        self.held.fetch_add(amount, Ordering::SeqCst) + amount
    }

    pub fn amount(&self) -> usize {
        self.amount
    }

    /// Gives all of it away, and is left with nothing.
    pub fn take(&mut self) -> Self {
        Self { held: Arc::clone(&self.held), amount: std::mem::take(&mut self.amount) }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.held.fetch_sub(self.amount, Ordering::SeqCst);
    }
}
