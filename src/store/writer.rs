//! The one thread that writes: takes operations from a bounded channel, commits them in groups, and
//! answers after the commit.
//!
//! One bad operation fails alone: where a group has one, it is done again with a savepoint each. A
//! group that can't be written is answered `Unavailable`; outcomes in it are kept and tried again.
//! After a failed sync nothing more is promised: what the kernel has on disk is then unknown, so the
//! process ends without a checkpoint, and the next one syncs the whole file before it listens.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use rusqlite::{Connection, ErrorCode};

use super::channel::{CHANNEL_MESSAGES, Handle, Health, HealthCell, Message, Write};
use super::checkpoint::{self, Nudge};
use super::events::{self, Inserts};
use super::op::{self, Care, Done, Hear, Op};
use super::state::State;
use super::tally::{Recount, Tally};
use super::{FOREIGN_WRITER_PATIENCE, Store, Trouble, reserve, sources, trouble};

mod deliver;
mod save;

/// So many operations go into one commit at most.
const GROUP_OPS_MAX: usize = 1024;

/// How often `data_version` is looked at while nothing is written.
const LOOK: Duration = Duration::from_millis(500);

/// While a foreign writer holds the file, how long each further try may take.
const BLOCKED_PATIENCE: Duration = Duration::from_millis(100);

/// Starts the thread. It ends, after a last checkpoint, when all `Handle`s are dropped.
///
/// # Errors
/// The thread can't be made, or the file can't be read.
pub fn start(
    store: Store,
    nudge: Nudge,
    tally: Arc<Tally>,
    hear: Box<dyn Hear>,
    health: Arc<HealthCell>,
) -> anyhow::Result<(Handle, JoinHandle<()>)> {
    let (to, from) = bounded(CHANNEL_MESSAGES);
    let state = State::read(&store.conn, store.clock)?;
    let version = data_version(&store.conn)?;
    tally.count_again(&store.conn)?;
    tally.saw(sources::seen(&store.conn, state.now_ms, state.wall_ms)?.into_iter());
    let handle = Handle { to, health: Arc::clone(&health) };
    let (tally, unwritten) = (Recount::new(tally), Vec::new());
    let mut writer = Writer { store, state, nudge, tally, hear, health, version, unwritten };
    let thread =
        std::thread::Builder::new().name("writer".into()).spawn(move || writer.run(&from))?;
    Ok((handle, thread))
}

struct Writer {
    store: Store,
    state: State,
    nudge: Nudge,
    tally: Recount,
    hear: Box<dyn Hear>,
    health: Arc<HealthCell>,
    /// `PRAGMA data_version`: changes when somebody else wrote.
    version: i64,
    /// Outcomes that could not be written yet; at most one a worker, as none starts meanwhile.
    unwritten: Vec<Op>,
}

fn data_version(conn: &Connection) -> rusqlite::Result<i64> {
    conn.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))
}

/// Who waits for counts.
fn recount(write: &Write) -> Option<Sender<()>> {
    match write {
        Write::Op(Op::Recount(reply)) => Some(reply.clone()),
        _ => None,
    }
}

impl Writer {
    fn run(&mut self, from: &Receiver<Message>) {
        let mut group = Vec::new();
        loop {
            self.health.beat();
            if let Some(change) = self.store.files.change().cloned() {
                return self.save(&change, from);
            }
            self.claim(&mut group);
            let mut ops = group.len();
            if ops == 0 {
                match from.recv_timeout(LOOK) {
                    Ok(message) => ops += self.gather(message, &mut group),
                    Err(RecvTimeoutError::Timeout) => {
                        self.look();
                        continue;
                    }
                    Err(RecvTimeoutError::Disconnected) => break,
                }
            }
            while ops < GROUP_OPS_MAX
                && let Ok(message) = from.try_recv()
            {
                ops += self.gather(message, &mut group);
            }
            self.claim(&mut group);
            if group.is_empty() {
                continue;
            }
            self.group(&mut group);
            if self.nudge.wants_restart()
                && let Err(e) = checkpoint::passive(&self.store.conn)
                && trouble(&e) == Trouble::Sync
            {
                self.broken(&format!("a checkpoint could not be synced ({e})"));
            }
        }
        match self.store.files.check().cloned() {
            Some(change) => self.save(&change, from),
            None => self.close(),
        }
    }

