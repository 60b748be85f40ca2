//! One intake thread's way to the writer and back, in groups: what the thread took in one turn of its
//! loop is one message, and a group's answers are one wake-up.
//!
//! A wake-up a request, both ways, is what limits intake at many connections (benches/README.md).
//! What a thread has on its way to the writer is bounded. Beyond that its requests wait here, and the
//! sources have their turns, so that a flood of one source delays the others by that much at most.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crossbeam_channel::Sender;

use crate::domain::SourceId;
use crate::store::events::{InsertReply, NewEvent};
use crate::store::handle::{ReplyQueue, WriteRequest, WriterMessage};

/// So many requests of one intake thread wait for the writer; beyond it they are answered 503.
const WAITING_MAX: usize = 8192;

/// So many of them are of one source.
const WAITING_OF_SOURCE_MAX: usize = WAITING_MAX / 4 * 3;

/// Maximum number of rows of one intake thread that are on their way to the writer.
const SENT_ROWS_MAX: usize = 2048;

/// Maximum number of rows in one message: between two messages the writer may commit.
const MESSAGE_ROWS_MAX: usize = 512;

enum PendingSlot {
    Free,
    Waiting(Option<Waker>),
    Answered(InsertReply),
    /// Whoever asked has gone.
    Left,
}

/// Not shared between threads.
pub struct WriterClient {
    to: Sender<WriterMessage>,
    mailbox: Arc<ReplyQueue>,
    outbox: RefCell<Outbox>,
    slots: RefCell<Vec<PendingSlot>>,
    free: RefCell<Vec<usize>>,
    flush_scheduled: Cell<bool>,
}

/// Events that are not with the writer yet.
#[derive(Default)]
struct Outbox {
    /// To be sent in this turn of the loop.
    next: Vec<NewEvent>,
    /// Those for which there is no room: by source, and the sources in the order of their turn.
    waiting: HashMap<SourceId, VecDeque<NewEvent>>,
    turn: VecDeque<SourceId>,
    /// Rows of `next`, and of those that the writer has not answered yet.
    sent_rows: usize,
    /// For each slot whose event it holds, and how many rows that is.
    costs: Vec<(SourceId, usize)>,
    /// How many slots each source has.
    slots: HashMap<SourceId, usize>,
}

impl Outbox {
    fn has_room(&self, rows: usize) -> bool {
        self.sent_rows == 0 || self.sent_rows + rows <= SENT_ROWS_MAX
    }

    fn put(&mut self, accept: NewEvent) {
        let (source, rows) = (accept.source, accept.weight());
        if self.costs.len() <= accept.reply_slot {
            self.costs.resize(accept.reply_slot + 1, (SourceId(0), 0));
        }
        self.costs[accept.reply_slot] = (source, 0);
        *self.slots.entry(source).or_default() += 1;
        if self.turn.is_empty() && self.has_room(rows) {
            self.send(accept, rows);
            return;
        }
        let waiting = self.waiting.entry(source).or_default();
        if waiting.is_empty() {
            self.turn.push_back(source);
        }
        waiting.push_back(accept);
    }

    fn send(&mut self, accept: NewEvent, rows: usize) {
        self.costs[accept.reply_slot].1 = rows;
        self.sent_rows += rows;
        self.next.push(accept);
    }

    /// An event has its answer.
    fn answered(&mut self, slot: usize) {
        let Some((source, rows)) = self.costs.get_mut(slot) else { return };
        self.sent_rows -= std::mem::take(rows);
        if let Some(slots) = self.slots.get_mut(source) {
            *slots -= 1;
        }
    }

    /// Sends what there is room for now, an event of each source in turn. Those whose requests are gone
    /// are dropped, as nothing was promised to them; gives their slots.
    fn refill(&mut self, is_gone: impl Fn(usize) -> bool) -> Vec<usize> {
        let mut gone = Vec::new();
        while let Some(&source) = self.turn.front() {
            let Some(waiting) = self.waiting.get_mut(&source) else { break };
            while let Some(accept) = waiting.pop_front_if(|accept| is_gone(accept.reply_slot)) {
                gone.push(accept.reply_slot);
            }
            let rows = waiting.front().map_or(0, NewEvent::weight);
            if rows > 0 && self.sent_rows > 0 && self.sent_rows + rows > SENT_ROWS_MAX {
                break;
            }
            self.turn.pop_front();
            let accept = waiting.pop_front();
            if waiting.is_empty() {
                self.waiting.remove(&source);
            } else {
                self.turn.push_back(source);
            }
            if let Some(accept) = accept {
                self.send(accept, rows);
            }
        }
        gone
    }
}

