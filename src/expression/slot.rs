//! A thread with one process: takes questions from the queue, hands them over, hears the answers.
//! Where the process ends, it knows by the stage that was written down which expression did it; that
//! one has failed, and the rest is asked again of a new process.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::ears::{Deaf, Ears, Heard, Patience};
use super::queue::{Done, Job, Lane, Next, Queue, What};
use crate::process::{Gone, Program, Servant};

/// A process that had nothing to do for so long is ended.
const IDLE: Duration = Duration::from_secs(60);

/// What is behind one that takes so long is given to others.
const HELD_UP: Duration = Duration::from_millis(30);

/// Less time than this is not worth to ask again.
const WORTHWHILE: Duration = Duration::from_millis(50);

/// A process may be ended by others; so often it is taken for that.
const LOST_MAX: u32 = 2;

/// Between starts that fail, doubled each time.
const BACKOFF: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// What a process is good for after it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    Fit,
    /// It is to be replaced.
    Spent,
    /// It has ended, and the first job left was in its hand.
    Died,
}

pub(super) struct Slot {
    pub queue: Arc<Queue>,
    pub lane: Lane,
    pub program: Program,
    /// Where large items go.
    pub folder: PathBuf,
}

impl Lane {
    /// Processor time of an event, which the process itself keeps to.
    pub fn processor_ms(self) -> u32 {
        match self {
            Self::Intake => 2000,
            Self::Later => 1000,
        }
    }

    /// By the clock, in case the machine is busy: a sender is answered within 3 s, waiting included.
    fn time(self) -> Duration {
        match self {
            Self::Intake => Duration::from_millis(2400),
            Self::Later => Duration::from_secs(10),
        }
    }
}

impl Slot {
    /// Until the queue is closed.
    pub fn run(self) {
        let (mut child, mut failures) = (None, 0_u32);
        loop {
            match self.queue.next(self.lane, child.as_ref().map(|_| IDLE)) {
                Next::Closed => return,
                Next::Idle => child = None,
                Next::Group(jobs) => {
                    let party = jobs.front().map_or(0, |job| job.party);
                    let begun = self.group(jobs, &mut child);
                    self.queue.done(self.lane, party);
                    failures = if begun { 0 } else { failures + 1 };
                    if failures > 0 {
                        let wait = BACKOFF.saturating_mul(1 << failures.min(10));
                        self.queue.pause(self.lane, wait.min(BACKOFF_MAX));
                    }
                }
            }
        }
    }

    /// `false`: processes can't be had.
    fn group(&self, mut jobs: VecDeque<Job>, child: &mut Option<Ears>) -> bool {
        while !jobs.is_empty() {
            let mut ears = match child.take().map_or_else(|| self.start(), Ok) {
                Ok(ears) => ears,
                Err(why) => {
                    log::warn!("expressions: no process to evaluate them: {why}");
                    return false;
                }
            };
            match self.ask(&mut ears, &mut jobs) {
                After::Fit => *child = Some(ears),
                After::Spent => drop(ears),
                After::Died => {
                    let stage = ears.servant.stage();
                    if !self.after_death(stage, ears.servant.end(), &mut jobs) {
                        return false;
                    }
                }
            }
        }
        true
    }

    fn start(&self) -> Result<Ears, String> {
        Servant::start(&self.program).map(Ears::new)
    }

    /// Hands them over and tells what comes.
    fn ask(&self, ears: &mut Ears, jobs: &mut VecDeque<Job>) -> After {
        let mut after = match self.say(ears, jobs) {
            Ok(()) => After::Fit,
            Err(Deaf::Closed) => {
                jobs.clear();
                After::Spent
            }
            Err(_) => After::Died,
        };
        while after == After::Fit {
            let Some(mut job) = jobs.pop_front() else { break };
            let now = Instant::now();
            let until = *job.began.get_or_insert(now) + self.lane.time();
            let mut tick = || {
                if now.elapsed() >= HELD_UP && !jobs.is_empty() {
                    self.queue.give_back(self.lane, jobs.drain(..));
                    // They are on their way to it all the same.
                    after = After::Spent;
                }
                self.queue.look(self.lane)
            };
            let mut patience = Patience { until, tick: &mut tick };
            match ears.hear(&self.folder, &mut patience) {
                Ok(heard) => answer(job, heard),
                Err(Deaf::Ended) => {
                    jobs.push_front(job);
                    after = After::Died;
                }
                Err(deaf) => {
                    self.unanswered(job, deaf, jobs);
                    after = After::Spent;
                }
            }
        }
        after
    }

