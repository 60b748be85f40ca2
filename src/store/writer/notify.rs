//! Notifications after a group: replies to intake, and calls of the observer.

use super::super::breaker;
use super::super::deferred::BacklogTask;
use super::super::events::InsertReply;
use super::super::handle::WriteRequest;
use super::super::jobs::FinishResult;
use super::super::operation::{Operation, OperationResult};
use super::{MAX_GROUP_OPS, Writer};

impl Writer {
    /// Notifies all who wait for a committed group. `retried` holds the operations that were
    /// written before the group.
    pub(super) fn notify_observers(
        &mut self,
        retried: Vec<Operation>,
        group: &mut Vec<WriteRequest>,
        results: Vec<OperationResult>,
    ) {
        // The counts come before the replies: an event that is confirmed must be counted.
        self.publish_counts();
        let mut results = results.into_iter();
        for (op, result) in retried.into_iter().zip(results.by_ref()) {
            self.notify(op, result);
        }
        for write in group.drain(..) {
            match write {
                WriteRequest::NewEvents(new_events, reply_queue) => {
                    let count = new_events.len();
                    reply_queue.push(new_events.iter().zip(results.by_ref().take(count)).map(
                        |(new_event, result)| match result {
                            OperationResult::Inserted(InsertReply::Deferred(event)) => {
                                self.deferrals.keep_plan(new_event.source, event, &new_event.plan);
                                (new_event.reply_slot, InsertReply::Stored(event))
                            }
                            OperationResult::Inserted(reply) => (new_event.reply_slot, reply),
                            _ => (new_event.reply_slot, InsertReply::Unavailable),
                        },
                    ));
                }
                WriteRequest::Operation(op) => {
                    if let Some(result) = results.next() {
                        self.notify(op, result);
                    }
                }
            }
        }
        // The plans must be stored before the expander looks.
        if self.state.has_deferral_changed() {
            self.deferrals.set_counts(&self.state.deferred);
        }
        self.publish_job_changes();
    }

    /// Publishes the number of queued jobs and the activity of the sources.
    pub(super) fn publish_counts(&mut self) {
        for (source, jobs) in self.state.queued_changes.drain(..) {
            self.recount.counters.add(source, jobs);
        }
        let now_ms = self.state.now_ms;
        if !self.state.active_sources.is_empty() {
            self.recount
                .counters
                .set_last_seen(self.state.active_sources.drain(..).map(|source| (source, now_ms)));
        }
    }

    /// Publishes ready and scheduled jobs and changed circuit breakers to the observer, and adds
    /// new tasks to the backlog.
    pub(super) fn publish_job_changes(&mut self) {
        for retry in self.state.dead_job_retries.drain(..) {
            self.backlog.push(BacklogTask::retry_dead_jobs(retry));
        }
        for handler in self.state.changed_breakers.drain(..) {
            let breaker = self.state.breakers.get(&handler).copied().unwrap_or_default();
            self.observer.breaker_changed(handler, breaker.open_until_ms);
        }
        for dead_job in self.state.dead_jobs.drain(..) {
            self.observer.job_died(dead_job);
        }
        if let Some(due_ms) = self.state.next_due_ms.take() {
            self.observer.job_scheduled(due_ms);
        }
        if !self.state.ready_counts.is_empty() {
            self.observer.jobs_ready(&self.state.ready_counts);
            self.state.ready_counts.clear();
        }
    }

    fn notify(&mut self, op: Operation, result: OperationResult) {
        match (result, op) {
            (OperationResult::Claimed { request, jobs }, _) => {
                self.observer.jobs_claimed(request, jobs)
            }
            (OperationResult::Finished { handler, result }, _) => {
                self.observer.attempt_finished(handler, result)
            }
            (OperationResult::Promoted { next_due_ms }, _) => self.observer.next_due(next_due_ms),
            (OperationResult::Registered(reply, registry), _) => {
                let _ = reply.send(registry);
            }
            // The database rejected this claim alone.
            (OperationResult::Nothing, Operation::Claim(request)) => {
                self.observer.jobs_claimed(request, Vec::new())
            }
            (OperationResult::Nothing, Operation::Reevaluate(reevaluation)) => {
                // The job must not stay running: a person sees this record of the failure.
                self.retry_queue.push(Operation::Finish(Box::new(
                    reevaluation.write_failed_record(self.state.wall_ms),
                )));
            }
            (OperationResult::Nothing, Operation::Finish(record)) => {
                breaker::probe_inconclusive(&mut self.state, record.handler, record.is_probe);
                self.observer.attempt_finished(record.handler, FinishResult::Stale);
            }
            (OperationResult::Inserted(_) | OperationResult::Nothing, _) => {}
        }
    }

    /// Replies to a group that was not written.
    pub(super) fn fail_group(&mut self, group: &mut Vec<WriteRequest>) {
        for write in group.drain(..) {
            match write {
                WriteRequest::NewEvents(new_events, reply_queue) => {
                    reply_queue.push(
                        new_events
                            .iter()
                            .map(|new_event| (new_event.reply_slot, InsertReply::Unavailable)),
                    );
                }
                WriteRequest::Operation(Operation::Claim(request)) => {
                    self.observer.claim_failed(request)
                }
                WriteRequest::Operation(
                    op @ (Operation::Finish(_)
                    | Operation::Reevaluate(_)
                    | Operation::Rejections(_)
                    | Operation::Handshakes(_)
                    | Operation::Audit(_)
                    | Operation::AlertSignal(_)),
                ) => {
                    if matches!(op, Operation::Finish(_) | Operation::Reevaluate(_))
                        || self.retry_queue.len() < MAX_GROUP_OPS
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