impl WriterClient {
    /// Within an intake thread's runtime: starts the task that gives out the answers.
    pub fn new(to: Sender<WriterMessage>) -> Rc<Self> {
        let notify = Arc::new(tokio::sync::Notify::new());
        let woken = Arc::clone(&notify);
        let lane = Rc::new(Self {
            to,
            mailbox: Arc::new(ReplyQueue::new(move || woken.notify_one())),
            outbox: RefCell::default(),
            slots: RefCell::default(),
            free: RefCell::default(),
            flush_scheduled: Cell::new(false),
        });
        let weak = Rc::downgrade(&lane);
        actix_web::rt::spawn(async move {
            let mut replies = Vec::new();
            loop {
                notify.notified().await;
                let Some(lane) = weak.upgrade() else { return };
                lane.mailbox.take(&mut replies);
                for (slot, reply) in replies.drain(..) {
                    lane.complete(slot, reply);
                }
                lane.refill();
                lane.flush();
            }
        });
        lane
    }

    /// Stores it, with all others of this turn; answered after the commit.
    pub async fn store(self: &Rc<Self>, mut accept: NewEvent) -> InsertReply {
        let slots = self.outbox.borrow().slots.get(&accept.source).copied();
        if slots.is_some_and(|slots| slots >= WAITING_OF_SOURCE_MAX) {
            return InsertReply::Unavailable;
        }
        let Some(slot) = self.reserve_slot() else { return InsertReply::Unavailable };
        accept.reply_slot = slot;
        self.outbox.borrow_mut().put(accept);
        if !self.flush_scheduled.replace(true) {
            let lane = Rc::clone(self);
            // Runs when those that are ready in this turn have had theirs.
            actix_web::rt::spawn(async move { lane.flush() });
        }
        PendingReply { lane: self, slot }.await
    }

    fn refill(&self) {
        let is_gone = |slot: usize| matches!(self.slots.borrow()[slot], PendingSlot::Left);
        let gone = self.outbox.borrow_mut().refill(is_gone);
        for slot in gone {
            self.complete(slot, InsertReply::Unavailable);
        }
    }

    fn flush(&self) {
        self.flush_scheduled.set(false);
        loop {
            let mut accepts = std::mem::take(&mut self.outbox.borrow_mut().next);
            if accepts.is_empty() {
                return;
            }
            while !accepts.is_empty() {
                let mut rows = 0;
                let cut = accepts.iter().position(|accept| {
                    rows += accept.weight();
                    rows > MESSAGE_ROWS_MAX
                });
                let rest = accepts.split_off(cut.map_or(accepts.len(), |at| at.max(1)));
                self.send(std::mem::replace(&mut accepts, rest));
            }
            // Where the writer had no room, no reply of its own would move on those that wait.
            self.refill();
        }
    }

    fn send(&self, accepts: Vec<NewEvent>) {
        let message =
            WriterMessage::Write(WriteRequest::NewEvents(accepts, Arc::clone(&self.mailbox)));
        if let Err(refused) = self.to.try_send(message)
            && let WriterMessage::Write(WriteRequest::NewEvents(accepts, _)) = refused.into_inner()
        {
            for accept in accepts {
                self.complete(accept.reply_slot, InsertReply::Unavailable);
            }
        }
    }

    fn reserve_slot(&self) -> Option<usize> {
        let mut slots = self.slots.borrow_mut();
        if let Some(slot) = self.free.borrow_mut().pop() {
            slots[slot] = PendingSlot::Waiting(None);
            return Some(slot);
        }
        (slots.len() < WAITING_MAX).then(|| {
            slots.push(PendingSlot::Waiting(None));
            slots.len() - 1
        })
    }

    fn complete(&self, slot: usize, reply: InsertReply) {
        self.outbox.borrow_mut().answered(slot);
        let mut slots = self.slots.borrow_mut();
        match std::mem::replace(&mut slots[slot], PendingSlot::Answered(reply)) {
            PendingSlot::Waiting(waker) => {
                drop(slots);
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
            PendingSlot::Left | PendingSlot::Free | PendingSlot::Answered(_) => {
                slots[slot] = PendingSlot::Free;
                self.free.borrow_mut().push(slot);
            }
        }
    }
}

struct PendingReply<'a> {
    lane: &'a WriterClient,
    slot: usize,
}

impl Future for PendingReply<'_> {
    type Output = InsertReply;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<InsertReply> {
        match &mut self.lane.slots.borrow_mut()[self.slot] {
            PendingSlot::Answered(reply) => Poll::Ready(*reply),
            PendingSlot::Waiting(waker) => {
                *waker = Some(context.waker().clone());
                Poll::Pending
            }
            PendingSlot::Free | PendingSlot::Left => Poll::Ready(InsertReply::Unavailable),
        }
    }
}

