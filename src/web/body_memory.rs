//! How much memory the bodies of requests may take, and who gets which part of it.
//!
//! Each byte counts against `max_inflight_size`. An eighth of it is for bodies under 64 KiB. Of what is
//! still being received no client address may hold more than five eighths and no source more than
//! three quarters, so that one cannot fill it for all. Only bodies that have to be waited for are
//! counted by address and source: a request that came in one piece costs one atomic.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::domain::SourceId;
use crate::domain::reservation::Reservation;

/// Bodies from this size on are large.
pub const LARGE_BYTES_MIN: usize = 64 << 10;

/// While more than half of the budget is in use, a large body must grow by `STALLED_BYTES_MIN` in each
/// such time.
pub const STALLED_AFTER: Duration = Duration::from_secs(2);
pub const STALLED_BYTES_MIN: usize = 64 << 10;

/// There is no room for the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// Who sends a body, and how much it may take.
#[derive(Clone, Copy, Debug)]
pub struct Claimant {
    /// None: unknown, or a unix socket.
    pub client: Option<IpAddr>,
    pub source: SourceId,
    /// `max_inflight_size`
    pub bytes_max: usize,
    /// `max_body_size` of the source: one such body always fits into an empty budget.
    pub max_body_bytes: usize,
}

/// The bytes of those bodies that are being received.
#[derive(Default)]
struct Shares {
    by_client: HashMap<(Option<IpAddr>, bool), usize>,
    by_source: HashMap<(SourceId, bool), usize>,
}

/// Shared by all intake threads.
#[derive(Default)]
pub struct Budget {
    held: Arc<AtomicUsize>,
    shares: Mutex<Shares>,
}

impl Budget {
    /// Nothing yet, for a body that begins.
    pub fn claim(&self, claimant: Claimant) -> Claim<'_> {
        let client = claimant.client.map(network);
        let claimant = Claimant { client, ..claimant };
        let reservation = Reservation::new(&self.held);
        Claim { budget: self, claimant, reservation, is_large: false, shared_bytes: None }
    }

    /// Whether more than half is in use.
    fn is_short(&self, bytes_max: usize) -> bool {
        self.held.load(Ordering::Relaxed) > bytes_max / 2
    }
}

/// One client's addresses: of IPv6 a network of 64 bits is one customer's (RFC 6177).
fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & !u128::from(u64::MAX)).into()),
        v4 => v4,
    }
}

/// What one body holds; given back when it is dropped.
pub struct Claim<'a> {
    budget: &'a Budget,
    claimant: Claimant,
    reservation: Reservation,
    is_large: bool,
    /// Of its bytes, what is counted by address and source.
    shared_bytes: Option<usize>,
}

impl Claim<'_> {
    /// Takes more.
    ///
    /// # Errors
    /// There is no room.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Full> {
        let held = self.reservation.grow(bytes);
        if !self.is_large && self.reservation.amount() >= LARGE_BYTES_MIN {
            self.set_large();
        }
        if held > self.pool() {
            return Err(Full);
        }
        match self.shared_bytes {
            Some(_) => self.share(),
            None => Ok(()),
        }
    }

    /// It says that it will be large, or has become so.
    pub fn set_large(&mut self) {
        let was_shared = self.shared_bytes.is_some();
        self.leave();
        self.is_large = true;
        if was_shared {
            self.shared_bytes = Some(0);
        }
    }

    /// The peer has to be waited for.
    ///
    /// # Errors
    /// Its address or its source holds its share already.
    pub fn share(&mut self) -> Result<(), Full> {
        let bytes = self.reservation.amount();
        if self.shared_bytes == Some(bytes) {
            return Ok(());
        }
        let more = bytes - self.shared_bytes.unwrap_or(0);
        self.shared_bytes = Some(bytes);
        let pool =
            if self.is_large { self.claimant.bytes_max } else { self.claimant.bytes_max / 8 };
        let least = self.claimant.max_body_bytes;
        let least = if self.is_large { least } else { least.min(LARGE_BYTES_MIN) };
        let mut shares = self.budget.shares.lock().unwrap_or_else(PoisonError::into_inner);
        let of_client = shares.by_client.entry((self.claimant.client, self.is_large)).or_default();
        *of_client += more;
        let is_over = *of_client > (pool / 8 * 5).max(least);
        let of_source = shares.by_source.entry((self.claimant.source, self.is_large)).or_default();
        *of_source += more;
        if is_over || *of_source > (pool / 4 * 3).max(least) { Err(Full) } else { Ok(()) }
    }

    /// The body is complete: nobody's share any more.
    pub fn leave(&mut self) {
        let Some(bytes) = self.shared_bytes.take() else { return };
        let mut shares = self.budget.shares.lock().unwrap_or_else(PoisonError::into_inner);
        take_back(&mut shares.by_client, (self.claimant.client, self.is_large), bytes);
        take_back(&mut shares.by_source, (self.claimant.source, self.is_large), bytes);
    }

    /// What the body's memory counts as, for who holds the body from here on.
    pub fn take_reservation(&mut self) -> Reservation {
        self.leave();
        self.reservation.take()
    }

    /// Whether it must not be slow now.
    pub fn is_pressed(&self) -> bool {
        self.is_large && self.budget.is_short(self.claimant.bytes_max)
    }

    pub fn is_large(&self) -> bool {
        self.is_large
    }

    /// How much all bodies together may hold when this one grows.
    fn pool(&self) -> usize {
        let all = self.claimant.bytes_max;
        if self.is_large { (all - all / 8).max(self.claimant.max_body_bytes) } else { all }
    }
}

