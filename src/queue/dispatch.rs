//! Who may run now: threads are given to handlers, as many as are free and no more.
//!
//! Pure: told what happened, asked for a plan. A free thread goes to the highest priority that has a
//! job ready, among equals to the handler with the fewest running. Whether a handler has a job ready
//! is a hint: set when one is stored or comes due, cleared only by a claim that got fewer than it
//! asked for. The writer tells both in the order of its commits, so no wake-up is missed.

use std::collections::HashMap;

use crate::domain::HandlerId;

/// What config.toml says of a handler, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub priority: i64,
    pub concurrency: usize,
}

#[derive(Debug)]
struct Lane {
    /// `None`: not configured any more; what runs may end.
    limits: Option<Limits>,
    paused: bool,
    ready: bool,
    /// Jobs that run, or were asked for.
    busy: usize,
}

/// The state of all handlers.
#[derive(Debug)]
pub struct Dispatch {
    threads: usize,
    busy: usize,
    lanes: HashMap<HandlerId, Lane>,
}

impl Dispatch {
    pub fn new(threads: usize) -> Self {
        Self { threads, busy: 0, lanes: HashMap::new() }
    }

    /// Takes over a configuration; any handler may have jobs ready.
    pub fn configure(&mut self, limits: &HashMap<HandlerId, Limits>) {
        for lane in self.lanes.values_mut() {
            lane.limits = None;
        }
        for (&handler, &limits) in limits {
            self.lane(handler).limits = Some(limits);
        }
        self.wake_all();
    }

    /// These, and no others, are paused.
    pub fn set_paused(&mut self, paused: &[HandlerId]) {
        for (handler, lane) in &mut self.lanes {
            lane.paused = paused.contains(handler);
        }
    }

    pub fn woken(&mut self, handler: HandlerId) {
        self.lane(handler).ready = true;
    }

    /// Any handler may have jobs ready.
    pub fn wake_all(&mut self) {
        for lane in self.lanes.values_mut() {
            lane.ready = true;
        }
    }

    /// A claim for `asked` jobs got `got` of them.
    pub fn claimed(&mut self, handler: HandlerId, asked: usize, got: usize) {
        let lane = self.lane(handler);
        lane.busy -= asked - got;
        lane.ready &= got == asked;
        self.busy -= asked - got;
    }

    /// A claim was not written.
    pub fn claim_failed(&mut self, handler: HandlerId, asked: usize) {
        self.lane(handler).busy -= asked;
        self.busy -= asked;
    }

    /// A job's outcome is on its way to the disk, before any claim that is asked for from here on.
    pub fn finished(&mut self, handler: HandlerId) {
        self.lane(handler).busy -= 1;
        self.busy -= 1;
    }

    /// Jobs that run, or were asked for.
    pub fn busy(&self) -> usize {
        self.busy
    }

    /// What to ask for now, each (handler, how many); counted as running from here on.
    pub fn plan(&mut self) -> Vec<(HandlerId, usize)> {
        let mut asked: Vec<(HandlerId, usize)> = Vec::new();
        while self.busy < self.threads {
            let Some((&handler, lane)) = self
                .lanes
                .iter_mut()
                .filter(|(_, lane)| lane.may_start())
                .min_by_key(|(handler, lane)| (lane.rank(), **handler))
            else {
                break;
            };
            lane.busy += 1;
            self.busy += 1;
            match asked.iter_mut().find(|(one, _)| *one == handler) {
                Some((_, count)) => *count += 1,
                None => asked.push((handler, 1)),
            }
        }
        asked
    }

    fn lane(&mut self, handler: HandlerId) -> &mut Lane {
        let none = Lane { limits: None, paused: false, ready: true, busy: 0 };
        self.lanes.entry(handler).or_insert(none)
    }
}

impl Lane {
    fn may_start(&self) -> bool {
        self.ready && !self.paused && self.limits.is_some_and(|is| self.busy < is.concurrency)
    }

    /// The smallest is next.
    fn rank(&self) -> (std::cmp::Reverse<i64>, usize) {
        (std::cmp::Reverse(self.limits.map_or(i64::MIN, |is| is.priority)), self.busy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: HandlerId = HandlerId(1);
    const B: HandlerId = HandlerId(2);

    fn dispatch(threads: usize, limits: &[(HandlerId, i64, usize)]) -> Dispatch {
        let mut dispatch = Dispatch::new(threads);
        let limits = limits
            .iter()
            .map(|&(handler, priority, concurrency)| (handler, Limits { priority, concurrency }));
        dispatch.configure(&limits.collect());
        dispatch
    }

    #[test]
    fn equals_share_the_threads() {
        let mut it = dispatch(4, &[(A, 0, 9), (B, 0, 9)]);
        assert_eq!(it.plan(), [(A, 2), (B, 2)]);
        assert_eq!(it.plan(), []);
    }

    #[test]
    fn a_free_thread_goes_to_the_handler_with_the_fewest_running() {
        let mut it = dispatch(4, &[(A, 0, 9), (B, 0, 9)]);
        it.plan();
        it.finished(B);
        assert_eq!(it.plan(), [(B, 1)]);
    }

    #[test]
    fn the_highest_priority_comes_first_up_to_its_concurrency() {
        let mut it = dispatch(4, &[(A, 0, 9), (B, 5, 3)]);
        assert_eq!(it.plan(), [(B, 3), (A, 1)]);
    }

    #[test]
    fn a_claim_that_got_fewer_frees_the_rest_and_waits_to_be_woken() {
        let mut it = dispatch(2, &[(A, 0, 9)]);
        assert_eq!(it.plan(), [(A, 2)]);
        it.claimed(A, 2, 0);
        assert_eq!((it.plan(), it.busy()), (vec![], 0));
        it.woken(A);
        assert_eq!(it.plan(), [(A, 2)]);
    }

    #[test]
    fn a_claim_that_was_not_written_is_asked_for_again() {
        let mut it = dispatch(2, &[(A, 0, 9)]);
        it.plan();
        it.claim_failed(A, 2);
        assert_eq!(it.plan(), [(A, 2)]);
    }

    #[test]
    fn a_paused_handler_gets_no_thread() {
        let mut it = dispatch(2, &[(A, 0, 9)]);
        it.set_paused(&[A]);
        assert_eq!(it.plan(), []);
        it.set_paused(&[]);
        assert_eq!(it.plan(), [(A, 2)]);
    }

    #[test]
    fn a_handler_that_is_gone_keeps_its_running_jobs_and_starts_none() {
        let mut it = dispatch(3, &[(A, 0, 1), (B, 0, 1)]);
        it.plan();
        it.configure(&HashMap::from([(A, Limits { priority: 0, concurrency: 3 })]));
        it.finished(B);
        assert_eq!(it.plan(), [(A, 2)]);
    }
}
