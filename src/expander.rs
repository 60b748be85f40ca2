//! Evaluates the expressions of events that were stored before that was done, and has their jobs
//! inserted. One thread; it waits for no evaluation and for no commit.
//!
//! The events of one source are taken in their order, some of them ahead, and their jobs are inserted in
//! that order. The sources do not wait for each other: the pool and the writer see to their turns.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use crate::domain::{EventId, SourceId};
use crate::expression::{Busy, EvaluationResult, EventContext};
use crate::planner::{JobPlanner, PlannedEvent};
use crate::store::deferrals::{Deferrals, Deferred};
use crate::store::deferred::{self, EventJobs, Work};
use crate::store::event_reads;
use crate::store::handle::WriterHandle;
use crate::worker::task_builder::TaskBuilder;

/// Maximum number of events of one source that are evaluated ahead: one process takes as many at once.
const AHEAD_MAX: usize = 8;

/// Maximum number of events of one source whose jobs the writer is asked to insert.
const SENT_MAX: usize = 128;

/// Events whose bodies are larger than that together are not evaluated ahead.
const AHEAD_BYTES_MAX: usize = 4 << 20;

/// An event that cannot be read, or for which no process is free, is tried again after this time.
const RETRY_DELAY: Duration = Duration::from_millis(50);

/// What the handlers of each source make of its events, by the configuration as it is now.
pub type Judges = Arc<ArcSwap<JudgesNow>>;

type JudgesNow = HashMap<SourceId, JobPlanner>;

/// What the thread needs.
pub struct Expander {
    pub deferrals: Arc<Deferrals>,
    pub writer: WriterHandle,
    pub maker: TaskBuilder,
    pub judges: Judges,
}

/// Starts the thread; it ends by `Deferrals::close`.
///
/// # Errors
/// The thread cannot be made.
pub fn start(expander: Expander) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("expander".into()).spawn(move || expander.run())
}

/// An answer of the pool.
struct Answered {
    source: SourceId,
    event: EventId,
    resets: u64,
    answers: Result<EvaluationResult, Busy>,
}

type Inbox = Arc<Mutex<Vec<Answered>>>;

/// The next events of a source.
#[derive(Default)]
struct Line {
    resets: u64,
    /// The newest event that was read.
    last: Option<EventId>,
    ahead: VecDeque<Ahead>,
    /// The writer has jobs of a large event.
    has_sent_large: bool,
}

struct Ahead {
    event: EventId,
    bytes: usize,
    stage: Stage,
}

enum Stage {
    /// To be evaluated, but not before that.
    Waiting(Instant),
    /// By this configuration, to which the answers belong.
    Asked(Arc<JudgesNow>),
    Evaluated(Box<EventJobs>),
    /// There is no such event any more.
    Gone,
}

impl Expander {
    fn run(&self) {
        let inbox = Inbox::default();
        let mut lines: HashMap<SourceId, Line> = HashMap::new();
        let mut until = None;
        while self.deferrals.wait(until) {
            let sources = self.deferrals.list();
            lines.retain(|source, _| sources.iter().any(|it| it.source == *source));
            for answered in
                std::mem::take(&mut *inbox.lock().unwrap_or_else(PoisonError::into_inner))
            {
                if let Some(line) = lines.get_mut(&answered.source) {
                    self.take_answers(line, answered);
                }
            }
            until = None;
            for source in sources {
                let line = lines.entry(source.source).or_default();
                let again = self.advance(line, source, &inbox).unwrap_or_else(|e| {
                    log::error!("deferred events could not be read: {e:#}");
                    Some(Instant::now() + RETRY_DELAY * 20)
                });
                until = until.into_iter().chain(again).min();
            }
        }
    }

    /// Does what can be done for a source now; when there may be more by time alone.
    fn advance(
        &self,
        line: &mut Line,
        of: Deferred,
        inbox: &Inbox,
    ) -> anyhow::Result<Option<Instant>> {
        if line.resets != of.resets {
            *line = Line { resets: of.resets, ..Line::default() };
        }
        let judges = self.judges.load_full();
        // Events of a source that is not configured now wait until it is.
        if !judges.contains_key(&of.source) {
            return Ok(None);
        }
        let sent = self.send(line, of);
        if of.events > sent + line.ahead.len() && line.ahead.len() < AHEAD_MAX {
            let after = line.last.unwrap_or(EventId(0));
            let conn = self.maker.readers.get()?;
            let count = AHEAD_MAX - line.ahead.len();
            for event in deferred::list_events(&conn, of.source, after, count)? {
                line.last = Some(event);
                let stage = Stage::Waiting(Instant::now());
                line.ahead.push_back(Ahead { event, bytes: 0, stage });
            }
        }
        let mut bytes: usize = line.ahead.iter().map(|ahead| ahead.bytes).sum();
        let mut again = None;
        for ahead in &mut line.ahead {
            match ahead.stage {
                Stage::Waiting(_) if bytes > AHEAD_BYTES_MAX => break,
                Stage::Waiting(at) if at > Instant::now() => {
                    again = again.into_iter().chain([at]).min()
                }
                Stage::Waiting(_) => {
                    self.evaluate(ahead, (of.source, line.resets), &judges, inbox)?;
                    bytes += ahead.bytes;
                }
                _ => {}
            }
        }
        // What was evaluated in place goes on at once, and makes room for the next.
        if self.send(line, Deferred { sent, ..of }) > sent {
            again = Some(Instant::now());
        }
        Ok(again)
    }

