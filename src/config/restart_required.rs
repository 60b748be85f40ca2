//! Lists the keys that a reload can't change.

use super::Config;

/// An error for each key that differs in `new` and needs a restart; empty if a reload suffices.
pub fn restart_required(old: &Config, new: &Config) -> Vec<String> {
    let (old_store, new_store) = (&old.store, &new.store);
    let changed = [
        ("store.path", old_store.path != new_store.path),
        ("store.durability", old_store.durability != new_store.durability),
        ("store.min_free_space", old_store.min_free_bytes != new_store.min_free_bytes),
        ("store.retention", old_store.retention != new_store.retention),
        ("workers.threads", old.workers.threads != new.workers.threads),
    ];
    let error = |(key, changed): (&str, bool)| {
        changed.then(|| format!("{key} has changed: a reload can't change it: restart"))
    };
    changed.into_iter().filter_map(error).collect()
}
