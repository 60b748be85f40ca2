//! The memory budget of request bodies, and its shares.
//!
//! Each byte counts against `max_inflight_size`. An eighth of it is reserved for bodies under 64
//! KiB. Of the bodies that are still being received, one client address may hold at most five
//! eighths and one source at most three quarters. So no client and no source can use up the whole
//! budget.
//!
//! Only a body that the server has to wait for is charged to its address and its source. A request
//! that arrives in one piece costs one atomic operation.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::domain::SourceId;
use crate::domain::reservation::Reservation;

/// Bodies of at least this size are large.
pub const MIN_LARGE_BYTES: usize = 64 << 10;

/// While more than half of the budget is in use, a large body must grow by `MIN_PROGRESS_BYTES` in
/// each period of this length.
pub const PROGRESS_PERIOD: Duration = Duration::from_secs(2);
/// Minimum growth of a large body in each `PROGRESS_PERIOD`.
pub const MIN_PROGRESS_BYTES: usize = 64 << 10;

/// The budget has no room for the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetFull;

/// The client and source of a body, and their limits.
#[derive(Clone, Copy, Debug)]
pub struct BodyOwner {
    /// `None`: unknown, or a unix socket.
    pub client: Option<IpAddr>,
    pub source: SourceId,
    /// `max_inflight_size`
    pub max_inflight_bytes: usize,
    /// `max_body_size` of the source. One such body always fits into an empty budget.
    pub max_body_bytes: usize,
}

/// The bytes of the bodies that are being received, by client and by source, small and large apart.
#[derive(Default)]
struct Shares {
    by_client: HashMap<(Option<IpAddr>, bool), usize>,
    by_source: HashMap<(SourceId, bool), usize>,
}

/// The memory budget of all intake threads.
#[derive(Default)]
pub struct BodyBudget {
    held_bytes: Arc<AtomicUsize>,
    shares: Mutex<Shares>,
}

impl BodyBudget {
    /// Starts an empty reservation for a new body.
    pub fn reserve(&self, owner: BodyOwner) -> BodyReservation<'_> {
        let client = owner.client.map(network);
        let owner = BodyOwner { client, ..owner };
        let reservation = Reservation::new(&self.held_bytes);
        BodyReservation { budget: self, owner, reservation, is_large: false, charged_bytes: None }
    }

    /// Whether more than half of the budget is in use.
    fn is_scarce(&self, max_inflight_bytes: usize) -> bool {
        self.held_bytes.load(Ordering::Relaxed) > max_inflight_bytes / 2
    }
}

/// Returns the network of a client. A 64-bit network of IPv6 usually belongs to one customer (RFC
/// 6177).
fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & !u128::from(u64::MAX)).into()),
        v4 => v4,
    }
}

/// The memory of one body. It is released when the reservation is dropped.
pub struct BodyReservation<'a> {
    budget: &'a BodyBudget,
    owner: BodyOwner,
    reservation: Reservation,
    is_large: bool,
    /// The bytes that are charged to the address and the source. `None`: the body is not charged.
    charged_bytes: Option<usize>,
}

