//! A share of a bounded resource that all threads draw from, such as memory for bodies.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts toward `total` until dropped, on any thread.
#[derive(Debug)]
pub struct Reservation {
    total: Arc<AtomicUsize>,
    amount: usize,
}

impl Reservation {
    /// Creates an empty reservation.
    pub fn new(total: &Arc<AtomicUsize>) -> Self {
        Self { total: Arc::clone(total), amount: 0 }
    }

    /// Reserves `amount` more, and returns the new total of all reservations.
    pub fn grow(&mut self, amount: usize) -> usize {
        self.amount += amount;
        self.total.fetch_add(amount, Ordering::SeqCst) + amount
    }

    pub fn amount(&self) -> usize {
        self.amount
    }

    /// Moves the whole amount into a new reservation and leaves this one empty.
    pub fn transfer(&mut self) -> Self {
        Self { total: Arc::clone(&self.total), amount: std::mem::take(&mut self.amount) }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.total.fetch_sub(self.amount, Ordering::SeqCst);
    }
}
