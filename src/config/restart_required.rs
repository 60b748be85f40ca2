//! What a reload can't change: the parts of a server that are made once.

use super::Config;

/// Keys in which `new` differs from `old` although they need a restart; empty where all is well.
pub fn restart_required(old: &Config, new: &Config) -> Vec<String> {
    let (a, b) = (&old.store, &new.store);
    let changed = [
        ("store.path", a.path != b.path),
        ("store.durability", a.durability != b.durability),
        ("store.min_free_space", a.min_free_bytes != b.min_free_bytes),
        ("workers.threads", old.workers.threads != new.workers.threads),
        ("server.max_connections", old.server.max_connections != new.server.max_connections),
        ("server.listen", old.server.listen != new.server.listen),
        ("admin.listen", old.admin.listen != new.admin.listen),
    ];
    let refusal = |(key, changed): (&str, bool)| {
        changed.then(|| format!("{key} has changed: a reload can't change it: restart"))
    };
    changed.into_iter().filter_map(refusal).collect()
}
