//! Whether sources can read their streams now, for `hooktrail status`, the console and the metrics.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use crate::clock;

/// What a source that reads a stream does now.
#[derive(Clone, Debug, PartialEq, Eq)]
enum ReaderState {
    Connecting,
    Reading,
    /// It tries again, since `since_ms` (wall clock).
    Failing {
        reason: String,
        since_ms: i64,
    },
}

/// The states of all sources that read streams, by their names.
#[derive(Debug, Default)]
pub struct ReaderStates {
    readers: Mutex<BTreeMap<String, ReaderState>>,
}

impl ReaderStates {
    /// Adds a source that is about to connect.
    pub fn add(&self, source: &str) {
        self.readers.lock().insert(source.to_owned(), ReaderState::Connecting);
    }

    /// Removes all other sources.
    pub fn retain(&self, is_reader: impl Fn(&str) -> bool) {
        self.readers.lock().retain(|source, _| is_reader(source));
    }

    /// Notes that a source reads its stream.
    pub fn set_reading(&self, source: &str) {
        if let Some(reader) = self.readers.lock().get_mut(source) {
            *reader = ReaderState::Reading;
        }
    }

    /// Notes why a source can't read its stream. The time stays that of the first failure.
    pub fn set_failing(&self, source: &str, reason: String) {
        let mut readers = self.readers.lock();
        let Some(reader) = readers.get_mut(source) else { return };
        let since_ms = match reader {
            ReaderState::Failing { since_ms, .. } => *since_ms,
            ReaderState::Connecting | ReaderState::Reading => clock::wall_ms(),
        };
        *reader = ReaderState::Failing { reason, since_ms };
    }

    /// Returns a line for each source that can't read its stream.
    pub fn problems(&self) -> Vec<String> {
        let readers = self.readers.lock();
        let problem = |(source, reader): (&String, &ReaderState)| match reader {
            ReaderState::Failing { reason, since_ms } => {
                let since = clock::format_local(*since_ms);
                Some(format!("source {source}: can't read its stream since {since}: {reason}"))
            }
            ReaderState::Connecting | ReaderState::Reading => None,
        };
        readers.iter().filter_map(problem).collect()
    }

    /// Returns each source, and whether it reads its stream.
    pub fn list(&self) -> Vec<(String, bool)> {
        let readers = self.readers.lock();
        readers
            .iter()
            .map(|(source, reader)| (source.clone(), *reader == ReaderState::Reading))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_problem_is_that_of_the_first_failure_until_the_source_reads_again() {
        let states = ReaderStates::default();
        states.add("a");
        assert_eq!((states.problems(), states.list()), (vec![], vec![("a".to_owned(), false)]));
        states.set_failing("a", "first".to_owned());
        let ReaderState::Failing { since_ms, .. } = states.readers.lock()["a"].clone() else {
            panic!()
        };
        if let Some(ReaderState::Failing { since_ms, .. }) = states.readers.lock().get_mut("a") {
            *since_ms -= 1000;
        }
        states.set_failing("a", "second".to_owned());
        let earlier =
            ReaderState::Failing { reason: "second".to_owned(), since_ms: since_ms - 1000 };
        assert_eq!(states.readers.lock()["a"], earlier);
        states.set_reading("a");
        assert_eq!((states.problems(), states.list()), (vec![], vec![("a".to_owned(), true)]));
    }

    #[test]
    fn a_source_that_has_ended_has_no_problem() {
        let states = ReaderStates::default();
        states.add("a");
        states.retain(|source| source != "a");
        states.set_failing("a", "late".to_owned());
        assert_eq!((states.problems(), states.list()), (vec![], vec![]));
    }
}
