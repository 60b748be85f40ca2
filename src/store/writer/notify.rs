//! Notifications after a group: replies to intake, and calls of the observer.

use super::super::breaker;
use super::super::deferred::BacklogTask;
use super::super::events::InsertReply;
use super::super::handle::WriteRequest;
use super::super::jobs::JobDisposition;
use super::super::operation::{Operation, OperationResult};
use super::{GROUP_OPS_MAX, Writer};

impl Writer {
    /// Notifies all who wait for a committed group. `retried` holds the operations that were
    /// written before the group.
    pub(super) fn notify_observers(
        &mut self,
        retried: Vec<Operation>,
        group: &mut Vec<WriteRequest>,
        done: Vec<OperationResult>,
    ) {
        // The counts come before the replies: an event that is confirmed must be counted.
        self.tell_counts();
        let mut done = done.into_iter();
        for (op, done) in retried.into_iter().zip(done.by_ref()) {
            self.notify(op, done);
        }
        for write in group.drain(..) {
            match write {
                WriteRequest::NewEvents(accepts, mailbox) => {
                    let count = accepts.len();
                    mailbox.push(accepts.iter().zip(done.by_ref().take(count)).map(
                        |(accept, done)| match done {
                            OperationResult::Inserted(InsertReply::Deferred(event)) => {
                                self.deferrals.keep_plan(accept.source, event, &accept.plan);
                                (accept.reply_slot, InsertReply::Stored(event))
                            }
                            OperationResult::Inserted(reply) => (accept.reply_slot, reply),
                            _ => (accept.reply_slot, InsertReply::Unavailable),
                        },
                    ));
                }
                WriteRequest::Operation(op) => {
                    if let Some(done) = done.next() {
                        self.notify(op, done);
                    }
                }
            }
        }
        // The plans must be stored before the expander looks.
        if self.state.has_deferral_changed() {
            self.deferrals.set_counts(&self.state.deferred);
        }
        self.tell_jobs();
    }

    /// Publishes the number of queued jobs and the activity of the sources.
    pub(super) fn tell_counts(&mut self) {
        for (source, jobs) in self.state.queued_changes.drain(..) {
            self.tally.of.add(source, jobs);
        }
        let now_ms = self.state.now_ms;
        if !self.state.active_sources.is_empty() {
            self.tally
                .of
                .set_last_seen(self.state.active_sources.drain(..).map(|source| (source, now_ms)));
        }
    }

    /// Publishes ready and scheduled jobs and changed circuit breakers to the observer, and adds
    /// new tasks to the backlog.
    pub(super) fn tell_jobs(&mut self) {
        for revival in self.state.dead_job_retries.drain(..) {
            self.backlog.push(BacklogTask::retry_dead_jobs(revival));
        }
        for handler in self.state.changed_breakers.drain(..) {
            let rest = self.state.breakers.get(&handler).copied().unwrap_or_default();
            self.hear.breaker_changed(handler, rest.open_until_ms);
        }
        if let Some(due_ms) = self.state.next_due_ms.take() {
            self.hear.job_scheduled(due_ms);
        }
        if !self.state.ready_counts.is_empty() {
            self.hear.jobs_ready(&self.state.ready_counts);
            self.state.ready_counts.clear();
        }
    }

    fn notify(&mut self, op: Operation, done: OperationResult) {
        match (done, op) {
            (OperationResult::Claimed { ask, jobs }, _) => self.hear.jobs_claimed(ask, jobs),
            (OperationResult::Finished { handler, how }, _) => {
                self.hear.attempt_finished(handler, how)
            }
            (OperationResult::Promoted { next_due_ms }, _) => self.hear.next_due(next_due_ms),
            (OperationResult::Registered(reply, registry), _) => {
                let _ = reply.send(registry);
            }
            // The database rejected this claim alone.
            (OperationResult::Nothing, Operation::Claim(ask)) => {
                self.hear.jobs_claimed(ask, Vec::new())
            }
            (OperationResult::Nothing, Operation::Reevaluate(it)) => {
                // The job must not stay running: a person sees this record of the failure.
                self.retry_queue
                    .push(Operation::Finish(Box::new(it.write_failed_record(self.state.wall_ms))));
            }
            (OperationResult::Nothing, Operation::Finish(finish)) => {
                breaker::probe_inconclusive(&mut self.state, finish.handler, finish.is_probe);
                self.hear.attempt_finished(finish.handler, JobDisposition::Stale);
            }
            (OperationResult::Inserted(_) | OperationResult::Nothing, _) => {}
        }
    }

    /// Replies to a group that was not written.
    pub(super) fn fail_group(&mut self, group: &mut Vec<WriteRequest>) {
        for write in group.drain(..) {
            match write {
                WriteRequest::NewEvents(accepts, mailbox) => {
                    mailbox.push(
                        accepts.iter().map(|accept| (accept.reply_slot, InsertReply::Unavailable)),
                    );
                }
                WriteRequest::Operation(Operation::Claim(ask)) => self.hear.claim_failed(ask),
                WriteRequest::Operation(
                    op @ (Operation::Finish(_)
                    | Operation::Reevaluate(_)
                    | Operation::Rejections(_)
                    | Operation::Handshakes(_)
                    | Operation::Audit(_)
                    | Operation::AlertSignal(_)),
                ) => {
                    if matches!(op, Operation::Finish(_) | Operation::Reevaluate(_))
                        || self.retry_queue.len() < GROUP_OPS_MAX
                    {
                        self.retry_queue.push(op);
                    }
                }
                // After `store_recovered` the dispatcher repeats its requests. A caller that
                // registers or recounts finds its channel closed and reports that. An alert stays
                // recorded, and its event is created later.
                WriteRequest::Operation(
                    Operation::Promote
                    | Operation::Register { .. }
                    | Operation::Recount(_)
                    | Operation::SaveState(_)
                    | Operation::AlertEvent(_),
                ) => {}
            }
        }
    }
}
