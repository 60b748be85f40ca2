//! What the writer can be asked to do: each operation is declared here once, applied within the
//! group's transaction, and heard of by `Hear` after the commit.

use std::collections::{HashMap, HashSet};

use crossbeam_channel::Sender;
use rusqlite::{Connection, params};

use super::events::{self, Reply};
use super::jobs::{self, Claimed, Finish, Finished};
use super::refusals::{self, Refused};
use super::registry::{self, Idle, Registry};
use super::{acts, write_anchor};
use crate::clock::TrailClock;
use crate::domain::{HandlerId, SourceId};

/// One change to the trail.
#[derive(Debug)]
pub enum Op {
    /// Claim at most `asked` ready jobs.
    Claim {
        handler: HandlerId,
        asked: usize,
    },
    Finish(Box<Finish>),
    /// Make ready what is due.
    Promote,
    Refusals(Vec<Refused>),
    /// Number the names of a configuration; the answer comes after the commit.
    Register {
        sources: Vec<String>,
        handlers: Vec<(String, bool)>,
        reply: Sender<Registry>,
    },
    Act(acts::Act),
    /// Count the queue of each source again.
    Recount,
    /// Keep the clock's anchor, and forget dedupe keys whose window is over.
    Keep,
}

/// What an operation gave.
#[derive(Debug)]
pub enum Done {
    Accepted(Reply),
    Claimed { handler: HandlerId, asked: usize, jobs: Vec<Claimed> },
    Finished { handler: HandlerId, source: SourceId, how: Finished },
    Promoted { next_due_ms: Option<i64> },
    Registered(Sender<Registry>, Registry),
    Nothing,
}

/// Who listens to the writer, on its thread: must not wait for anything.
pub trait Hear: Send {
    /// A claim was committed; fewer than asked means that no more are ready.
    fn claimed(&self, handler: HandlerId, asked: usize, jobs: Vec<Claimed>);
    /// A claim was not written; `writable` will be heard.
    fn claim_failed(&self, handler: HandlerId, asked: usize);
    /// An outcome is on disk: its thread is free.
    fn finished(&self, handler: HandlerId, how: Finished);
    /// These have jobs that are ready.
    fn woken(&self, handlers: &HashSet<HandlerId>);
    /// When the next waiting job is due, on the trail's clock.
    fn next_due(&self, at_ms: Option<i64>);
    /// Somebody else changed the file.
    fn foreign(&self);
    /// The file can be written again.
    fn writable(&self);
    /// Nothing more can be promised by this process: it must end.
    fn broken(&self, why: &str);
}

/// The highest numbers given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub event: i64,
    pub job: i64,
    pub attempt: i64,
}

/// What the writer knows between transactions; re-read when somebody else changed the file.
#[derive(Debug)]
pub struct State {
    pub clock: TrailClock,
    /// Trail's clock, as of this group.
    pub now_ms: i64,
    /// Wall clock, as of this group.
    pub wall_ms: i64,
    pub counters: Counters,
    idle: HashMap<HandlerId, Idle>,
    pub woken: HashSet<HandlerId>,
    known_ips: HashSet<String>,
    pub(super) refusals: i64,
}

/// So many accepted addresses are remembered, to spare the question whether they are on file.
const KNOWN_IPS_MAX: usize = 10_000;

impl State {
    /// Reads what has to be known before the first operation.
    ///
    /// # Errors
    /// The read failed.
    pub fn read(conn: &Connection, clock: TrailClock) -> rusqlite::Result<Self> {
        let mut state = Self {
            clock,
            now_ms: clock.now_ms(),
            wall_ms: crate::clock::wall_ms(),
            counters: Counters::default(),
            idle: HashMap::new(),
            woken: HashSet::new(),
            known_ips: HashSet::new(),
            refusals: 0,
        };
        state.read_again(conn)?;
        Ok(state)
    }

    /// Reads again what others may have changed.
    ///
    /// # Errors
    /// The read failed.
    pub fn read_again(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        self.counters = conn
            .prepare_cached("SELECT event, job, attempt FROM counters")?
            .query_row([], |row| {
                Ok(Counters { event: row.get(0)?, job: row.get(1)?, attempt: row.get(2)? })
            })?;
        self.idle = registry::idle(conn)?;
        self.refusals = refusals::count(conn)?;
        Ok(())
    }

    /// Keeps the counters; once a transaction.
    ///
    /// # Errors
    /// The write failed.
    pub fn write_counters(&self, conn: &Connection) -> rusqlite::Result<()> {
        let Counters { event, job, attempt } = self.counters;
        conn.prepare_cached("UPDATE counters SET event = ?1, job = ?2, attempt = ?3")?
            .execute(params![event, job, attempt])?;
        Ok(())
    }

    /// A handler's own time now: it stands still while it is paused.
    pub fn active_ms(&self, handler: HandlerId) -> i64 {
        self.idle.get(&handler).copied().unwrap_or_default().active_ms(self.now_ms)
    }

    /// To be told of when the transaction is through.
    pub fn wake(&mut self, handler: HandlerId) {
        self.woken.insert(handler);
    }

    /// Remembers an address that had an event accepted.
    pub(super) fn note_ip(&mut self, conn: &Connection, ip: &str) -> rusqlite::Result<()> {
        if self.known_ips.contains(ip) {
            return Ok(());
        }
        conn.prepare_cached("INSERT OR IGNORE INTO accepted_ips VALUES (?1)")?.execute([ip])?;
        if self.known_ips.len() >= KNOWN_IPS_MAX {
            self.known_ips.clear();
        }
        self.known_ips.insert(ip.to_owned());
        Ok(())
    }

    /// After a rollback: what was remembered may not be on file.
    pub fn forget(&mut self) {
        self.known_ips.clear();
        self.woken.clear();
    }
}

/// Applies one operation.
///
/// # Errors
/// The write failed; the caller takes all of it back.
pub fn apply(conn: &Connection, state: &mut State, op: &Op) -> rusqlite::Result<Done> {
    Ok(match op {
        Op::Claim { handler, asked } => Done::Claimed {
            handler: *handler,
            asked: *asked,
            jobs: jobs::claim(conn, state, *handler, *asked)?,
        },
        Op::Finish(finish) => Done::Finished {
            handler: finish.handler,
            source: finish.source,
            how: jobs::finish(conn, state, finish)?,
        },
        Op::Promote => {
            for handler in jobs::promote(conn, state.now_ms)? {
                state.wake(handler);
            }
            Done::Promoted { next_due_ms: jobs::next_due(conn)? }
        }
        Op::Refusals(rows) => {
            refusals::write(conn, state, rows)?;
            Done::Nothing
        }
        Op::Register { sources, handlers, reply } => {
            let registry = registry::register(conn, sources, handlers, state.now_ms)?;
            state.idle = registry::idle(conn)?;
            Done::Registered(reply.clone(), registry)
        }
        Op::Act(act) => {
            acts::record(conn, act)?;
            Done::Nothing
        }
        Op::Recount => Done::Nothing,
        Op::Keep => {
            write_anchor(conn, &state.clock.anchor())?;
            events::forget_keys(conn, state.now_ms)?;
            Done::Nothing
        }
    })
}