impl Drop for PendingReply<'_> {
    fn drop(&mut self) {
        let slot = &mut self.lane.slots.borrow_mut()[self.slot];
        match slot {
            // The sender went away before the commit: the event is kept all the same.
            PendingSlot::Waiting(_) => *slot = PendingSlot::Left,
            PendingSlot::Answered(_) | PendingSlot::Free | PendingSlot::Left => {
                *slot = PendingSlot::Free;
                self.lane.free.borrow_mut().push(self.slot);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::EventId;
    use crate::store::events::DedupeKey;

    fn put(outbox: &mut Outbox, slot: usize, source: i64, bytes: usize) {
        let key = DedupeKey { key: [0; 16], window_ms: 0 };
        let mut accept = NewEvent::look_up(SourceId(source), key);
        (accept.reply_slot, accept.body) = (slot, vec![0; bytes]);
        outbox.put(accept);
    }

    fn sent(outbox: &mut Outbox) -> Vec<usize> {
        outbox.next.drain(..).map(|accept| accept.reply_slot).collect()
    }

    #[test]
    fn an_event_of_another_source_waits_for_none_of_a_flood_but_those_on_their_way() {
        let mut outbox = Outbox::default();
        for slot in 0..40 {
            put(&mut outbox, slot, 1, 1 << 20);
        }
        put(&mut outbox, 40, 2, 1);
        put(&mut outbox, 41, 2, 1);
        let first = sent(&mut outbox);
        assert_eq!(first, (0..7).collect::<Vec<_>>(), "no more than the writer is to have at once");
        outbox.answered(0);
        outbox.refill(|_| false);
        assert_eq!(sent(&mut outbox), [7, 40], "the sources take turns");
        first[1..].iter().for_each(|slot| outbox.answered(*slot));
        outbox.refill(|_| false);
        assert_eq!(sent(&mut outbox)[..2], [8, 41]);
    }

    #[test]
    fn what_is_larger_than_all_room_goes_alone_and_every_event_goes_once() {
        let mut outbox = Outbox::default();
        for slot in 0..4 {
            put(&mut outbox, slot, 1, 16 << 20);
        }
        for slot in 0..4 {
            assert_eq!(sent(&mut outbox), [slot]);
            outbox.answered(slot);
            outbox.refill(|_| false);
        }
        assert!(outbox.turn.is_empty() && outbox.waiting.is_empty());
        assert_eq!((outbox.sent_rows, outbox.slots[&SourceId(1)]), (0, 0));
    }

    /// As heavy as a message may be: three of them are on their way to the writer at once.
    fn heavy() -> NewEvent {
        let key = DedupeKey { key: [0; 16], window_ms: 0 };
        let body = vec![0; MESSAGE_ROWS_MAX * 4096];
        NewEvent { body, ..NewEvent::look_up(SourceId(1), key) }
    }

    fn poll(future: Pin<&mut impl Future<Output = InsertReply>>) -> Option<InsertReply> {
        match future.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(reply) => Some(reply),
            Poll::Pending => None,
        }
    }

    #[test]
    fn what_waits_for_a_writer_without_room_is_told() {
        let (to, from) = crossbeam_channel::bounded(1);
        actix_web::rt::System::new().block_on(async {
            let lane = WriterClient::new(to);
            let mut requests: Vec<_> = (0..5).map(|_| Box::pin(lane.store(heavy()))).collect();
            for request in &mut requests {
                assert_eq!(poll(request.as_mut()), None);
            }
            lane.flush();
            let replies: Vec<_> = requests.iter_mut().map(|it| poll(it.as_mut())).collect();
            assert_eq!(
                replies,
                [
                    None,
                    Some(InsertReply::Unavailable),
                    Some(InsertReply::Unavailable),
                    Some(InsertReply::Unavailable),
                    Some(InsertReply::Unavailable)
                ]
            );
            assert_eq!(from.len(), 1);
        });
    }

    #[test]
    fn a_request_that_is_gone_before_its_turn_is_not_sent_and_its_slot_is_free() {
        let (to, from) = crossbeam_channel::bounded(9);
        actix_web::rt::System::new().block_on(async {
            let lane = WriterClient::new(to);
            let mut requests: Vec<_> = (0..5).map(|_| Box::pin(lane.store(heavy()))).collect();
            for request in &mut requests {
                assert_eq!(poll(request.as_mut()), None);
            }
            lane.flush();
            assert_eq!(from.len(), 3);
            drop(requests.remove(3));
            lane.complete(0, InsertReply::Stored(EventId(1)));
            lane.refill();
            lane.flush();
            assert_eq!(from.len(), 4, "the fifth");
            assert_eq!(*lane.free.borrow(), [3]);
            assert_eq!(lane.outbox.borrow().slots[&SourceId(1)], 3);
            assert_eq!(poll(requests[0].as_mut()), Some(InsertReply::Stored(EventId(1))));
        });
    }
}
