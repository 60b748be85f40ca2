//! The connection of one intake thread to the writer. All events of one turn of the thread's loop
//! are one message, and the replies of a group are one wake-up.
//!
//! One wake-up for each request, in both directions, would limit intake at many connections
//! (benches/README.md). The number of rows on the way to the writer is limited. Further events wait
//! here, and sources take turns. So a flood of one source delays the others by at most that number
//! of rows.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crossbeam_channel::Sender;
use foldhash::HashMap;
use slab::Slab;

use crate::domain::SourceId;
use crate::store::events::{InsertReply, NewEvent};
use crate::store::handle::{ReplyQueue, WriteRequest, WriterMessage};

/// Maximum number of requests of one intake thread that wait for the writer. Further ones get 503.
const MAX_WAITING_REQUESTS: usize = 8192;

/// Maximum for one source.
const MAX_WAITING_REQUESTS_PER_SOURCE: usize = MAX_WAITING_REQUESTS / 4 * 3;

/// Maximum number of rows of one intake thread that are on their way to the writer.
const MAX_SENT_ROWS: usize = 2048;

/// Maximum number of rows in one message. The writer may commit between two messages.
const MAX_MESSAGE_ROWS: usize = 512;

enum PendingSlot {
    Waiting(Option<Waker>),
    Ready(InsertReply),
    /// The client disconnected before the commit.
    Abandoned,
}

/// Sends events to the writer and hands out its replies. Not shared between threads.
pub struct WriterClient {
    writer: Sender<WriterMessage>,
    replies: Arc<ReplyQueue>,
    outbox: RefCell<Outbox>,
    slots: RefCell<Slab<PendingSlot>>,
    is_flush_scheduled: Cell<bool>,
}

/// Events not yet sent, and the number of rows sent without a reply.
#[derive(Default)]
struct Outbox {
    /// Events that this turn of the loop sends.
    outgoing: Vec<NewEvent>,
    /// Events that wait for room, by source.
    waiting: HashMap<SourceId, VecDeque<NewEvent>>,
    round_robin: VecDeque<SourceId>,
    /// Rows of `outgoing`, and rows sent without a reply.
    sent_rows: usize,
    /// For each slot: its source, and its rows once sent.
    rows_by_slot: Vec<(SourceId, usize)>,
    /// Number of slots of each source.
    slot_counts: HashMap<SourceId, usize>,
}

impl Outbox {
    fn has_room(&self, rows: usize) -> bool {
        self.sent_rows == 0 || self.sent_rows + rows <= MAX_SENT_ROWS
    }

    fn add(&mut self, event: NewEvent) {
        let (source, rows) = (event.source, event.weight());
        if self.rows_by_slot.len() <= event.reply_slot {
            self.rows_by_slot.resize(event.reply_slot + 1, (SourceId(0), 0));
        }
        self.rows_by_slot[event.reply_slot] = (source, 0);
        *self.slot_counts.entry(source).or_default() += 1;
        if self.round_robin.is_empty() && self.has_room(rows) {
            self.send(event, rows);
            return;
        }
        let waiting = self.waiting.entry(source).or_default();
        if waiting.is_empty() {
            self.round_robin.push_back(source);
        }
        waiting.push_back(event);
    }

    fn send(&mut self, event: NewEvent, rows: usize) {
        self.rows_by_slot[event.reply_slot].1 = rows;
        self.sent_rows += rows;
        self.outgoing.push(event);
    }

    /// Frees the rows of an event that has a reply.
    fn release_rows(&mut self, slot: usize) {
        let Some((source, rows)) = self.rows_by_slot.get_mut(slot) else { return };
        self.sent_rows -= std::mem::take(rows);
        if let Some(count) = self.slot_counts.get_mut(source) {
            *count -= 1;
        }
    }

    /// Sends events while there is room, one of each source in turn. Events of ended requests are
    /// dropped, because nothing was promised to their senders. Returns the slots of the dropped
    /// events.
    fn refill(&mut self, is_abandoned: impl Fn(usize) -> bool) -> Vec<usize> {
        let mut abandoned = Vec::new();
        while let Some(&source) = self.round_robin.front() {
            let Some(waiting) = self.waiting.get_mut(&source) else { break };
            while let Some(event) = waiting.pop_front_if(|event| is_abandoned(event.reply_slot)) {
                abandoned.push(event.reply_slot);
            }
            let rows = waiting.front().map_or(0, NewEvent::weight);
            if rows > 0 && self.sent_rows > 0 && self.sent_rows + rows > MAX_SENT_ROWS {
                break;
            }
            self.round_robin.pop_front();
            let event = waiting.pop_front();
            if waiting.is_empty() {
                self.waiting.remove(&source);
            } else {
                self.round_robin.push_back(source);
            }
            if let Some(event) = event {
                self.send(event, rows);
            }
        }
        abandoned
    }
}

