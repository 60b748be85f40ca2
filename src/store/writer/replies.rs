//! What follows the commit of a group: replies to intake, jobs that start, counts.

use super::super::backlog_task::BacklogTask;
use super::super::breaker;
use super::super::effects::Effects;
use super::super::events::{InsertReply, NewEvent};
use super::super::handle::WriteRequest;
use super::super::operation::{Operation, OperationResult};
use super::{MAX_GROUP_OPS, Writer};

impl Writer {
    /// Replies to all who wait for a committed group, and starts its claimed jobs. `retried` holds the
    /// operations that were written before the group.
    pub(super) fn send_replies(
        &mut self,
        retried: Vec<Operation>,
        group: &mut Vec<WriteRequest>,
        results: Vec<OperationResult>,
        effects: &Effects,
    ) {
        // The counts come before the replies: an event that is confirmed must be counted.
        self.publish_counts(effects);
        let mut results = results.into_iter();
        for (op, result) in retried.into_iter().zip(results.by_ref()) {
            self.complete(op, result);
        }
        for write in group.drain(..) {
            match write {
                WriteRequest::NewEvents(new_events, reply_queue) => {
                    reply_queue.push(new_events, |new_event| match results.next() {
                        Some(OperationResult::Inserted(InsertReply::Deferred(event))) => {
                            let NewEvent { source, plan, .. } = new_event;
                            self.inputs.deferrals.keep_plan(*source, event, plan);
                            InsertReply::Stored(event)
                        }
                        Some(OperationResult::Inserted(reply)) => reply,
                        _ => InsertReply::Unavailable,
                    });
                }
                WriteRequest::Operation(op) => {
                    if let Some(result) = results.next() {
                        self.complete(op, result);
                    }
                }
            }
        }
        // The plans must be stored before the expander looks.
        if !effects.deferred.is_empty() {
            self.cache.apply_deferred(&effects.deferred);
            self.inputs.deferrals.set_counts(&self.cache.deferred);
        }
        self.publish_job_changes(effects);
    }

    /// Publishes the number of queued jobs, the activity of the sources and the metrics of their events.
    pub(super) fn publish_counts(&self, effects: &Effects) {
        self.inputs.metrics.count_committed(effects.minute_counts.sources());
        for &(source, jobs) in &effects.queued {
            self.recount.counters.add(source, jobs);
        }
        let now_ms = self.cache.now_ms;
        if !effects.active_sources.is_empty() {
            self.recount
                .counters
                .set_last_seen(effects.active_sources.iter().map(|source| (*source, now_ms)));
        }
    }

    /// Reports ready and scheduled jobs and changed circuit breakers to the scheduler, and adds new tasks
    /// to the backlog.
    pub(super) fn publish_job_changes(&mut self, effects: &Effects) {
        for &retry in &effects.dead_job_retries {
            self.backlog.push(BacklogTask::retry_dead_jobs(retry));
        }
        effects.dead_jobs.iter().for_each(&self.inputs.on_dead_job);
        if effects.has_settled_jobs {
            (self.inputs.on_settled_jobs)();
        }
        self.jobs.apply_effects(effects);
    }

    fn complete(&mut self, op: Operation, result: OperationResult) {
        match (result, op) {
            (OperationResult::Claimed { request, jobs }, _) => {
                let unstarted = self.jobs.start_claimed(&request, jobs);
                let records = unstarted.into_iter().map(Box::new);
                self.retry_queue.extend(records.map(Operation::Finish));
            }
            (OperationResult::Promoted { next_due_ms }, _) => self.jobs.set_due(next_due_ms),
            (OperationResult::Registered(reply, registry), _) => {
                let _ = reply.send(registry);
            }
            (OperationResult::Done, Operation::ReportSettlements { reply, .. }) => {
                let _ = reply.try_send(());
            }
            (OperationResult::Rejected, Operation::Claim(request)) => {
                self.jobs.start_claimed(&request, Vec::new());
                self.jobs.refresh_later();
            }
            (OperationResult::Rejected, Operation::Promote) => self.jobs.refresh_later(),
            (OperationResult::Rejected, Operation::Reevaluate(reevaluation)) => {
                // The job must not stay running: a person sees this record of the failure.
                self.retry_queue.push(Operation::Finish(Box::new(
                    reevaluation.write_failed_record(self.cache.wall_ms),
                )));
            }
            (OperationResult::Rejected, Operation::Finish(record)) => {
                let mut effects = Effects::default();
                breaker::end_probe(&self.cache, record.handler, record.is_probe, &mut effects);
                self.jobs.apply_effects(&effects);
            }
            (
                OperationResult::Inserted(_) | OperationResult::Done | OperationResult::Rejected,
                _,
            ) => {}
        }
    }

    /// Replies to a group that was not written.
    pub(super) fn fail_group(&mut self, group: &mut Vec<WriteRequest>) {
        for write in group.drain(..) {
            match write {
                WriteRequest::NewEvents(new_events, reply_queue) => reply_queue.reject(new_events),
                WriteRequest::Operation(Operation::Claim(request)) => {
                    self.jobs.record_failed_claim(&request)
                }
                WriteRequest::Operation(
                    op @ (Operation::Finish(_)
                    | Operation::Reevaluate(_)
                    | Operation::Rejections(_)
                    | Operation::Handshakes(_)
                    | Operation::Audit(_)
                    | Operation::RestRetention(_)
                    | Operation::AlertSignal(_)),
                ) => {
                    if matches!(op, Operation::Finish(_) | Operation::Reevaluate(_))
                        || self.retry_queue.len() < MAX_GROUP_OPS
                    {
                        self.retry_queue.push(op);
                    }
                }
                // A promotion is repeated when the database can be written again. A caller that
                // registers, recounts or reports settled jobs finds its channel closed. An alert stays
                // recorded, and its event is created later.
                WriteRequest::Operation(
                    Operation::Promote
                    | Operation::Register { .. }
                    | Operation::Recount(_)
                    | Operation::SaveState(_)
                    | Operation::AlertEvent(_)
                    | Operation::ReportSettlements { .. },
                ) => {}
            }
        }
    }
}
