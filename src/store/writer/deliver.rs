//! What follows a group: everyone who waits for it is told how it went.

use super::super::channel::WriteRequest;
use super::super::deferred::Work;
use super::super::events::InsertReply;
use super::super::jobs::JobDisposition;
use super::super::op::{Operation, OperationResult};
use super::super::rest;
use super::{GROUP_OPS_MAX, Writer};

impl Writer {
    /// `retried` is what was written before the group.
    pub(super) fn deliver(
        &mut self,
        retried: Vec<Operation>,
        group: &mut Vec<WriteRequest>,
        done: Vec<OperationResult>,
    ) {
        // Before the answers: who was answered must be counted.
        self.tell_counts();
        let mut done = done.into_iter();
        for (op, done) in retried.into_iter().zip(done.by_ref()) {
            self.tell(op, done);
        }
        for write in group.drain(..) {
            match write {
                WriteRequest::Accepts(accepts, mailbox) => {
                    let count = accepts.len();
                    mailbox.put(accepts.iter().zip(done.by_ref().take(count)).map(
                        |(accept, done)| match done {
                            OperationResult::Accepted(InsertReply::Deferred(event)) => {
                                self.deferrals.keep_plan(accept.source, event, &accept.owed);
                                (accept.slot, InsertReply::Stored(event))
                            }
                            OperationResult::Accepted(reply) => (accept.slot, reply),
                            _ => (accept.slot, InsertReply::Unavailable),
                        },
                    ));
                }
                WriteRequest::Op(op) => {
                    if let Some(done) = done.next() {
                        self.tell(op, done);
                    }
                }
            }
        }
        // After the plans are there.
        if self.state.has_deferral_changed() {
            self.deferrals.count(&self.state.deferred);
        }
        self.tell_jobs();
    }

    /// How many jobs are queued now, and who had an event.
    pub(super) fn tell_counts(&mut self) {
        for (source, jobs) in self.state.queued.drain(..) {
            self.tally.of.add(source, jobs);
        }
        let now_ms = self.state.now_ms;
        if !self.state.heard.is_empty() {
            self.tally.of.saw(self.state.heard.drain(..).map(|source| (source, now_ms)));
        }
    }

    /// What the dispatcher hears of jobs that are ready, wait or rest, and what is left to do.
    pub(super) fn tell_jobs(&mut self) {
        for revival in self.state.revivals.drain(..) {
            self.backlog.push(Work::revive_jobs(revival));
        }
        for handler in self.state.rested.drain(..) {
            let rest = self.state.rests.get(&handler).copied().unwrap_or_default();
            self.hear.rests(handler, rest.until_ms);
        }
        if let Some(due_ms) = self.state.due_ms.take() {
            self.hear.waits(due_ms);
        }
        if !self.state.woken.is_empty() {
            self.hear.woken(&self.state.woken);
            self.state.woken.clear();
        }
    }

    fn tell(&mut self, op: Operation, done: OperationResult) {
        match (done, op) {
            (OperationResult::Claimed { ask, jobs }, _) => self.hear.claimed(ask, jobs),
            (OperationResult::Finished { handler, how }, _) => self.hear.finished(handler, how),
            (OperationResult::Promoted { next_due_ms }, _) => self.hear.next_due(next_due_ms),
            (OperationResult::Registered(reply, registry), _) => {
                let _ = reply.send(registry);
            }
            // At fault by itself.
            (OperationResult::Nothing, Operation::Claim(ask)) => self.hear.claimed(ask, Vec::new()),
            (OperationResult::Nothing, Operation::Expand(it)) => {
                // Not to be left running: that is what a person sees of it.
                self.unwritten.push(Operation::Finish(Box::new(it.unwritten(self.state.wall_ms))));
            }
            (OperationResult::Nothing, Operation::Finish(finish)) => {
                rest::told_nothing(&mut self.state, finish.handler, finish.on_trial);
                self.hear.finished(finish.handler, JobDisposition::Stale);
            }
            (OperationResult::Accepted(_) | OperationResult::Nothing, _) => {}
        }
    }

    /// Answers a group that was not written.
    pub(super) fn refuse(&mut self, group: &mut Vec<WriteRequest>) {
        for write in group.drain(..) {
            match write {
                WriteRequest::Accepts(accepts, mailbox) => {
                    mailbox
                        .put(accepts.iter().map(|accept| (accept.slot, InsertReply::Unavailable)));
                }
                WriteRequest::Op(Operation::Claim(ask)) => self.hear.claim_failed(ask),
                WriteRequest::Op(
                    op @ (Operation::Finish(_)
                    | Operation::Expand(_)
                    | Operation::Refusals(_)
                    | Operation::Handshakes(_)
                    | Operation::Act(_)
                    | Operation::Notice(_)),
                ) => {
                    if matches!(op, Operation::Finish(_) | Operation::Expand(_))
                        || self.unwritten.len() < GROUP_OPS_MAX
                    {
                        self.unwritten.push(op);
                    }
                }
                // `writable` makes the dispatcher ask again; whoever registers or has the queues
                // counted finds its channel closed and says so. An alert is noted, and is made again.
                WriteRequest::Op(
                    Operation::Promote
                    | Operation::Register { .. }
                    | Operation::Recount(_)
                    | Operation::Keep(_)
                    | Operation::Alert(_),
                ) => {}
            }
        }
    }
}