impl WriterClient {
    /// Starts the task that hands out replies. Requires the runtime of an intake thread.
    pub fn new(writer: Sender<WriterMessage>) -> Rc<Self> {
        let notify = Arc::new(tokio::sync::Notify::new());
        let notifier = Arc::clone(&notify);
        let client = Rc::new(Self {
            writer,
            replies: Arc::new(ReplyQueue::new(move || notifier.notify_one())),
            outbox: RefCell::default(),
            slots: RefCell::default(),
            is_flush_scheduled: Cell::new(false),
        });
        let weak = Rc::downgrade(&client);
        actix_web::rt::spawn(async move {
            let mut batch = Vec::new();
            loop {
                notify.notified().await;
                let Some(client) = weak.upgrade() else { return };
                client.replies.drain_into(&mut batch);
                for (slot, reply) in batch.drain(..) {
                    client.complete(slot, reply);
                }
                client.refill();
                client.flush();
            }
        });
        client
    }

    /// Sends an event to the writer, together with the others of this turn. The reply comes after the commit.
    // Not an `async fn`, which would keep two copies of the event as long as it waits.
    pub fn store(self: &Rc<Self>, mut event: NewEvent) -> PendingReply<'_> {
        let count = self.outbox.borrow().slot_counts.get(&event.source).copied();
        let is_full = count.is_some_and(|count| count >= MAX_WAITING_REQUESTS_PER_SOURCE);
        let slot = if is_full { None } else { self.reserve_slot() };
        if let Some(slot) = slot {
            event.reply_slot = slot;
            self.outbox.borrow_mut().add(event);
            if !self.is_flush_scheduled.replace(true) {
                let client = Rc::clone(self);
                // Runs after all tasks that are ready in this turn.
                actix_web::rt::spawn(async move { client.flush() });
            }
        }
        PendingReply { client: self, slot }
    }

    fn refill(&self) {
        let is_abandoned =
            |slot: usize| matches!(self.slots.borrow().get(slot), Some(PendingSlot::Abandoned));
        let abandoned = self.outbox.borrow_mut().refill(is_abandoned);
        for slot in abandoned {
            self.complete(slot, InsertReply::NoRoom);
        }
    }

    fn flush(&self) {
        self.is_flush_scheduled.set(false);
        loop {
            let mut events = std::mem::take(&mut self.outbox.borrow_mut().outgoing);
            if events.is_empty() {
                return;
            }
            while !events.is_empty() {
                let mut rows = 0;
                let split_at = events.iter().position(|event| {
                    rows += event.weight();
                    rows > MAX_MESSAGE_ROWS
                });
                let rest = events.split_off(split_at.map_or(events.len(), |at| at.max(1)));
                self.send(std::mem::replace(&mut events, rest));
            }
            // If the writer had no room, no reply would ever wake the events that wait here.
            self.refill();
        }
    }

    fn send(&self, events: Vec<NewEvent>) {
        let message =
            WriterMessage::Write(WriteRequest::NewEvents(events, Arc::clone(&self.replies)));
        if let Err(unsent) = self.writer.try_send(message)
            && let WriterMessage::Write(WriteRequest::NewEvents(events, _)) = unsent.into_inner()
        {
            for event in events {
                self.complete(event.reply_slot, InsertReply::NoRoom);
            }
        }
    }

    fn reserve_slot(&self) -> Option<usize> {
        let mut slots = self.slots.borrow_mut();
        (slots.len() < MAX_WAITING_REQUESTS).then(|| slots.insert(PendingSlot::Waiting(None)))
    }

    fn complete(&self, slot: usize, reply: InsertReply) {
        self.outbox.borrow_mut().release_rows(slot);
        let mut slots = self.slots.borrow_mut();
        let Some(pending) = slots.get_mut(slot) else { return };
        match std::mem::replace(pending, PendingSlot::Ready(reply)) {
            PendingSlot::Waiting(waker) => {
                drop(slots);
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
            PendingSlot::Abandoned | PendingSlot::Ready(_) => drop(slots.remove(slot)),
        }
    }
}

/// The writer's reply to an event.
pub struct PendingReply<'a> {
    client: &'a WriterClient,
    /// `None`: the event was not sent, because there is no room.
    slot: Option<usize>,
}

impl Future for PendingReply<'_> {
    type Output = InsertReply;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<InsertReply> {
        let Some(slot) = self.slot else { return Poll::Ready(InsertReply::NoRoom) };
        match self.client.slots.borrow_mut().get_mut(slot) {
            Some(PendingSlot::Ready(reply)) => Poll::Ready(*reply),
            Some(PendingSlot::Waiting(waker)) => {
                *waker = Some(context.waker().clone());
                Poll::Pending
            }
            Some(PendingSlot::Abandoned) | None => Poll::Ready(InsertReply::Unavailable),
        }
    }
}

