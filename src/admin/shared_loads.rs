//! What open pages load again when something has changed. Many pages at one URL get it from one read.
//!
//! Each change that the stream announces has a number. A page that loads itself again asks for what was read since that
//! number, so it never gets an older state. A page that a person opens is always read from the database. Ages and rates
//! change without a change that is announced, so a result is kept for a short time only.

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::problem::Problem;

/// Results that are kept. More URLs than that are not open at once.
const MAX_KEPT: usize = 256;

/// How long a result is kept. Open pages load themselves again after 10 s without a change.
const MAX_AGE: Duration = Duration::from_secs(5);

/// What was read, when, and the number of the last change before.
struct Loaded {
    change: u64,
    loaded_at: Instant,
    value: Arc<dyn Any + Send + Sync>,
}

/// The place of one result. Only one request at a time reads it.
type Slot = Arc<tokio::sync::Mutex<Option<Loaded>>>;

#[derive(Default)]
struct Slots {
    by_key: HashMap<String, Slot>,
    /// The keys with the time after which the result is dropped, the oldest first.
    expiries: VecDeque<(Instant, String)>,
}

/// The last results, by what was read.
#[derive(Default)]
pub struct SharedLoads(Mutex<Slots>);

impl SharedLoads {
    fn slot(&self, key: &str) -> Slot {
        let slots = &mut *self.0.lock();
        let now = Instant::now();
        // A slot that is in use stays alive in its requests.
        while let Some((expiry, _)) = slots.expiries.front()
            && (*expiry <= now || slots.expiries.len() > MAX_KEPT)
        {
            if let Some((_, key)) = slots.expiries.pop_front() {
                slots.by_key.remove(&key);
            }
        }
        if let Some(slot) = slots.by_key.get(key) {
            return Arc::clone(slot);
        }
        slots.expiries.push_back((now + MAX_AGE, key.to_owned()));
        Arc::clone(slots.by_key.entry(key.to_owned()).or_default())
    }

    /// Returns the result of `load`, or one that another page has read since the change `since`. `key` names what is
    /// read; `now` is the number of the last change before `load` begins.
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
            && loaded.loaded_at.elapsed() < MAX_AGE
            && let Ok(value) = Arc::clone(&loaded.value).downcast::<T>()
        {
            return Ok(value);
        }
        let loaded_at = Instant::now();
        let value = Arc::new(load.await?);
        let kept = Arc::clone(&value) as Arc<dyn Any + Send + Sync>;
        *slot = Some(Loaded { change: now, loaded_at, value: kept });
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
        let slots = loads.0.lock();
        assert!(slots.by_key.len() <= MAX_KEPT + 1);
        assert_eq!(slots.by_key.len(), slots.expiries.len());
    }
}
