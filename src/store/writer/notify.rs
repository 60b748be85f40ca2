//! What follows a group: everyone who waits for it is told how it went.

use super::super::breaker;
use super::super::deferred::Work;
use super::super::events::InsertReply;
use super::super::handle::WriteRequest;
use super::super::jobs::JobDisposition;
use super::super::operation::{Operation, OperationResult};
use super::{GROUP_OPS_MAX, Writer};

impl Writer {
    /// `retried` is what was written before the group.
    pub(super) fn notify_observers(
        &mut self,
        retried: Vec<Operation>,
        group: &mut Vec<WriteRequest>,
        done: Vec<OperationResult>,
    ) {
        // Before the answers: who was answered must be counted.
        self.tell_counts();
        let mut done = done.into_iter();
        for (op, done) in retried.into_iter().zip(done.by_ref()) {
            self.notify(op, done);
        }
        for write in group.drain(..) {
            match write {
                WriteRequest::NewEvents(accepts, mailbox) => {
                    let count = accepts.len();
                    mailbox.put(accepts.iter().zip(done.by_ref().take(count)).map(
                        |(accept, done)| match done {
                            OperationResult::Accepted(InsertReply::Deferred(event)) => {
                                self.deferrals.keep_plan(accept.source, event, &accept.owed);
                                (accept.reply_slot, InsertReply::Stored(event))
                            }
                            OperationResult::Accepted(reply) => (accept.reply_slot, reply),
                            _ => (accept.reply_slot, InsertReply::Unavailable),
                        },
                    ));
                }
                WriteRequest::Op(op) => {
                    if let Some(done) = done.next() {
                        self.notify(op, done);
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
        if !self.state.active_sources.is_empty() {
            self.tally
                .of
                .set_last_seen(self.state.active_sources.drain(..).map(|source| (source, now_ms)));
        }
    }

    /// What the dispatcher hears of jobs that are ready, wait or rest, and what is left to do.
    pub(super) fn tell_jobs(&mut self) {
        for revival in self.state.revivals.drain(..) {
            self.backlog.push(Work::revive_jobs(revival));
        }
        for handler in self.state.changed_breakers.drain(..) {
            let rest = self.state.rests.get(&handler).copied().unwrap_or_default();
            self.hear.breaker_changed(handler, rest.until_ms);
        }
        if let Some(due_ms) = self.state.due_ms.take() {
            self.hear.job_scheduled(due_ms);
        }
        if !self.state.ready_counts.is_empty() {
            self.hear.jobs_ready(&self.state.ready_counts);
            self.state.ready_counts.clear();
        }
    }

    fn notify(&mut self, op: Operation, done: OperationResult) {
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
                self.retry_queue
                    .push(Operation::Finish(Box::new(it.write_failed_record(self.state.wall_ms))));
            }
            (OperationResult::Nothing, Operation::Finish(finish)) => {
                breaker::probe_inconclusive(&mut self.state, finish.handler, finish.on_trial);
                self.hear.finished(finish.handler, JobDisposition::Stale);
            }
            (OperationResult::Accepted(_) | OperationResult::Nothing, _) => {}
        }
    }

    /// Answers a group that was not written.
    pub(super) fn fail_group(&mut self, group: &mut Vec<WriteRequest>) {
        for write in group.drain(..) {
            match write {
                WriteRequest::NewEvents(accepts, mailbox) => {
                    mailbox.put(
                        accepts.iter().map(|accept| (accept.reply_slot, InsertReply::Unavailable)),
                    );
                }
                WriteRequest::Op(Operation::Claim(ask)) => self.hear.claim_failed(ask),
                WriteRequest::Op(
                    op @ (Operation::Finish(_)
                    | Operation::Expand(_)
                    | Operation::Refusals(_)
                    | Operation::Handshakes(_)
                    | Operation::Audit(_)
                    | Operation::Notice(_)),
                ) => {
                    if matches!(op, Operation::Finish(_) | Operation::Expand(_))
                        || self.retry_queue.len() < GROUP_OPS_MAX
                    {
                        self.retry_queue.push(op);
                    }
                }
                // `writable` makes the dispatcher ask again; whoever registers or has the queues
                // counted finds its channel closed and says so. An alert is noted, and is made again.
                WriteRequest::Op(
                    Operation::Promote
                    | Operation::Register { .. }
                    | Operation::Recount(_)
                    | Operation::SaveState(_)
                    | Operation::Alert(_),
                ) => {}
            }
        }
    }
}
