//! Threads that check large requests. Hashing or parsing a large body takes milliseconds, which an
//! intake thread would take from every other sender.
//!
//! The pool is bounded in tasks and bytes. Sources take turns, and one source never holds both
//! threads, so that unsigned requests to one source do not delay those of another.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::oneshot;

use crate::domain::SourceId;

/// One for a source that sends much, one for the others.
const THREADS: usize = 2;

/// Tasks of one source that wait.
const TASKS_MAX: usize = 256;

/// Runs tasks of requests on threads of its own, which start with the first task.
#[derive(Default)]
pub struct CheckPool {
    queue: Arc<Queue>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    bell: Condvar,
}

#[derive(Default)]
struct Waiting {
    tasks: HashMap<SourceId, VecDeque<Entry>>,
    /// Sources that have tasks waiting, in the order of their turn.
    turn: VecDeque<SourceId>,
    /// Sources whose task runs.
    running: HashSet<SourceId>,
    /// Of tasks that wait or run.
    bytes: HashMap<SourceId, usize>,
    threads: usize,
    idle: usize,
    is_closed: bool,
}

struct Entry {
    bytes: usize,
    task: Box<dyn Task>,
}

/// What is run for a request.
trait Task: Send {
    fn run(self: Box<Self>);

    /// Whether the request is gone.
    fn is_abandoned(&self) -> bool;
}

struct Reply<T, W> {
    to: oneshot::Sender<T>,
    work: W,
}

impl<T: Send, W: FnOnce() -> T + Send> Task for Reply<T, W> {
    fn run(self: Box<Self>) {
        // The client may have disconnected meanwhile.
        let _ = self.to.send((self.work)());
    }

    fn is_abandoned(&self) -> bool {
        self.to.is_closed()
    }
}

impl CheckPool {
    /// Runs `work`, which holds so many bytes of a body. All sources together may hold `max_bytes`,
    /// one source half of them. The reply fails where there is no room.
    pub fn run<T: Send + 'static>(
        &self,
        source: SourceId,
        bytes: usize,
        max_bytes: usize,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> oneshot::Receiver<T> {
        let (to, reply) = oneshot::channel();
        let mut waiting = self.queue.lock();
        if !waiting.has_room(source, bytes, max_bytes) {
            let abandoned = waiting.take_abandoned();
            drop(waiting);
            drop(abandoned);
            waiting = self.queue.lock();
        }
        if waiting.is_closed || !waiting.has_room(source, bytes, max_bytes) {
            return reply;
        }
        if waiting.idle == 0 && waiting.threads < THREADS && self.start() {
            waiting.threads += 1;
        }
        if waiting.threads == 0 {
            return reply;
        }
        waiting.put(source, Entry { bytes, task: Box::new(Reply { to, work }) });
        drop(waiting);
        self.queue.bell.notify_one();
        reply
    }

    fn start(&self) -> bool {
        let queue = Arc::clone(&self.queue);
        match std::thread::Builder::new().name("check".into()).spawn(move || queue.work()) {
            Ok(thread) => {
                self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
                true
            }
            Err(e) => {
                log::warn!("no thread to check a large request: {e}");
                false
            }
        }
    }
}

impl Drop for CheckPool {
    fn drop(&mut self) {
        let mut waiting = self.queue.lock();
        waiting.is_closed = true;
        let tasks = std::mem::take(&mut waiting.tasks);
        drop(waiting);
        drop(tasks);
        self.queue.bell.notify_all();
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            let _ = thread.join();
        }
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let mut waiting = self.lock();
        while !waiting.is_closed {
            let Some((source, Entry { bytes, task })) = waiting.take() else {
                waiting.idle += 1;
                waiting = self.bell.wait(waiting).unwrap_or_else(PoisonError::into_inner);
                waiting.idle -= 1;
                continue;
            };
            drop(waiting);
            if !task.is_abandoned() {
                task.run();
            }
            waiting = self.lock();
            waiting.finish(source, bytes);
            // A task of this source may be one that the other thread had to leave.
            self.bell.notify_one();
        }
    }
}

impl Waiting {
    /// A source that holds nothing always has room: the limit of a body is its own.
    fn has_room(&self, source: SourceId, bytes: usize, max_bytes: usize) -> bool {
        let tasks = self.tasks.get(&source).map_or(0, VecDeque::len);
        let own = self.bytes.get(&source).copied().unwrap_or(0);
        let all: usize = self.bytes.values().sum();
        let fits = own == 0 || (own + bytes <= max_bytes / 2 && all + bytes <= max_bytes);
        tasks < TASKS_MAX && fits
    }

    fn put(&mut self, source: SourceId, entry: Entry) {
        *self.bytes.entry(source).or_default() += entry.bytes;
        let tasks = self.tasks.entry(source).or_default();
        if tasks.is_empty() {
            self.turn.push_back(source);
        }
        tasks.push_back(entry);
    }

