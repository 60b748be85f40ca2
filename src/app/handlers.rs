//! What a configuration and its secrets become for those who run by it.

use std::collections::HashMap;
use std::ffi::OsString;
use std::sync::Arc;

use crate::config::{self, Config, EnvValue, INTERNAL_SOURCE, Secrets};
use crate::dispatcher::HandlerMap;
use crate::domain::{HandlerId, SourceId};
use crate::handler::{self, HandlerRuntime};
use crate::planner::JobPlanner;
use crate::store::registry::{HandlerRegistration, Registry};
use crate::worker;

pub(super) fn registration_names(config: &Config) -> (Vec<String>, Vec<HandlerRegistration>) {
    let mut sources: Vec<String> =
        config.sources.iter().map(|source| source.name.clone()).collect();
    // The server's own is one only where a handler takes it.
    let own =
        |handler: &config::Handler| handler.sources.iter().any(|name| name == INTERNAL_SOURCE);
    if config.handlers.iter().any(own) {
        sources.push(INTERNAL_SOURCE.to_owned());
    }
    let handlers = config.handlers.iter().map(worker::registration_of).collect();
    (sources, handlers)
}

/// What the handlers of each source make of its events.
pub(super) fn judges(config: &Config, registry: &Registry) -> HashMap<SourceId, JobPlanner> {
    let judge = |name: &str| {
        let source = *registry.sources.get(name)?;
        let handlers = config.handlers.iter();
        let handlers = handlers.filter(|handler| handler.sources.iter().any(|own| own == name));
        let handlers =
            handlers.filter_map(|handler| Some((handler, *registry.handlers.get(&handler.name)?)));
        Some((source, JobPlanner::for_handlers(handlers)))
    };
    let names = config.sources.iter().map(|source| source.name.as_str());
    names.chain([INTERNAL_SOURCE]).filter_map(judge).collect()
}

/// What `$params` is read by.
pub(super) fn source_paths(config: &Config) -> HashMap<String, String> {
    config.sources.iter().map(|source| (source.name.clone(), source.path.clone())).collect()
}

/// Handlers with their environments, by their numbers. One that is as it was stays, with the processes that it keeps warm.
pub(super) fn build_handlers(
    config: &Config,
    registry: &Registry,
    secrets: &Secrets,
    before: &HandlerMap,
) -> HandlerMap {
    let mut all: HashMap<HandlerId, Arc<HandlerRuntime>> = HashMap::new();
    for handler in &config.handlers {
        let Some(&id) = registry.handlers.get(&handler.name) else { continue };
        let ready = build_handler(handler, secrets);
        let ready = match before.get(&id) {
            Some(before) if before.is_equivalent(&ready) => Arc::clone(before),
            _ => Arc::new(ready),
        };
        all.insert(id, ready);
    }
    Arc::new(all)
}

/// Lets go of what those keep warm that are gone, or are no longer as they were.
pub(super) fn close_replaced(before: &HandlerMap, now: &HandlerMap) {
    for (id, old) in before.iter() {
        if !now.get(id).is_some_and(|new| Arc::ptr_eq(new, old)) {
            old.kind.close();
        }
    }
}

/// A handler with its secrets, ready to run.
pub fn build_handler(handler: &config::Handler, secrets: &Secrets) -> HandlerRuntime {
    use std::os::unix::ffi::OsStringExt;
    let value = |value: &EnvValue| match value {
        EnvValue::Text(text) => text.clone().into_bytes(),
        EnvValue::Secret(secret) => secrets.get(secret).unwrap_or_default().to_vec(),
    };
    let (headers, sign) = match &handler.target {
        Some(target) => (target.headers.as_slice(), target.sign.as_slice()),
        None => Default::default(),
    };
    let env = handler.env.iter().map(|(name, it)| (name.clone(), OsString::from_vec(value(it))));
    HandlerRuntime {
        settings: Arc::new(handler.clone()),
        env: env.collect(),
        headers: headers.iter().map(|(name, it)| (name.clone(), value(it))).collect(),
        sign: secrets.resolve(sign).map(<[u8]>::to_vec).collect(),
        files: handler::command_file_stamps(handler),
        kind: handler::kind(handler),
    }
}