    /// Gives the number of operations that came with it.
    fn gather(&self, message: Message, group: &mut Vec<Write>) -> usize {
        let write = match message {
            Message::Write(write) => Some(write),
            Message::Freed(last, handler) => {
                self.hear.freed(handler);
                last.map(Write::Op)
            }
        };
        let ops = write.as_ref().map_or(0, Write::size);
        group.extend(write);
        ops
    }

    /// What free threads are to run next is claimed behind what they ran before: both are one commit.
    fn claim(&self, group: &mut Vec<Write>) {
        group.extend(self.hear.plan().into_iter().map(|ask| Write::Op(Op::Claim(ask))));
    }

    /// Writes a group and answers it.
    fn group(&mut self, group: &mut Vec<Write>) {
        if self.health.get() == Health::Broken {
            self.refuse(group);
            return;
        }
        let retried = self.unwritten.len();
        let mut done = Vec::with_capacity(group.len() + retried);
        let mut result = self.transaction(group, &mut done, Care::Together);
        if let Err(e) = &result
            && trouble(e) == Trouble::Own
        {
            // One of them is at fault: again, each by itself.
            self.roll_back();
            done.clear();
            result = self.transaction(group, &mut done, Care::EachAlone);
        }
        match result {
            Ok(foreign) => {
                let retried = std::mem::take(&mut self.unwritten);
                self.nudge.committed();
                self.good();
                if foreign {
                    // First: a pause holds for what this group brought, too.
                    self.hear.foreign();
                }
                let recounts: Vec<Sender<()>> = group.iter().filter_map(recount).collect();
                self.deliver(retried, group, done);
                self.tally.is_old |= foreign;
                if self.tally.count(&self.store.conn, !recounts.is_empty()) {
                    recounts.iter().for_each(|reply| _ = reply.try_send(()));
                }
            }
            Err(e) => {
                self.roll_back();
                self.failed(&e);
                self.refuse(group);
            }
        }
    }

    /// Takes back what was done, in the file and in memory.
    fn roll_back(&mut self) {
        if !self.store.conn.is_autocommit() {
            let _ = self.store.conn.execute_batch("ROLLBACK");
        }
        self.state.forget();
        if let Err(e) = self.state.read_again(&self.store.conn) {
            log::debug!("the counters could not be read again: {e}");
            self.version = -1;
        }
    }

    /// One transaction; whether somebody else wrote since the last.
    fn transaction(
        &mut self,
        group: &[Write],
        done: &mut Vec<Done>,
        care: Care,
    ) -> rusqlite::Result<bool> {
        let conn = &self.store.conn;
        conn.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        let version = data_version(conn)?;
        let foreign = version != self.version;
        if foreign {
            self.state.read_again(conn)?;
        }
        self.state.now_ms = self.store.clock.now_ms();
        self.state.wall_ms = crate::clock::wall_ms();
        let before = self.state.counters;
        let state = &mut self.state;
        for op in &self.unwritten {
            done.push(care.apply(conn, state, |c, s| op::apply(c, s, op))?);
        }
        let mut inserts = Inserts::new(conn)?;
        for message in group {
            match message {
                Write::Accepts(accepts, _) => {
                    for accept in accepts {
                        done.push(care.apply(conn, state, |c, s| {
                            events::accept(c, s, &mut inserts, accept).map(Done::Accepted)
                        })?);
                    }
                }
                Write::Op(op) => done.push(care.apply(conn, state, |c, s| op::apply(c, s, op))?),
            }
        }
        if self.state.counters != before {
            self.state.write_counters(conn)?;
        }
        conn.prepare_cached("COMMIT")?.execute([])?;
        self.version = version;
        Ok(foreign)
    }

