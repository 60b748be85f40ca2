//! Builds the handler runtimes and job planners from a configuration and its secrets.

use std::collections::HashMap;
use std::ffi::OsString;
use std::sync::Arc;

use crate::config::{self, Config, EnvValue, HandlerKind, Secrets};
use crate::domain::{HandlerId, INTERNAL_SOURCE, SourceId};
use crate::handler::{self, HandlerRuntime};
use crate::jetstream::NatsThread;
use crate::planner::DeferredPlanner;
use crate::scheduler::handler_schedule::HandlerLimits;
use crate::scheduler::{HandlerTable, ScheduledHandler};
use crate::store::registry::{HandlerRegistration, Registry};
use crate::worker::{self, HandlerMap};

/// The sources and handlers to register in the database.
pub(super) fn registration_names(config: &Config) -> (Vec<String>, Vec<HandlerRegistration>) {
    let mut sources: Vec<String> =
        config.sources.iter().map(|source| source.name.clone()).collect();
    // The built-in source is registered only if a handler takes it.
    let takes_alerts =
        |handler: &config::Handler| handler.sources.iter().any(|name| name == INTERNAL_SOURCE);
    if config.handlers.iter().any(takes_alerts) {
        sources.push(INTERNAL_SOURCE.to_owned());
    }
    let handlers = config.handlers.iter().map(worker::registration_of).collect();
    (sources, handlers)
}

/// The planner of each source's deferred events: which handlers take them, with their expressions.
pub(super) fn deferred_planners(
    config: &Config,
    registry: &Registry,
) -> HashMap<SourceId, DeferredPlanner> {
    let planner = |name: &str| {
        let id = *registry.sources.get(name)?;
        let source = config.sources.iter().find(|source| source.name == name);
        let handlers = config.handlers.iter();
        let handlers =
            handlers.filter(|handler| handler.sources.iter().any(|source| source == name));
        let handlers =
            handlers.filter_map(|handler| Some((handler, *registry.handlers.get(&handler.name)?)));
        Some((id, DeferredPlanner::new(source, handlers)))
    };
    let names = config.sources.iter().map(|source| source.name.as_str());
    names.chain([INTERNAL_SOURCE]).filter_map(planner).collect()
}

/// The path templates of the sources, by name: `$params` is read with them.
pub(super) fn source_paths(config: &Config) -> HashMap<String, String> {
    let path = |source: &config::Source| Some((source.name.clone(), source.path()?.to_owned()));
    config.sources.iter().filter_map(path).collect()
}

/// Builds the runtimes of all handlers. An unchanged handler keeps its runtime with its persistent
/// processes.
pub(super) fn build_handlers(
    config: &Config,
    registry: &Registry,
    secrets: &Secrets,
    nats: &NatsThread,
    previous: &HandlerMap,
) -> Arc<HandlerMap> {
    let mut all = HandlerMap::new();
    for handler in &config.handlers {
        let Some(&id) = registry.handlers.get(&handler.name) else { continue };
        let built = build_handler(handler, secrets, nats);
        let runtime = match previous.get(&id) {
            Some(existing) if existing.is_equivalent(&built) => Arc::clone(existing),
            _ => Arc::new(built),
        };
        all.insert(id, runtime);
    }
    Arc::new(all)
}

/// The handlers as the scheduler needs them.
pub(super) fn handler_table(handlers: &HandlerMap) -> HandlerTable {
    let entry = |(&id, handler): (&HandlerId, &Arc<HandlerRuntime>)| {
        let settings = &handler.settings;
        let limits = HandlerLimits::from_config(settings);
        (id, ScheduledHandler { name: settings.name.clone(), limits })
    };
    handlers.iter().map(entry).collect()
}

/// Ends the persistent processes of handlers that a reload removed or replaced.
pub(super) fn close_replaced(previous: &HandlerMap, current: &HandlerMap) {
    for (id, old) in previous.iter() {
        if !current.get(id).is_some_and(|new| Arc::ptr_eq(new, old)) {
            old.runner.close();
        }
    }
}

/// Builds the runtime of one handler: its settings with the secrets filled in.
pub fn build_handler(
    handler: &config::Handler,
    secrets: &Secrets,
    nats: &NatsThread,
) -> HandlerRuntime {
    use std::os::unix::ffi::OsStringExt;
    let value = |value: &EnvValue| match value {
        EnvValue::Text(text) => text.clone().into_bytes(),
        EnvValue::Secret(secret) => secrets.get(secret).unwrap_or_default().to_vec(),
    };
    let (env, headers, sign) = match &handler.kind {
        HandlerKind::Command(command) => (&command.env[..], &[][..], &[][..]),
        HandlerKind::Url(target) => (&[][..], &target.headers[..], &target.sign[..]),
        HandlerKind::JetStream(_) => Default::default(),
    };
    let credentials = handler.jetstream().and_then(|target| target.nats.credentials.as_ref());
    let credentials: Option<Arc<[u8]>> =
        credentials.map(|secret| secrets.get(secret).unwrap_or_default().into());
    let env = env.iter().map(|(name, entry)| (name.clone(), OsString::from_vec(value(entry))));
    HandlerRuntime {
        settings: Arc::new(handler.clone()),
        env: env.collect(),
        headers: headers.iter().map(|(name, entry)| (name.clone(), value(entry))).collect(),
        sign: secrets.resolve(sign).map(<[u8]>::to_vec).collect(),
        file_stamps: handler::command_file_stamps(handler),
        runner: handler::runner_for(handler, credentials.clone(), nats),
        credentials,
    }
}
