//! The configuration in the form that intake uses: each source with its verifier, limits and
//! planner.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use super::{handshake, rate_limiter, rejection_streak, route, stored_request};
use crate::config::{Config, NO_MAX_QUEUED, Secrets};
use crate::domain::SourceId;
use crate::metrics::{Metrics, SourceMetrics};
use crate::planner::JobPlanner;
use crate::redact::Redactor;
use crate::store::registry::Registry;
use crate::store::source_counters::QueueLimit;

/// The configuration that applies to every request. A reload replaces it as a whole.
pub struct IntakeConfig {
    pub server: crate::config::ServerConfig,
    pub routes: route::Routes,
    pub redactor: Arc<Redactor>,
    pub sources: Vec<SourceRuntime>,
}

/// A source with everything that intake needs to handle its requests.
pub struct SourceRuntime {
    pub source: crate::config::Source,
    pub id: SourceId,
    pub verifier: crate::verify::Verifier,
    pub redactor: Arc<Redactor>,
    /// The source's own handshake.
    pub custom_handshake: Option<handshake::CustomHandshake>,
    pub rate_limiter: Option<rate_limiter::SourceRateLimiter>,
    pub queue_limit: Option<QueueLimit>,
    pub rejection_streak: Arc<rejection_streak::RejectionStreak>,
    /// Makes the job plan of an event.
    pub planner: JobPlanner,
    pub metrics: Arc<SourceMetrics>,
}

/// Counters of queued jobs, for the sources that set `max_queued`.
pub type QueueCounters = HashMap<SourceId, Arc<AtomicI64>>;

/// Returns the sources that set `max_queued`.
pub fn sources_with_queue_limit(config: &Config, registry: &Registry) -> Vec<SourceId> {
    let sources = config.sources.iter().filter(|source| source.max_queued < NO_MAX_QUEUED);
    sources.filter_map(|source| registry.sources.get(&source.name).copied()).collect()
}

impl SourceRuntime {
    /// How secrets and `redact.headers` are removed from the source's requests.
    pub fn redaction(&self) -> stored_request::Redaction<'_> {
        stored_request::Redaction {
            verifier: Some(&self.verifier),
            redactor: &self.redactor,
            headers: &self.source.redact.headers,
        }
    }
}

impl IntakeConfig {
    /// `redactor` knows these secrets and those of earlier configurations.
    pub(super) fn new(
        config: &Config,
        registry: &Registry,
        (secrets, redactor): (&Secrets, &Arc<Redactor>),
        queue_counters: &QueueCounters,
        (rejection_streaks, rate_windows): (
            &rejection_streak::RejectionStreaks,
            &rate_limiter::RateWindows,
        ),
        metrics: &Metrics,
    ) -> Self {
        let build_runtime = |source: &crate::config::Source| {
            let id = registry.sources.get(&source.name).copied().unwrap_or(SourceId(0));
            let handlers =
                config.handlers.iter().filter(|handler| handler.sources.contains(&source.name));
            let handlers = handlers
                .filter_map(|handler| Some((handler, *registry.handlers.get(&handler.name)?)));
            let queue_limit = queue_counters.get(&id).map(|queued| QueueLimit {
                queued: Arc::clone(queued),
                max_jobs: i64::try_from(source.max_queued).unwrap_or(i64::MAX),
            });
            SourceRuntime {
                id,
                verifier: source.verifier(secrets),
                redactor: Arc::clone(redactor),
                custom_handshake: handshake::CustomHandshake::new(source),
                rate_limiter: source.rate_limit.map(|rate| rate_windows.limiter(id, rate)),
                queue_limit,
                rejection_streak: rejection_streaks.for_source(id),
                planner: JobPlanner::new(source, handlers),
                metrics: metrics.source(id),
                source: source.clone(),
            }
        };
        Self {
            server: config.server.clone(),
            routes: route::Routes::new(&config.sources),
            redactor: Arc::clone(redactor),
            sources: config.sources.iter().map(build_runtime).collect(),
        }
    }
}
