//! What open pages load again when something has changed. Many pages at one URL get it from one read.
//!
//! Each change that the stream announces has a number. A page that loads itself again asks for what was read since that
//! number, so it never gets an older state. A page that a person opens is always read from the database.

use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::problem::Problem;

/// Results that are kept. More URLs than that are not open at once.
const MAX_KEPT: usize = 256;

/// What was read, and the number of the last change before.
struct Loaded {
    change: u64,
    value: Arc<dyn Any + Send + Sync>,
}

/// The place of one result. Only one request at a time reads it.
type Slot = Arc<tokio::sync::Mutex<Option<Loaded>>>;

/// The last results, by what was read.
#[derive(Default)]
pub struct SharedLoads(Mutex<HashMap<String, Slot>>);

impl SharedLoads {
    fn slot(&self, key: &str) -> Slot {
        let mut slots = self.0.lock();
        if let Some(slot) = slots.get(key) {
            return Arc::clone(slot);
        }
        if slots.len() >= MAX_KEPT {
            slots.clear();
        }
        Arc::clone(slots.entry(key.to_owned()).or_default())
    }

    /// Returns the result of `load`, or one that another page has read since the change `since`. `key` names what is
    /// read; `now` is the number of the last change.
    ///
    /// # Errors
    /// That of `load`.
    pub async fn load<T: Send + Sync + 'static>(
        &self,
        key: &str,
        since: Option<u64>,
        now: u64,
        load: impl Future<Output = Result<T, Problem>>,
    ) -> Result<Arc<T>, Problem> {
        let Some(since) = since else { return load.await.map(Arc::new) };
        let slot = self.slot(key);
        let mut slot = slot.lock().await;
        if let Some(loaded) = &*slot
            && loaded.change >= since
            && let Ok(value) = Arc::clone(&loaded.value).downcast::<T>()
        {
            return Ok(value);
        }
        let value = Arc::new(load.await?);
        *slot =
            Some(Loaded { change: now, value: Arc::clone(&value) as Arc<dyn Any + Send + Sync> });
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test]
    async fn pages_share_a_read_and_never_get_an_older_one() {
        let (loads, reads) = (SharedLoads::default(), Cell::new(0));
        let load = |since, now| {
            let read = async {
                reads.set(reads.get() + 1);
                Ok(reads.get())
            };
            loads.load("events", since, now, read)
        };
        assert_eq!(*load(Some(5), 5).await.unwrap(), 1);
        assert_eq!(*load(Some(5), 6).await.unwrap(), 1, "another page at the same change");
        assert_eq!(*load(Some(6), 6).await.unwrap(), 2, "a later change");
        assert_eq!(*load(Some(5), 7).await.unwrap(), 2, "a newer state will do");
        assert_eq!(*load(None, 7).await.unwrap(), 3, "a person opens the page");
        let failed: Result<_, Problem> = loads
            .load("other", Some(1), 1, async { Err::<i32, _>(Problem::bad_request("no")) })
            .await;
        assert!(failed.is_err());
        assert_eq!(*loads.load("other", Some(1), 1, async { Ok(9) }).await.unwrap(), 9);
    }

    #[tokio::test]
    async fn the_number_of_kept_results_is_bounded() {
        let loads = SharedLoads::default();
        for number in 0..1000 {
            loads.load(&number.to_string(), Some(1), 1, async { Ok(number) }).await.unwrap();
        }
        assert!(loads.0.lock().len() <= MAX_KEPT);
    }
}
