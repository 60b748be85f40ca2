//! Threads that check large requests. Hashing or parsing a large body takes milliseconds, which on
//! an intake thread would delay every other sender.
//!
//! The number of tasks and their bytes are limited. Sources take turns, and one source never
//! occupies both threads. So unsigned requests to one source do not delay those to another.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use crate::domain::SourceId;

/// One thread for a busy source, one for the others.
const THREADS: usize = 2;

/// Maximum number of waiting tasks of one source.
const MAX_TASKS: usize = 256;

/// Runs checks of requests on its own threads, which start with the first check.
#[derive(Default)]
pub struct CheckPool {
    queue: Arc<CheckQueue>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Default)]
struct CheckQueue {
    state: Mutex<CheckQueueState>,
    condvar: Condvar,
}

#[derive(Default)]
struct CheckQueueState {
    tasks: HashMap<SourceId, VecDeque<QueuedCheck>>,
    /// Sources with waiting tasks, in round-robin order.
    round_robin: VecDeque<SourceId>,
    /// Sources that have a task running.
    running: HashSet<SourceId>,
    /// Bytes of waiting and running tasks.
    bytes: HashMap<SourceId, usize>,
    threads: usize,
    idle: usize,
    is_closed: bool,
}

struct QueuedCheck {
    bytes: usize,
    task: Box<dyn CheckTask>,
}

/// A check of one request.
trait CheckTask: Send {
    fn run(self: Box<Self>);

    /// Whether the request has ended in the meantime.
    fn is_abandoned(&self) -> bool;
}

struct ReplyingCheck<T, W> {
    sender: oneshot::Sender<T>,
    work: W,
}

impl<T: Send, W: FnOnce() -> T + Send> CheckTask for ReplyingCheck<T, W> {
    fn run(self: Box<Self>) {
        // The client may have disconnected in the meantime.
        let _ = self.sender.send((self.work)());
    }

    fn is_abandoned(&self) -> bool {
        self.sender.is_closed()
    }
}

impl CheckPool {
    /// Runs `work`, which holds this number of bytes of a body. All sources together may hold
    /// `max_bytes`, and one source half of them. The reply fails if there is no room.
    pub fn run<T: Send + 'static>(
        &self,
        source: SourceId,
        bytes: usize,
        max_bytes: usize,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> oneshot::Receiver<T> {
        let (sender, reply) = oneshot::channel();
        let mut queue = self.queue.state.lock();
        if !queue.has_room(source, bytes, max_bytes) {
            let abandoned = queue.take_abandoned();
            drop(queue);
            drop(abandoned);
            queue = self.queue.state.lock();
        }
        if queue.is_closed || !queue.has_room(source, bytes, max_bytes) {
            return reply;
        }
        if queue.idle == 0 && queue.threads < THREADS && self.start_thread() {
            queue.threads += 1;
        }
        if queue.threads == 0 {
            return reply;
        }
        queue
            .enqueue(source, QueuedCheck { bytes, task: Box::new(ReplyingCheck { sender, work }) });
        drop(queue);
        self.queue.condvar.notify_one();
        reply
    }

    fn start_thread(&self) -> bool {
        let queue = Arc::clone(&self.queue);
        match std::thread::Builder::new().name("check".into()).spawn(move || queue.run_thread()) {
            Ok(thread) => {
                self.threads.lock().push(thread);
                true
            }
            Err(e) => {
                log::warn!("cannot create a thread to check a large request: {e}");
                false
            }
        }
    }
}

impl Drop for CheckPool {
    fn drop(&mut self) {
        let mut queue = self.queue.state.lock();
        queue.is_closed = true;
        let tasks = std::mem::take(&mut queue.tasks);
        drop(queue);
        drop(tasks);
        self.queue.condvar.notify_all();
        let threads = std::mem::take(&mut *self.threads.lock());
        for thread in threads {
            let _ = thread.join();
        }
    }
}

impl CheckQueue {
    fn run_thread(&self) {
        let mut queue = self.state.lock();
        while !queue.is_closed {
            let Some((source, QueuedCheck { bytes, task })) = queue.dequeue() else {
                queue.idle += 1;
                self.condvar.wait(&mut queue);
                queue.idle -= 1;
                continue;
            };
            drop(queue);
            if !task.is_abandoned() {
                task.run();
            }
            queue = self.state.lock();
            queue.finish(source, bytes);
            // The other thread may have skipped a task of this source.
            self.condvar.notify_one();
        }
    }
}