impl BodyReservation<'_> {
    /// Adds bytes to the reservation.
    ///
    /// # Errors
    /// There is no room.
    pub fn grow(&mut self, bytes: usize) -> Result<(), BudgetFull> {
        let total = self.reservation.grow(bytes);
        if !self.is_large && self.reservation.amount() >= MIN_LARGE_BYTES {
            self.mark_large();
        }
        if total > self.limit() {
            return Err(BudgetFull);
        }
        match self.charged_bytes {
            Some(_) => self.charge_shares(),
            None => Ok(()),
        }
    }

    /// Counts the body as large, because its head announces that or because it has grown.
    pub fn mark_large(&mut self) {
        let was_charged = self.charged_bytes.is_some();
        self.release_shares();
        self.is_large = true;
        if was_charged {
            self.charged_bytes = Some(0);
        }
    }

    /// Charges the body to its address and source, because the server has to wait for its rest.
    /// A later call charges the bytes that have been added.
    ///
    /// # Errors
    /// The address or the source already holds its share.
    pub fn charge_shares(&mut self) -> Result<(), BudgetFull> {
        let bytes = self.reservation.amount();
        // actix-http calls the handler before it decodes the first bytes of the body.
        if bytes == 0 || self.charged_bytes == Some(bytes) {
            return Ok(());
        }
        let added = bytes - self.charged_bytes.unwrap_or(0);
        self.charged_bytes = Some(bytes);
        let pool = if self.is_large {
            self.owner.max_inflight_bytes
        } else {
            self.owner.max_inflight_bytes / 8
        };
        let min_limit = self.owner.max_body_bytes;
        let min_limit = if self.is_large { min_limit } else { min_limit.min(MIN_LARGE_BYTES) };
        let mut shares = self.budget.shares.lock();
        let client_bytes = shares.by_client.entry((self.owner.client, self.is_large)).or_default();
        *client_bytes += added;
        let is_over_client_share = *client_bytes > (pool / 8 * 5).max(min_limit);
        let source_bytes = shares.by_source.entry((self.owner.source, self.is_large)).or_default();
        *source_bytes += added;
        if is_over_client_share || *source_bytes > (pool / 4 * 3).max(min_limit) {
            Err(BudgetFull)
        } else {
            Ok(())
        }
    }

    /// Stops charging the body to its address and source, because it is complete.
    pub fn release_shares(&mut self) {
        let Some(bytes) = self.charged_bytes.take() else { return };
        let mut shares = self.budget.shares.lock();
        subtract_share(&mut shares.by_client, (self.owner.client, self.is_large), bytes);
        subtract_share(&mut shares.by_source, (self.owner.source, self.is_large), bytes);
    }

    /// Hands the memory over to the next owner of the body.
    pub fn transfer(&mut self) -> Reservation {
        self.release_shares();
        self.reservation.transfer()
    }

    /// Whether the body has to keep the minimum rate now.
    pub fn should_make_progress(&self) -> bool {
        self.is_large && self.budget.is_scarce(self.owner.max_inflight_bytes)
    }

    /// Whether the body counts as large.
    pub fn is_large(&self) -> bool {
        self.is_large
    }

    /// Maximum number of bytes that all bodies together may hold when this one grows.
    fn limit(&self) -> usize {
        let total = self.owner.max_inflight_bytes;
        let large = (total - total / 8).max(self.owner.max_body_bytes);
        if self.is_large { large } else { total }
    }
}

fn subtract_share<K: Eq + Hash>(shares: &mut HashMap<K, usize>, key: K, bytes: usize) {
    if let Some(held) = shares.get_mut(&key) {
        *held = held.saturating_sub(bytes);
        if *held == 0 {
            shares.remove(&key);
        }
    }
}

