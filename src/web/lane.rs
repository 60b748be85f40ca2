//! One intake thread's way to the writer and back, in groups: what the thread took in one turn of its
//! loop is one message, and a group's answers are one wake-up.
//!
//! A wake-up a request, both ways, is what limits intake at many connections (benches/README.md).

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crossbeam_channel::Sender;

use crate::store::channel::{Mailbox, Message, Write};
use crate::store::events::{Accept, Reply};

/// So many requests of one intake thread wait for the writer; beyond it they are answered 503.
const WAITING_MAX: usize = 8192;

enum Slot {
    Free,
    Waiting(Option<Waker>),
    Answered(Reply),
    /// Whoever asked has gone.
    Left,
}

/// Not shared between threads.
pub struct Lane {
    to: Sender<Message>,
    mailbox: Arc<Mailbox>,
    outbox: RefCell<Vec<Accept>>,
    slots: RefCell<Vec<Slot>>,
    free: RefCell<Vec<usize>>,
    handing_over: Cell<bool>,
}

impl Lane {
    /// Within an intake thread's runtime: starts the task that gives out the answers.
    pub fn new(to: Sender<Message>) -> Rc<Self> {
        let notify = Arc::new(tokio::sync::Notify::new());
        let woken = Arc::clone(&notify);
        let lane = Rc::new(Self {
            to,
            mailbox: Arc::new(Mailbox::new(move || woken.notify_one())),
            outbox: RefCell::default(),
            slots: RefCell::default(),
            free: RefCell::default(),
            handing_over: Cell::new(false),
        });
        let weak = Rc::downgrade(&lane);
        actix_web::rt::spawn(async move {
            let mut replies = Vec::new();
            loop {
                notify.notified().await;
                let Some(lane) = weak.upgrade() else { return };
                lane.mailbox.take(&mut replies);
                for (slot, reply) in replies.drain(..) {
                    lane.answer(slot, reply);
                }
            }
        });
        lane
    }

    /// Stores it, with all others of this turn; answered after the commit.
    pub async fn store(self: &Rc<Self>, mut accept: Accept) -> Reply {
        let Some(slot) = self.take_slot() else { return Reply::Unavailable };
        accept.slot = slot;
        self.outbox.borrow_mut().push(accept);
        if !self.handing_over.replace(true) {
            let lane = Rc::clone(self);
            // Runs when those that are ready in this turn have had theirs.
            actix_web::rt::spawn(async move { lane.hand_over() });
        }
        Answer { lane: self, slot }.await
    }

    fn hand_over(&self) {
        self.handing_over.set(false);
        let accepts = std::mem::take(&mut *self.outbox.borrow_mut());
        if accepts.is_empty() {
            return;
        }
        let message = Message::Write(Write::Accepts(accepts, Arc::clone(&self.mailbox)));
        if let Err(refused) = self.to.try_send(message)
            && let Message::Write(Write::Accepts(accepts, _)) = refused.into_inner()
        {
            for accept in accepts {
                self.answer(accept.slot, Reply::Unavailable);
            }
        }
    }

    fn take_slot(&self) -> Option<usize> {
        let mut slots = self.slots.borrow_mut();
        if let Some(slot) = self.free.borrow_mut().pop() {
            slots[slot] = Slot::Waiting(None);
            return Some(slot);
        }
        (slots.len() < WAITING_MAX).then(|| {
            slots.push(Slot::Waiting(None));
            slots.len() - 1
        })
    }

    fn answer(&self, slot: usize, reply: Reply) {
        let mut slots = self.slots.borrow_mut();
        match std::mem::replace(&mut slots[slot], Slot::Answered(reply)) {
            Slot::Waiting(waker) => {
                drop(slots);
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
            Slot::Left | Slot::Free | Slot::Answered(_) => {
                slots[slot] = Slot::Free;
                self.free.borrow_mut().push(slot);
            }
        }
    }
}

struct Answer<'a> {
    lane: &'a Lane,
    slot: usize,
}

impl Future for Answer<'_> {
    type Output = Reply;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Reply> {
        match &mut self.lane.slots.borrow_mut()[self.slot] {
            Slot::Answered(reply) => Poll::Ready(*reply),
            Slot::Waiting(waker) => {
                *waker = Some(context.waker().clone());
                Poll::Pending
            }
            Slot::Free | Slot::Left => Poll::Ready(Reply::Unavailable),
        }
    }
}

impl Drop for Answer<'_> {
    fn drop(&mut self) {
        let slot = &mut self.lane.slots.borrow_mut()[self.slot];
        match slot {
            // The sender went away before the commit: the event is kept all the same.
            Slot::Waiting(_) => *slot = Slot::Left,
            Slot::Answered(_) | Slot::Free | Slot::Left => {
                *slot = Slot::Free;
                self.lane.free.borrow_mut().push(self.slot);
            }
        }
    }
}