    /// What is large goes alone, so that it need not be copied.
    fn say(&self, ears: &Ears, jobs: &VecDeque<Job>) -> Result<(), Deaf> {
        let until = Instant::now() + self.lane.time();
        let mut patience = Patience { until, tick: &mut || self.queue.look(self.lane) };
        if let ([job], []) | ([], [job]) = jobs.as_slices() {
            ears.say(&job.head(), &mut patience)?;
            return ears.say(&job.scene, &mut patience);
        }
        let all: Vec<u8> =
            jobs.iter().flat_map(|job| [job.head(), job.scene.clone()]).flatten().collect();
        ears.say(&all, &mut patience)
    }

    /// There is no answer, although its process runs.
    fn unanswered(&self, mut job: Job, deaf: Deaf, jobs: &mut VecDeque<Job>) {
        match deaf {
            Deaf::Late => {
                let reason = format!("took more than {} s", self.lane.time().as_secs_f32());
                if let What::Questions(open) = &mut job.what {
                    open.fail_all(&reason);
                }
                finish(job, &reason);
            }
            Deaf::Disk(why) => log::warn!("expressions: large items can't be kept: {why}"),
            Deaf::Closed => jobs.clear(),
            Deaf::Garbled | Deaf::Ended => log::error!("a fault in hooktrail: {deaf:?}"),
        }
    }

    /// The first of `jobs` was in hand when its process ended: the expression that did it has
    /// failed, and what is left is worth asking while there is time. `false`: it was none of them.
    fn after_death(&self, stage: u32, gone: Gone, jobs: &mut VecDeque<Job>) -> bool {
        let Some(mut job) = jobs.pop_front() else { return true };
        if stage == 0 {
            job.lost += 1;
            if job.lost > LOST_MAX {
                log::warn!("expressions: processes end before they begin: {gone:?}");
                return false;
            }
            jobs.push_front(job);
            return true;
        }
        let reason = self.reason(gone);
        let left = job.began.map_or(Duration::MAX, |began| {
            (began + self.lane.time()).saturating_duration_since(Instant::now())
        });
        if let What::Questions(open) = &mut job.what {
            open.fail(stage, &reason);
            if !open.is_empty() && left >= WORTHWHILE {
                jobs.push_front(job);
                return true;
            }
            open.fail_all(&reason);
        }
        finish(job, &reason);
        true
    }

    fn reason(&self, gone: Gone) -> String {
        match gone {
            Gone::Signal(signal) if signal == Signal::PROF.as_raw() => {
                let seconds = self.lane.processor_ms() / 1000;
                format!("took more than {seconds} s of processor time")
            }
            Gone::Signal(_) => "took more than 256 MiB or nested too deep".to_owned(),
            Gone::Code(code) => format!("ended its process with exit {code}"),
            Gone::Unknown => "ended its process".to_owned(),
        }
    }
}

/// Nothing of it is open any more.
fn finish(mut job: Job, reason: &str) {
    let what = std::mem::replace(&mut job.what, What::Done);
    match what {
        What::Questions(open) => match open.finish() {
            Some(answers) => job.tell(Done::Answers(answers)),
            None => job.tell(Done::Busy),
        },
        What::Outputs { .. } => job.tell(Done::Outputs(Err(reason.to_owned()))),
        What::Done => {}
    }
}

fn answer(mut job: Job, heard: Heard) {
    match (std::mem::replace(&mut job.what, What::Done), heard) {
        (What::Questions(mut open), Heard::Answers { dedupe, takers }) => {
            match open.answer(dedupe, takers).and_then(|()| open.finish()) {
                Some(answers) => job.tell(Done::Answers(answers)),
                None => job.tell(Done::Busy),
            }
        }
        (What::Outputs { .. }, Heard::Outputs(outputs)) => job.tell(Done::Outputs(outputs)),
        _ => job.tell(Done::Busy),
    }
}