    fn failed(&mut self, error: &rusqlite::Error) {
        if error.sqlite_error_code() == Some(ErrorCode::DiskFull) {
            reserve::release(&self.store.path);
        }
        let path = self.store.path.display();
        let before = self.health.get();
        match trouble(error) {
            Trouble::Sync => {
                return self.broken(&format!("a commit could not be synced ({error})"));
            }
            Trouble::Damaged => {
                return self.broken(&format!(
                    "{path} is damaged ({error}): put a copy in its place and remove its -wal and \
                     -shm, or save what can be read with `sqlite3 FILE .recover`"
                ));
            }
            Trouble::Busy if before == Health::Good => {
                let holder = super::write_lock_holder(&self.store.path);
                log::error!(
                    "{path}: {} has held it for writing for over {FOREIGN_WRITER_PATIENCE:?}: \
                     senders get 503 until it lets go",
                    holder.as_deref().unwrap_or("another program"),
                );
                let _ = self.store.conn.busy_timeout(BLOCKED_PATIENCE);
            }
            _ if before == Health::Good => {
                log::error!("{path}: can't be written ({error}): senders get 503 until it can");
            }
            _ => {}
        }
        self.health.set(Health::Blocked);
    }

    fn good(&mut self) {
        if self.health.get() == Health::Blocked {
            log::info!("{}: can be written again", self.store.path.display());
            let _ = self.store.conn.busy_timeout(FOREIGN_WRITER_PATIENCE);
            self.health.set(Health::Good);
            self.hear.writable();
        }
    }

    fn broken(&self, why: &str) {
        self.health.set(Health::Broken);
        self.hear.broken(why);
    }

    /// Nothing came for a while: did somebody else write, can a blocked file be written, is a long
    /// log to be cut.
    fn look(&mut self) {
        match self.health.get() {
            Health::Broken => return,
            Health::Blocked => return self.keep(),
            // An outcome that took the place of what could not be written.
            Health::Good if !self.unwritten.is_empty() => self.keep(),
            Health::Good => {}
        }
        match data_version(&self.store.conn) {
            Ok(version) if version != self.version => {
                self.version = version;
                if let Err(e) = self.state.read_again(&self.store.conn) {
                    self.version = -1;
                    log::debug!("what others wrote could not be read: {e}");
                }
                self.hear.foreign();
                self.tally.is_old = true;
            }
            Ok(_) => {}
            Err(e) => self.failed(&e),
        }
        self.tally.count(&self.store.conn, false);
        let kept = u64::try_from(checkpoint::LOG_BYTES_KEPT).unwrap_or(u64::MAX);
        if super::log_bytes(&self.store.path) > kept {
            let _ = self.store.conn.busy_timeout(Duration::ZERO);
            if let Err(e) = checkpoint::truncate(&self.store.conn)
                && trouble(&e) == Trouble::Sync
            {
                self.broken(&format!("a checkpoint could not be synced ({e})"));
            }
            let _ = self.store.conn.busy_timeout(FOREIGN_WRITER_PATIENCE);
        }
    }

    fn keep(&mut self) {
        let keep = Op::Keep(self.tally.of.seen());
        self.group(&mut vec![Write::Op(keep)]);
    }

    /// All handles are gone: the last outcomes, the clock, a last checkpoint.
    fn close(&mut self) {
        let deadline = Instant::now() + FOREIGN_WRITER_PATIENCE;
        loop {
            self.keep();
            match self.health.get() {
                Health::Good => break,
                Health::Broken => return,
                Health::Blocked if Instant::now() > deadline => {
                    let lost = self.unwritten.len();
                    log::error!("{lost} outcomes could not be written: their jobs will run again");
                    break;
                }
                Health::Blocked => std::thread::sleep(BLOCKED_PATIENCE),
            }
        }
        if let Err(e) = checkpoint::truncate(&self.store.conn) {
            log::warn!("{}: the last checkpoint failed: {e}", self.store.path.display());
        }
    }
}