fn take_back<K: Eq + Hash>(shares: &mut HashMap<K, usize>, key: K, bytes: usize) {
    if let Some(held) = shares.get_mut(&key) {
        *held = held.saturating_sub(bytes);
        if *held == 0 {
            shares.remove(&key);
        }
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: usize = 1 << 10;

    fn claimant(client: &str, source: i64) -> Claimant {
        Claimant {
            client: client.parse().ok(),
            source: SourceId(source),
            bytes_max: 1024 * KIB,
            max_body_bytes: 128 * KIB,
        }
    }

    /// Unfinished bodies of this size, as many as fit.
    fn fill<'a>(budget: &'a Budget, claimant: Claimant, bytes: usize) -> Vec<Claim<'a>> {
        let mut claims = Vec::new();
        loop {
            let mut claim = budget.claim(claimant);
            if claim.grow(bytes).and_then(|()| claim.share()).is_err() {
                return claims;
            }
            claims.push(claim);
        }
    }

    #[test]
    fn one_address_leaves_room_for_others() {
        let budget = Budget::default();
        let large = fill(&budget, claimant("192.0.2.1", 1), 128 * KIB);
        assert_eq!(large.len(), 5, "five eighths of 1 MiB");
        assert_eq!(fill(&budget, claimant("192.0.2.2", 2), 128 * KIB).len(), 2);
        let small = fill(&budget, claimant("192.0.2.1", 1), 8 * KIB);
        assert_eq!(small.len(), 10, "five eighths of 128 KiB");
        assert_eq!(fill(&budget, claimant("192.0.2.2", 2), 8 * KIB).len(), 10);
    }

    #[test]
    fn one_source_leaves_room_for_others() {
        let budget = Budget::default();
        let mut claims = fill(&budget, claimant("192.0.2.1", 1), 128 * KIB);
        claims.extend(fill(&budget, claimant("192.0.2.2", 1), 128 * KIB));
        assert_eq!(claims.len(), 6, "three quarters of 1 MiB");
        assert_eq!(fill(&budget, claimant("192.0.2.3", 2), 128 * KIB).len(), 1);
    }

    #[test]
    fn large_bodies_leave_an_eighth_to_small_ones() {
        let budget = Budget::default();
        let mut claims = Vec::new();
        for (number, source) in [(1, 1), (2, 2), (3, 3)] {
            let client = format!("192.0.2.{number}");
            claims.extend(fill(&budget, claimant(&client, source), 128 * KIB));
        }
        assert_eq!(claims.len(), 7);
        let mut small = budget.claim(claimant("192.0.2.4", 4));
        assert_eq!(small.grow(32 * KIB), Ok(()));
    }

    #[test]
    fn addresses_of_one_ipv6_network_are_one() {
        let budget = Budget::default();
        let large = fill(&budget, claimant("2001:db8::1", 1), 128 * KIB);
        assert_eq!(large.len(), 5);
        assert_eq!(fill(&budget, claimant("2001:db8::2", 2), 128 * KIB).len(), 0);
        assert_eq!(fill(&budget, claimant("2001:db8:0:1::1", 2), 128 * KIB).len(), 2);
    }

    #[test]
    fn a_body_of_the_whole_budget_fits_where_there_is_no_other() {
        let budget = Budget::default();
        let mut claim = budget.claim(Claimant { max_body_bytes: 1024 * KIB, ..claimant("::1", 1) });
        for _ in 0..16 {
            assert_eq!(claim.grow(64 * KIB), Ok(()));
            assert_eq!(claim.share(), Ok(()));
        }
        assert_eq!(claim.grow(1), Err(Full));
    }

    #[test]
    fn a_body_counts_as_long_as_whoever_it_was_given_to_holds_it() {
        let budget = Budget::default();
        let mut claim = budget.claim(claimant("192.0.2.1", 1));
        assert_eq!(claim.grow(48 * KIB).and_then(|()| claim.share()), Ok(()));
        let reservation = claim.take_reservation();
        drop(claim);
        assert!(budget.shares.lock().unwrap().by_client.is_empty());
        assert_eq!(budget.held.load(Ordering::SeqCst), 48 * KIB);
        drop(reservation);
        assert_eq!(budget.held.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn what_is_dropped_or_complete_is_given_back() {
        let budget = Budget::default();
        let mut claims = fill(&budget, claimant("192.0.2.1", 1), 48 * KIB);
        for claim in &mut claims {
            assert_eq!(claim.grow(48 * KIB), Ok(()), "it becomes large");
            claim.leave();
        }
        assert!(budget.shares.lock().unwrap().by_client.is_empty());
        drop(claims);
        assert_eq!(budget.held.load(Ordering::SeqCst), 0);
        drop(fill(&budget, claimant("192.0.2.1", 1), 100 * KIB));
        let shares = budget.shares.lock().unwrap();
        assert!(shares.by_client.is_empty() && shares.by_source.is_empty());
    }
}
