//! The thread that speaks to NATS.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::LocalSet;

/// The name of the thread.
pub const NATS_THREAD: &str = "nats";

/// Tasks that wait for the thread to start them.
const QUEUE: usize = 1024;

type LocalFuture = Pin<Box<dyn Future<Output = ()>>>;
type MakeFuture = Box<dyn FnOnce() -> LocalFuture + Send>;

/// The thread of all connections to NATS, with the runtime that async-nats needs. It starts with the first task, and ends
/// when nothing holds it any more.
#[derive(Clone, Debug, Default)]
pub struct NatsThread(Arc<ThreadHandle>);

#[derive(Debug, Default)]
struct ThreadHandle {
    tasks: OnceLock<mpsc::Sender<MakeFuture>>,
    starting: Mutex<()>,
}

impl NatsThread {
    /// Runs a task on the thread. `make` is called there. Waits while too many tasks wait.
    ///
    /// # Errors
    /// The thread could not be created.
    pub fn spawn<F: Future<Output = ()> + 'static>(
        &self,
        make: impl FnOnce() -> F + Send + 'static,
    ) -> io::Result<()> {
        let task: MakeFuture = Box::new(move || Box::pin(make()));
        let ended = || io::Error::other("the thread of NATS has ended");
        self.tasks()?.blocking_send(task).map_err(|_| ended())
    }

    fn tasks(&self) -> io::Result<&mpsc::Sender<MakeFuture>> {
        if let Some(tasks) = self.0.tasks.get() {
            return Ok(tasks);
        }
        let _starting = self.0.starting.lock();
        if self.0.tasks.get().is_none() {
            let tasks = start()?;
            let _ = self.0.tasks.set(tasks);
        }
        self.0.tasks.get().ok_or_else(|| io::Error::other("the thread of NATS did not start"))
    }
}

fn start() -> io::Result<mpsc::Sender<MakeFuture>> {
    let (sender, mut tasks) = mpsc::channel::<MakeFuture>(QUEUE);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let run = async move {
        while let Some(make) = tasks.recv().await {
            tokio::task::spawn_local(make());
        }
    };
    let thread = std::thread::Builder::new().name(NATS_THREAD.into());
    thread.spawn(move || LocalSet::new().block_on(&runtime, run))?;
    Ok(sender)
}
