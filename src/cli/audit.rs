//! Entries of the audit log for commands: who ran them.

use crate::clock;
use crate::store::audit::AuditEntry;
use crate::store::files;

/// Maximum length of `SUDO_USER` in the audit log.
const MAX_NAME_LENGTH: usize = 64;

/// Makes an entry of the audit log for this command.
pub fn audit_entry(action: &str, target: Option<String>, reason: Option<String>) -> AuditEntry {
    AuditEntry {
        at_ms: clock::wall_ms(),
        who: current_user(),
        via: "cli",
        action: action.to_owned(),
        target,
        jobs: 0,
        reason,
    }
}

/// Returns the name of the real user id, which the environment can't change. Under `sudo` the name in
/// `SUDO_USER` follows it.
fn current_user() -> String {
    let name = files::user_name(rustix::process::getuid().as_raw());
    describe_user(name, std::env::var("SUDO_USER").ok().as_deref())
}

/// Formats `root (sudo from anna)`. Leaves out a `SUDO_USER` that is no user name.
fn describe_user(name: String, sudo_user: Option<&str>) -> String {
    let is_allowed = |c: char| c.is_alphanumeric() || "._-+@\\$".contains(c);
    let is_name = |name: &&str| {
        !name.is_empty() && name.chars().all(is_allowed) && name.len() <= MAX_NAME_LENGTH
    };
    match sudo_user.filter(is_name) {
        Some(from) => format!("{name} (sudo from {from})"),
        None => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_under_sudo_follows_the_name_of_the_user() {
        let describe = |sudo_user| describe_user("root".to_owned(), sudo_user);
        assert_eq!(describe(None), "root");
        assert_eq!(describe(Some("anna")), "root (sudo from anna)");
        assert_eq!(describe(Some("EXAMPLE\\anna.s")), "root (sudo from EXAMPLE\\anna.s)");
        for no_name in ["", "anna) (sudo from bob", "a\nb", &"a".repeat(65)] {
            assert_eq!(describe(Some(no_name)), "root", "{no_name:?}");
        }
    }
}