impl Drop for PendingReply<'_> {
    fn drop(&mut self) {
        let Some(slot) = self.slot else { return };
        let mut slots = self.client.slots.borrow_mut();
        match slots.get_mut(slot) {
            // The client disconnected before the commit. The event is stored anyway.
            Some(pending @ PendingSlot::Waiting(_)) => *pending = PendingSlot::Abandoned,
            Some(_) => drop(slots.remove(slot)),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::EventId;
    use crate::store::events::DedupeKey;

    fn add(outbox: &mut Outbox, slot: usize, source: i64, bytes: usize) {
        let key = DedupeKey { key: [0; 16], window_ms: 0 };
        let mut event = NewEvent::look_up(SourceId(source), key);
        (event.reply_slot, event.body) = (slot, vec![0; bytes]);
        outbox.add(event);
    }

    fn take_sent(outbox: &mut Outbox) -> Vec<usize> {
        outbox.outgoing.drain(..).map(|event| event.reply_slot).collect()
    }

    #[test]
    fn an_event_of_another_source_waits_only_for_the_rows_that_are_on_their_way() {
        let mut outbox = Outbox::default();
        for slot in 0..40 {
            add(&mut outbox, slot, 1, 1 << 20);
        }
        add(&mut outbox, 40, 2, 1);
        add(&mut outbox, 41, 2, 1);
        let first = take_sent(&mut outbox);
        assert_eq!(first, (0..7).collect::<Vec<_>>(), "at most the limit of rows on their way");
        outbox.release_rows(0);
        outbox.refill(|_| false);
        assert_eq!(take_sent(&mut outbox), [7, 40], "the sources take turns");
        first[1..].iter().for_each(|slot| outbox.release_rows(*slot));
        outbox.refill(|_| false);
        assert_eq!(take_sent(&mut outbox)[..2], [8, 41]);
    }

    #[test]
    fn an_oversized_event_is_sent_alone_and_every_event_is_sent_once() {
        let mut outbox = Outbox::default();
        for slot in 0..4 {
            add(&mut outbox, slot, 1, 16 << 20);
        }
        for slot in 0..4 {
            assert_eq!(take_sent(&mut outbox), [slot]);
            outbox.release_rows(slot);
            outbox.refill(|_| false);
        }
        assert!(outbox.round_robin.is_empty() && outbox.waiting.is_empty());
        assert_eq!((outbox.sent_rows, outbox.slot_counts[&SourceId(1)]), (0, 0));
    }

    /// An event as heavy as a message may be. Three of them are on their way to the writer at once.
    fn heavy() -> NewEvent {
        let key = DedupeKey { key: [0; 16], window_ms: 0 };
        let body = vec![0; MAX_MESSAGE_ROWS * 4096];
        NewEvent { body, ..NewEvent::look_up(SourceId(1), key) }
    }

    fn poll(future: Pin<&mut impl Future<Output = InsertReply>>) -> Option<InsertReply> {
        match future.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(reply) => Some(reply),
            Poll::Pending => None,
        }
    }

    #[test]
    fn a_waiting_event_is_rejected_when_the_writer_has_no_room() {
        let (writer, receiver) = crossbeam_channel::bounded(1);
        actix_web::rt::System::new().block_on(async {
            let client = WriterClient::new(writer);
            let mut requests: Vec<_> = (0..5).map(|_| Box::pin(client.store(heavy()))).collect();
            for request in &mut requests {
                assert_eq!(poll(request.as_mut()), None);
            }
            client.flush();
            let replies: Vec<_> =
                requests.iter_mut().map(|request| poll(request.as_mut())).collect();
            assert_eq!(
                replies,
                [
                    None,
                    Some(InsertReply::NoRoom),
                    Some(InsertReply::NoRoom),
                    Some(InsertReply::NoRoom),
                    Some(InsertReply::NoRoom)
                ]
            );
            assert_eq!(receiver.len(), 1);
        });
    }

    #[test]
    fn a_request_that_is_abandoned_before_its_turn_is_not_sent_and_its_slot_is_free() {
        let (writer, receiver) = crossbeam_channel::bounded(9);
        actix_web::rt::System::new().block_on(async {
            let client = WriterClient::new(writer);
            let mut requests: Vec<_> = (0..5).map(|_| Box::pin(client.store(heavy()))).collect();
            for request in &mut requests {
                assert_eq!(poll(request.as_mut()), None);
            }
            client.flush();
            assert_eq!(receiver.len(), 3);
            drop(requests.remove(3));
            client.complete(0, InsertReply::Stored(EventId(1)));
            client.refill();
            client.flush();
            assert_eq!(receiver.len(), 4, "the fifth");
            assert!(!client.slots.borrow().contains(3));
            assert_eq!(client.outbox.borrow().slot_counts[&SourceId(1)], 3);
            assert_eq!(poll(requests[0].as_mut()), Some(InsertReply::Stored(EventId(1))));
        });
    }
}