impl Drop for BodyReservation<'_> {
    fn drop(&mut self) {
        self.release_shares();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: usize = 1 << 10;

    fn owner(client: &str, source: i64) -> BodyOwner {
        BodyOwner {
            client: client.parse().ok(),
            source: SourceId(source),
            max_inflight_bytes: 1024 * KIB,
            max_body_bytes: 128 * KIB,
        }
    }

    /// Reserves unfinished bodies of this size until the budget is full.
    fn fill<'a>(
        budget: &'a BodyBudget,
        owner: BodyOwner,
        bytes: usize,
    ) -> Vec<BodyReservation<'a>> {
        let mut reservations = Vec::new();
        loop {
            let mut reservation = budget.reserve(owner);
            if reservation.grow(bytes).and_then(|()| reservation.charge_shares()).is_err() {
                return reservations;
            }
            reservations.push(reservation);
        }
    }

    #[test]
    fn one_address_cannot_use_the_whole_budget() {
        let budget = BodyBudget::default();
        let large = fill(&budget, owner("192.0.2.1", 1), 128 * KIB);
        assert_eq!(large.len(), 5, "five eighths of 1 MiB");
        assert_eq!(fill(&budget, owner("192.0.2.2", 2), 128 * KIB).len(), 2);
        let small = fill(&budget, owner("192.0.2.1", 1), 8 * KIB);
        assert_eq!(small.len(), 10, "five eighths of 128 KiB");
        assert_eq!(fill(&budget, owner("192.0.2.2", 2), 8 * KIB).len(), 10);
    }

    #[test]
    fn one_source_cannot_use_the_whole_budget() {
        let budget = BodyBudget::default();
        let mut reservations = fill(&budget, owner("192.0.2.1", 1), 128 * KIB);
        reservations.extend(fill(&budget, owner("192.0.2.2", 1), 128 * KIB));
        assert_eq!(reservations.len(), 6, "three quarters of 1 MiB");
        assert_eq!(fill(&budget, owner("192.0.2.3", 2), 128 * KIB).len(), 1);
    }

    #[test]
    fn large_bodies_leave_an_eighth_of_the_budget_to_small_ones() {
        let budget = BodyBudget::default();
        let mut reservations = Vec::new();
        for (number, source) in [(1, 1), (2, 2), (3, 3)] {
            let client = format!("192.0.2.{number}");
            reservations.extend(fill(&budget, owner(&client, source), 128 * KIB));
        }
        assert_eq!(reservations.len(), 7);
        let mut small = budget.reserve(owner("192.0.2.4", 4));
        assert_eq!(small.grow(32 * KIB), Ok(()));
    }

    #[test]
    fn addresses_of_one_ipv6_network_share_their_limit() {
        let budget = BodyBudget::default();
        let large = fill(&budget, owner("2001:db8::1", 1), 128 * KIB);
        assert_eq!(large.len(), 5);
        assert_eq!(fill(&budget, owner("2001:db8::2", 2), 128 * KIB).len(), 0);
        assert_eq!(fill(&budget, owner("2001:db8:0:1::1", 2), 128 * KIB).len(), 2);
    }

    #[test]
    fn a_body_of_the_size_of_the_budget_fits_into_an_empty_one() {
        let budget = BodyBudget::default();
        let mut reservation =
            budget.reserve(BodyOwner { max_body_bytes: 1024 * KIB, ..owner("::1", 1) });
        for _ in 0..16 {
            assert_eq!(reservation.grow(64 * KIB), Ok(()));
            assert_eq!(reservation.charge_shares(), Ok(()));
        }
        assert_eq!(reservation.grow(1), Err(BudgetFull));
    }

    #[test]
    fn a_body_counts_until_its_reservation_is_dropped() {
        let budget = BodyBudget::default();
        let mut reservation = budget.reserve(owner("192.0.2.1", 1));
        assert_eq!(reservation.grow(48 * KIB).and_then(|()| reservation.charge_shares()), Ok(()));
        let transferred = reservation.transfer();
        drop(reservation);
        assert!(budget.shares.lock().by_client.is_empty());
        assert_eq!(budget.held_bytes.load(Ordering::SeqCst), 48 * KIB);
        drop(transferred);
        assert_eq!(budget.held_bytes.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn a_dropped_reservation_and_a_complete_body_leave_nothing_behind() {
        let budget = BodyBudget::default();
        let mut reservations = fill(&budget, owner("192.0.2.1", 1), 48 * KIB);
        for reservation in &mut reservations {
            assert_eq!(reservation.grow(48 * KIB), Ok(()), "it becomes large");
            reservation.release_shares();
        }
        assert!(budget.shares.lock().by_client.is_empty());
        drop(reservations);
        assert_eq!(budget.held_bytes.load(Ordering::SeqCst), 0);
        drop(fill(&budget, owner("192.0.2.1", 1), 100 * KIB));
        let shares = budget.shares.lock();
        assert!(shares.by_client.is_empty() && shares.by_source.is_empty());
    }
}