    /// Sends the jobs of events that are evaluated, in their order; how many events the writer has.
    fn send(&self, line: &mut Line, of: Deferred) -> usize {
        let mut sent = of.sent;
        if sent == 0 {
            line.has_sent_large = false;
        }
        let mut works = Vec::new();
        while let Some(ahead) = line.ahead.front()
            && sent < SENT_MAX
            && !line.has_sent_large
        {
            let is_large = match &ahead.stage {
                Stage::Evaluated(jobs) => jobs.owed.iter().any(|(_, owed)| owed.is_large()),
                Stage::Gone => false,
                Stage::Waiting(_) | Stage::Asked(_) => break,
            };
            // One large event of a source at once: its items are held in memory, or in a file.
            if is_large && sent > 0 {
                break;
            }
            if let Some(Ahead { stage: Stage::Evaluated(jobs), .. }) = line.ahead.pop_front() {
                line.has_sent_large = is_large;
                works.push(Work::insert_event_jobs(*jobs));
                sent += 1;
            }
        }
        if !works.is_empty() {
            self.deferrals.send(of.source, works.len());
            self.writer.work(works);
        }
        sent
    }

    /// Evaluates an event in place, or asks the pool.
    fn evaluate(
        &self,
        ahead: &mut Ahead,
        (source, resets): (SourceId, u64),
        judges: &Arc<JudgesNow>,
        inbox: &Inbox,
    ) -> anyhow::Result<()> {
        let Some(judge) = judges.get(&source) else { return Ok(()) };
        let id = ahead.event;
        let kept = self.deferrals.take_plan(source, id);
        let conn = self.maker.readers.get()?;
        let Some(received_at_ms) = event_reads::received_at(&conn, id)? else {
            ahead.stage = Stage::Gone;
            return Ok(());
        };
        let done = |judged| Stage::Evaluated(Box::new(jobs(id, source, received_at_ms, judged)));
        if let Some(owed) = kept {
            ahead.stage = done(PlannedEvent { plan: owed, dedupe: None, note: None });
            return Ok(());
        }
        let Some(questions) = judge.expressions() else {
            ahead.stage = done(judge.unconditional_plan());
            return Ok(());
        };
        let event = event_reads::event(&conn, id)?;
        drop(conn);
        self.maker.with_context(&event, None, |scene| {
            let scene = EventContext { event_id: None, ..*scene };
            if let Some(answers) = questions.evaluate_inline(&scene) {
                ahead.stage = done(judge.plan_from(answers));
                return;
            }
            ahead.bytes = event.body.len();
            ahead.stage = Stage::Asked(Arc::clone(judges));
            let (inbox, deferrals) = (Arc::clone(inbox), Arc::clone(&self.deferrals));
            let answer = Box::new(move |answers| {
                let answered = Answered { source, event: id, resets, answers };
                inbox.lock().unwrap_or_else(PoisonError::into_inner).push(answered);
                deferrals.wake();
            });
            let party = u64::try_from(source.0).unwrap_or(0);
            self.maker.expressions.evaluate_deferred(party, questions, &scene, answer);
        });
        Ok(())
    }

    /// Takes over what the pool answered.
    fn take_answers(&self, line: &mut Line, answered: Answered) {
        let Answered { source, event, resets, answers } = answered;
        if line.resets != resets {
            return;
        }
        let Some(ahead) = line.ahead.iter_mut().find(|ahead| ahead.event == event) else { return };
        ahead.bytes = 0;
        let judges = self.judges.load();
        // Answers to another configuration are those of other handlers.
        if !matches!(&ahead.stage, Stage::Asked(asked) if Arc::ptr_eq(asked, &judges)) {
            ahead.stage = Stage::Waiting(Instant::now());
            return;
        }
        let (Ok(answers), Some(judge)) = (answers, judges.get(&source)) else {
            ahead.stage = Stage::Waiting(Instant::now() + RETRY_DELAY);
            return;
        };
        let found = self.maker.readers.get().map_err(anyhow::Error::from);
        let found = found.and_then(|conn| Ok(event_reads::received_at(&conn, event)?));
        ahead.stage = match found {
            Ok(Some(at_ms)) => {
                Stage::Evaluated(Box::new(jobs(event, source, at_ms, judge.plan_from(answers))))
            }
            Ok(None) => Stage::Gone,
            Err(_) => Stage::Waiting(Instant::now() + RETRY_DELAY),
        };
    }
}

fn jobs(event: EventId, source: SourceId, received_at_ms: i64, judged: PlannedEvent) -> EventJobs {
    let PlannedEvent { plan: owed, note, .. } = judged;
    EventJobs { event, source, received_at_ms, owed: owed.into_specs(), note, dedupe: None }
}
