//! The check of all that is stored after a stop that was not clean: everything is read once, in the reader's idle moments.
//!
//! Opening looks at the ends of every stream only, so that a start takes no longer with ten million messages than with none. What a
//! power cut did in the middle (a flash translation layer that lost pages which it had long since confirmed) is found here, before the
//! upstream comes that far. It is the reading of the forwarder and of the broker, with all that those look for: that every page can be
//! read, that every row makes sense, that no number is missing. A small database is also checked as a structure (`quick_check`).
//!
//! One slice is one short statement ([`SLICE_MESSAGES`], [`SLICE_BYTES`]), so that no snapshot keeps the log from starting anew, and
//! after each slice comes a pause of [`PAUSES`] times as long, so that the disk belongs to others. Reads that somebody waits for come
//! first. What is found goes the way of what any read finds.

use std::time::{Duration, Instant};

use super::{Reader, Span};
use crate::store::{
    alarms::Alarms, api::Sequence, failure::Failure, metrics::AlarmMetrics, schema::PAGE_BYTES, sessions::SessionId,
    shared::locked,
};

const SLICE_MESSAGES: usize = 1024;
const SLICE_BYTES: usize = 256 << 10;

/// How many times as long as a slice the pause after it is.
const PAUSES: u32 = 4;
const PAUSE_MIN: Duration = Duration::from_millis(5);

/// Under load a slice is done after so long all the same.
const OVERDUE: Duration = Duration::from_secs(1);

/// Up to this size the structure of the whole file is checked in one go: a tenth of a second.
const QUICK_CHECK_BYTES: u64 = 8 << 20;

/// Where the check is.
#[derive(Debug)]
pub(super) struct Check {
    metrics: AlarmMetrics,
    began: Instant,
    /// When the last slice was done.
    last: Instant,
    pause: Duration,
    step: Step,
    /// Messages looked at, and those there were when it began.
    done: u64,
    all: u64,
}

#[derive(Debug)]
enum Step {
    Begin,
    /// From this number on of this stream; with the ends of the streams when it began, for what comes later is new.
    Stream(usize, Sequence, Vec<Sequence>),
    /// From this number on of the first of these queues.
    Queues(Vec<SessionId>, Sequence),
}

impl Check {
    pub(super) fn new(metrics: AlarmMetrics) -> Self {
        let now = Instant::now();
        Self { metrics, began: now, last: now, pause: PAUSE_MIN, step: Step::Begin, done: 0, all: 0 }
    }

    /// How long to wait before the next slice, if nobody asks for anything.
    pub(super) fn pause(&self) -> Duration {
        self.pause
    }

    /// So many questions have come that it has stood still for long.
    pub(super) fn is_overdue(&self) -> bool {
        self.last.elapsed() >= OVERDUE + self.pause
    }

    /// Looks at the next slice; false when all was looked at.
    pub(super) fn slice(&mut self, reader: &mut Reader) -> Result<bool, Failure> {
        let began = Instant::now();
        let more = self.go_on(reader)?;
        self.last = Instant::now();
        self.pause = (began.elapsed() * PAUSES).max(PAUSE_MIN);
        self.show(reader, more);
        Ok(more)
    }

    fn go_on(&mut self, reader: &mut Reader) -> Result<bool, Failure> {
        match &mut self.step {
            Step::Begin => {
                self.all = count(reader);
                tracing::info!(messages = self.all, "the last stop was not clean: all that is stored is checked");
                quick_check(reader)?;
                let ends = reader.shared.doors.all().iter().map(|door| door.position.borrow().next).collect();
                self.step = Step::Stream(0, 0, ends);
            }
            Step::Stream(stream, from, ends) => {
                let Some(door) = reader.shared.doors.get(*stream) else {
                    let queues = reader.shared.queues.read().unwrap_or_else(std::sync::PoisonError::into_inner);
                    self.step = Step::Queues(queues.keys().copied().collect(), 0);
                    return Ok(true);
                };
                let head = door.position.borrow().head;
                let next = ends.get(*stream).copied().unwrap_or(0);
                let span = Span { stream: *stream, from: *from, max_messages: SLICE_MESSAGES, max_bytes: SLICE_BYTES };
                let found = if *from < next { reader.read(&span)? } else { Vec::new() };
                self.done += found.len() as u64;
                match found.last() {
                    Some(last) => *from = last.seq + 1,
                    // Nothing but damage, which is buried now; or no row any more: numbers may go on far behind the last.
                    None if *from < next => {
                        let behind = span.from.max(head) + SLICE_MESSAGES as u64;
                        let row = reader.moment(span.stream, span.from.max(head), next)?;
                        *from = row.map_or(next, |row| row.seq.max(behind));
                    }
                    None => (*stream, *from) = (*stream + 1, 0),
                }
            }
            Step::Queues(queues, from) => {
                let Some(&session) = queues.last() else { return Ok(false) };
                let found = reader.read_session(session, *from, SLICE_MESSAGES, SLICE_BYTES)?;
                self.done += found.len() as u64;
                if let Some(last) = found.last() {
                    *from = last.seq + 1;
                } else {
                    queues.pop();
                    *from = 0;
                }
            }
        }
        Ok(true)
    }

    #[expect(clippy::cast_precision_loss, reason = "a share of a count, for people")]
    fn show(&self, reader: &Reader, more: bool) {
        let share = if more { (self.done as f64 / self.all.max(1) as f64).min(0.999) } else { 1.0 };
        let mut glance = locked(&reader.shared.glance);
        glance.alarms = Alarms { checked: Some(share), ..glance.alarms };
        self.metrics.show(&glance.alarms);
        if !more {
            let for_s = self.began.elapsed().as_secs_f64();
            tracing::info!(messages = self.done, for_s, "all that is stored was checked and is sound");
        }
    }
}

/// Messages of all streams and queues.
fn count(reader: &Reader) -> u64 {
    let streams: u64 =
        reader.shared.doors.all().iter().map(|door| locked(&door.published).books.backlog_messages()).sum();
    streams + locked(&reader.shared.queue_totals).messages
}

fn quick_check(reader: &Reader) -> Result<(), Failure> {
    let pages: i64 = reader.connection.pragma_query_value(None, "page_count", |row| row.get(0))?;
    if pages.unsigned_abs() * PAGE_BYTES > QUICK_CHECK_BYTES {
        return Ok(());
    }
    let found: String = reader.connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if found == "ok" { Ok(()) } else { Err(Failure::Damaged(found)) }
}
