//! Which handlers take events of type `job.settled`: those of the source `hooktrail` whose `when` names the type. A
//! handler for other alerts must not get an event for each job.

use std::borrow::Cow;

use super::JobPlanner;
use crate::config::Handler;
use crate::domain::{HandlerId, INTERNAL_SOURCE, JOB_SETTLED};
use crate::expression::Expression;

/// Returns whether a handler takes events of type `job.settled`.
pub fn takes_settled_jobs(handler: &Handler) -> bool {
    handler.sources.iter().any(|name| name == INTERNAL_SOURCE) && names_settled_jobs(handler)
}

fn names_settled_jobs(handler: &Handler) -> bool {
    handler.when.as_ref().is_some_and(|when| when.text().contains(JOB_SETTLED))
}

/// Returns a handler as it takes stored events of the source `hooktrail`: none of type `job.settled`, unless its
/// `when` names the type.
pub fn for_stored_alerts(handler: &Handler) -> Cow<'_, Handler> {
    if names_settled_jobs(handler) {
        return Cow::Borrowed(handler);
    }
    let condition = format!(".type != \"{JOB_SETTLED}\"");
    let when = match &handler.when {
        Some(when) => Some(when.with_condition(&condition)),
        None => Expression::new(&condition).ok(),
    };
    Cow::Owned(Handler { when, ..handler.clone() })
}

/// Plans jobs of stored events of the source `hooktrail`.
pub fn stored_alert_planner<'c>(
    handlers: impl Iterator<Item = (&'c Handler, HandlerId)>,
) -> JobPlanner {
    let handlers: Vec<(Cow<'_, Handler>, HandlerId)> =
        handlers.map(|(handler, id)| (for_stored_alerts(handler), id)).collect();
    JobPlanner::for_handlers(handlers.iter().map(|(handler, id)| (handler.as_ref(), *id)))
}