impl CheckQueueState {
    /// A source without tasks always has room, because its own limit bounds a single body.
    fn has_room(&self, source: SourceId, bytes: usize, max_bytes: usize) -> bool {
        let tasks = self.tasks.get(&source).map_or(0, VecDeque::len);
        let source_bytes = self.bytes.get(&source).copied().unwrap_or(0);
        let total_bytes: usize = self.bytes.values().sum();
        let has_bytes = source_bytes == 0
            || (source_bytes + bytes <= max_bytes / 2 && total_bytes + bytes <= max_bytes);
        tasks < MAX_TASKS && has_bytes
    }

    fn enqueue(&mut self, source: SourceId, entry: QueuedCheck) {
        *self.bytes.entry(source).or_default() += entry.bytes;
        let tasks = self.tasks.entry(source).or_default();
        if tasks.is_empty() {
            self.round_robin.push_back(source);
        }
        tasks.push_back(entry);
    }

    /// Returns the next task of the first source in turn that has none running.
    fn dequeue(&mut self) -> Option<(SourceId, QueuedCheck)> {
        let position = self.round_robin.iter().position(|source| !self.running.contains(source))?;
        let source = self.round_robin.remove(position)?;
        let tasks = self.tasks.get_mut(&source)?;
        let entry = tasks.pop_front()?;
        match tasks.is_empty() {
            true => drop(self.tasks.remove(&source)),
            false => self.round_robin.push_back(source),
        }
        self.running.insert(source);
        Some((source, entry))
    }

    fn finish(&mut self, source: SourceId, bytes: usize) {
        self.running.remove(&source);
        self.release_bytes(source, bytes);
    }

    fn release_bytes(&mut self, source: SourceId, bytes: usize) {
        if let Some(held) = self.bytes.get_mut(&source) {
            *held = held.saturating_sub(bytes);
            if *held == 0 {
                self.bytes.remove(&source);
            }
        }
    }

    /// Removes the tasks of requests that have ended.
    fn take_abandoned(&mut self) -> Vec<QueuedCheck> {
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
        self.round_robin.retain(|source| tasks.contains_key(source));
        for (source, bytes) in released {
            self.release_bytes(source, bytes);
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
    fn one_source_never_occupies_both_threads() {
        let pool = CheckPool::default();
        let (started_sender, started) = sync_channel(1);
        let (release, released) = sync_channel::<()>(0);
        let first = pool.run(A, MIB, 64 * MIB, move || {
            started_sender.send(()).unwrap();
            let _ = released.recv();
            1
        });
        started.recv().unwrap();
        let mut second = pool.run(A, MIB, 64 * MIB, || 2);
        // The other thread serves only the other source.
        for number in 0..10 {
            assert_eq!(pool.run(B, MIB, 64 * MIB, move || number).blocking_recv(), Ok(number));
        }
        assert!(second.try_recv().is_err());
        drop(release);
        assert_eq!((first.blocking_recv(), second.blocking_recv()), (Ok(1), Ok(2)));
    }

    #[test]
    fn waiting_checks_are_limited_in_number_and_bytes_and_abandoned_ones_make_room() {
        let pool = CheckPool::default();
        let (started_sender, started) = sync_channel(1);
        let (release, released) = sync_channel::<()>(0);
        let first = pool.run(A, MIB, 8 * MIB, move || {
            started_sender.send(()).unwrap();
            let _ = released.recv();
        });
        started.recv().unwrap();
        let mut waiting: Vec<_> = (0..3).map(|_| pool.run(A, MIB, 8 * MIB, || ())).collect();
        // One source may hold half of all. The reply fails at once.
        assert!(pool.run(A, MIB, 8 * MIB, || ()).blocking_recv().is_err());
        waiting.pop();
        waiting.push(pool.run(A, MIB, 8 * MIB, || ()));
        let small: Vec<_> = (3..MAX_TASKS).map(|_| pool.run(A, 0, 8 * MIB, || ())).collect();
        assert!(pool.run(A, 0, 8 * MIB, || ()).blocking_recv().is_err());
        drop(release);
        for reply in waiting.into_iter().chain(small).chain([first]) {
            assert_eq!(reply.blocking_recv(), Ok(()));
        }
        // A source without tasks may hold one body of any size.
        assert_eq!(pool.run(B, 16 * MIB, 8 * MIB, || 7).blocking_recv(), Ok(7));
    }

    #[test]
    fn a_waiting_check_fails_when_the_pool_ends() {
        let pool = CheckPool::default();
        let (started_sender, started) = sync_channel(1);
        let (release, released) = sync_channel::<()>(0);
        let first = pool.run(A, 1, MIB, move || {
            started_sender.send(()).unwrap();
            let _ = released.recv();
        });
        started.recv().unwrap();
        let second = pool.run(A, 1, MIB, || ());
        let end = std::thread::spawn(move || drop(pool));
        assert!(second.blocking_recv().is_err());
        drop(release);
        assert_eq!(first.blocking_recv(), Ok(()));
        end.join().unwrap();
    }
}