    /// The next task of the source whose turn it is and that has none running.
    fn take(&mut self) -> Option<(SourceId, Entry)> {
        let at = self.turn.iter().position(|source| !self.running.contains(source))?;
        let source = self.turn.remove(at)?;
        let tasks = self.tasks.get_mut(&source)?;
        let entry = tasks.pop_front()?;
        match tasks.is_empty() {
            true => drop(self.tasks.remove(&source)),
            false => self.turn.push_back(source),
        }
        self.running.insert(source);
        Some((source, entry))
    }

    fn finish(&mut self, source: SourceId, bytes: usize) {
        self.running.remove(&source);
        self.release(source, bytes);
    }

    fn release(&mut self, source: SourceId, bytes: usize) {
        if let Some(held) = self.bytes.get_mut(&source) {
            *held = held.saturating_sub(bytes);
            if *held == 0 {
                self.bytes.remove(&source);
            }
        }
    }

    /// Takes out the tasks of requests that are gone.
    fn take_abandoned(&mut self) -> Vec<Entry> {
        let (mut abandoned, mut released) = (Vec::new(), Vec::new());
        for (source, tasks) in &mut self.tasks {
            for entry in std::mem::take(tasks) {
                if entry.task.is_abandoned() {
                    released.push((*source, entry.bytes));
                    abandoned.push(entry);
                } else {
                    tasks.push_back(entry);
                }
            }
        }
        self.tasks.retain(|_, tasks| !tasks.is_empty());
        let tasks = &self.tasks;
        self.turn.retain(|source| tasks.contains_key(source));
        for (source, bytes) in released {
            self.release(source, bytes);
        }
        abandoned
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;

    const A: SourceId = SourceId(1);
    const B: SourceId = SourceId(2);
    const MIB: usize = 1 << 20;

    #[test]
    fn one_source_never_holds_both_threads() {
        let pool = CheckPool::default();
        let (begin, begun) = sync_channel(1);
        let (release, released) = sync_channel::<()>(0);
        let first = pool.run(A, MIB, 64 * MIB, move || {
            begin.send(()).unwrap();
            let _ = released.recv();
            1
        });
        begun.recv().unwrap();
        let mut second = pool.run(A, MIB, 64 * MIB, || 2);
        // The other thread is there for the other source alone.
        for number in 0..10 {
            assert_eq!(pool.run(B, MIB, 64 * MIB, move || number).blocking_recv(), Ok(number));
        }
        assert!(second.try_recv().is_err());
        drop(release);
        assert_eq!((first.blocking_recv(), second.blocking_recv()), (Ok(1), Ok(2)));
    }

    #[test]
    fn what_waits_is_bounded_in_tasks_and_bytes_and_what_nobody_waits_for_makes_room() {
        let pool = CheckPool::default();
        let (begin, begun) = sync_channel(1);
        let (release, released) = sync_channel::<()>(0);
        let first = pool.run(A, MIB, 8 * MIB, move || {
            begin.send(()).unwrap();
            let _ = released.recv();
        });
        begun.recv().unwrap();
        let mut waiting: Vec<_> = (0..3).map(|_| pool.run(A, MIB, 8 * MIB, || ())).collect();
        // Half of all is one source's. The reply is refused at once.
        assert!(pool.run(A, MIB, 8 * MIB, || ()).blocking_recv().is_err());
        waiting.pop();
        waiting.push(pool.run(A, MIB, 8 * MIB, || ()));
        let small: Vec<_> = (3..TASKS_MAX).map(|_| pool.run(A, 0, 8 * MIB, || ())).collect();
        assert!(pool.run(A, 0, 8 * MIB, || ()).blocking_recv().is_err());
        drop(release);
        for reply in waiting.into_iter().chain(small).chain([first]) {
            assert_eq!(reply.blocking_recv(), Ok(()));
        }
        // A source that holds nothing may hold one body, however large.
        assert_eq!(pool.run(B, 16 * MIB, 8 * MIB, || 7).blocking_recv(), Ok(7));
    }

    #[test]
    fn whoever_waits_when_the_pool_ends_is_told() {
        let pool = CheckPool::default();
        let (begin, begun) = sync_channel(1);
        let (release, released) = sync_channel::<()>(0);
        let first = pool.run(A, 1, MIB, move || {
            begin.send(()).unwrap();
            let _ = released.recv();
        });
        begun.recv().unwrap();
        let second = pool.run(A, 1, MIB, || ());
        let end = std::thread::spawn(move || drop(pool));
        assert!(second.blocking_recv().is_err());
        drop(release);
        assert_eq!(first.blocking_recv(), Ok(()));
        end.join().unwrap();
    }
}
