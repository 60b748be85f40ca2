//! A configuration as intake needs it: each source with all that it is measured by.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use super::{handshake, rate_limiter, rejection_streak, route, stored_request};
use crate::config::{Config, NO_QUEUED_MAX, Secrets};
use crate::domain::SourceId;
use crate::planner::JobPlanner;
use crate::redact::Redactor;
use crate::store::registry::Registry;
use crate::store::source_counters::QueueLimit;

/// What every request is measured by; replaced as a whole by a reload.
pub struct IntakeConfig {
    pub server: crate::config::ServerConfig,
    pub routes: route::Routes,
    pub redactor: Arc<Redactor>,
    pub sources: Vec<SourceRuntime>,
}

/// A source with everything that intake needs of it.
pub struct SourceRuntime {
    pub source: crate::config::Source,
    pub id: SourceId,
    pub verifier: crate::verify::Verifier,
    pub redactor: Arc<Redactor>,
    /// The source's own handshake.
    pub custom_handshake: Option<handshake::CustomHandshake>,
    pub rate: Option<rate_limiter::RateLimiter>,
    pub queue_limit: Option<QueueLimit>,
    pub streak: Arc<rejection_streak::RejectionStreak>,
    /// Who wants its events, and what of them.
    pub planner: JobPlanner,
}

/// Counts of those sources that have a `max_queued`.
pub type QueueCounters = HashMap<SourceId, Arc<AtomicI64>>;

/// Sources that have a `max_queued`.
pub fn sources_with_queue_limit(config: &Config, registry: &Registry) -> Vec<SourceId> {
    let limited = config.sources.iter().filter(|source| source.max_queued < NO_QUEUED_MAX);
    limited.filter_map(|source| registry.sources.get(&source.name).copied()).collect()
}

impl SourceRuntime {
    /// How the source's requests are kept.
    pub fn redaction(&self) -> stored_request::Redaction<'_> {
        stored_request::Redaction { verifier: Some(&self.verifier), redactor: &self.redactor }
    }
}

impl IntakeConfig {
    /// `redactor` knows these secrets, and those of the configurations before.
    pub(super) fn new(
        config: &Config,
        registry: &Registry,
        (secrets, redactor): (&Secrets, &Arc<Redactor>),
        counts: &QueueCounters,
        streaks: &rejection_streak::RejectionStreaks,
        windows: &rate_limiter::Windows,
    ) -> Self {
        let gated = |source: &crate::config::Source| {
            let id = registry.sources.get(&source.name).copied().unwrap_or(SourceId(0));
            let handlers = config.handlers.iter().filter(|one| one.sources.contains(&source.name));
            let handlers =
                handlers.filter_map(|one| Some((one, *registry.handlers.get(&one.name)?)));
            let queue_limit = counts.get(&id).map(|queued| QueueLimit {
                queued: Arc::clone(queued),
                max_jobs: i64::try_from(source.max_queued).unwrap_or(i64::MAX),
            });
            SourceRuntime {
                id,
                verifier: crate::verify::Verifier::new(source, secrets),
                redactor: Arc::clone(redactor),
                custom_handshake: handshake::CustomHandshake::new(source),
                rate: source.rate_limit.map(|rate| windows.limit(id, rate)),
                queue_limit,
                streak: streaks.for_source(id),
                planner: JobPlanner::new(source, handlers),
                source: source.clone(),
            }
        };
        Self {
            server: config.server.clone(),
            routes: route::Routes::new(&config.sources),
            redactor: Arc::clone(redactor),
            sources: config.sources.iter().map(gated).collect(),
        }
    }
}
