//! Between those who log and the place where the log goes: a bounded queue and one thread, so that a log that nobody reads stops nobody.
//!
//! Whoever logs counts the line (`storms`), puts it into the queue and goes on. The thread `log` writes what is there, in order. Where
//! the terminal, pipe or journal behind stderr stands still, it waits; the queue fills up to `QUEUE_BYTES`, what comes then is
//! counted and dropped, and a line says how many those were as soon as there is somebody to read it.
//!
//! `Shared::finish` writes what storms hold back and waits for the queue to be written, at most `FINISH_GRACE`: a log that
//! nobody reads does not keep the program from ending either. `kill -9` loses the lines of the last moment.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use tracing::Level;

use super::{
    line::{Line, Value},
    storms::{Kind, Storms, Verdict},
};

/// Most bytes of lines that wait to be written.
pub(super) const QUEUE_BYTES: usize = 1 << 20;
/// Most lines that are written at once.
const BATCH: usize = 64;
/// Longest time that the end of the program waits for its log.
pub(super) const FINISH_GRACE: Duration = Duration::from_secs(2);
/// How long the thread sleeps where nothing is held back.
const IDLE: Duration = Duration::from_secs(3600);

/// Where lines go. Gives how many of them nobody took; may wait as long as it likes.
pub(super) trait Output: Send {
    fn write(&mut self, lines: &[Line]) -> u64;
}

/// Shared by those who log and the thread that writes.
#[derive(Debug, Default)]
pub(super) struct Shared {
    storms: Mutex<Storms>,
    queue: Mutex<Queue>,
    /// There is something to write, or to wait for.
    work: Condvar,
    /// All is written.
    written: Condvar,
    lost: AtomicU64,
}

#[derive(Debug, Default)]
struct Queue {
    lines: VecDeque<Line>,
    bytes: usize,
    /// Lines that found no room and of which the log does not know yet.
    lost: u64,
    /// Lines are on their way out.
    writing: bool,
    /// Something is held back that the thread does not know of.
    woken: bool,
}

/// No code that could panic runs while one of the locks is held, so what they guard is whole.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Starts the thread.
    pub(super) fn start(output: impl Output + 'static) -> io::Result<Arc<Self>> {
        let shared = Arc::new(Self::default());
        let its = Arc::clone(&shared);
        thread::Builder::new().name("log".to_owned()).spawn(move || its.run(output))?;
        Ok(shared)
    }

    /// Takes a line; it is only made where it is wanted.
    pub(super) fn take(&self, kind: Option<Kind>, make: impl FnOnce() -> Line) {
        let Some(kind) = kind else { return self.push([make()]) };
        let mut out = Vec::new();
        let verdict = locked(&self.storms).came(kind, Instant::now(), &mut out);
        match verdict {
            Verdict::Pass => out.push(make()),
            Verdict::Keep { first } => {
                let line = make();
                locked(&self.storms).keep(kind, line);
                if first {
                    locked(&self.queue).woken = true;
                    self.work.notify_one();
                }
            }
            Verdict::Count => {}
        }
        if !out.is_empty() {
            self.push(out);
        }
    }

    fn push(&self, lines: impl IntoIterator<Item = Line>) {
        let mut queue = locked(&self.queue);
        for mut line in lines {
            if line.repeated.is_some() {
                line.time = SystemTime::now();
            }
            if queue.bytes + line.weight() > QUEUE_BYTES {
                queue.lost += 1;
                self.lost.fetch_add(1, Ordering::Relaxed);
            } else {
                queue.bytes += line.weight();
                queue.lines.push_back(line);
            }
        }
        drop(queue);
        self.work.notify_one();
    }

    /// Lines that nobody took, ever.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Writes what is held back, without waiting for it.
    pub(super) fn settle(&self) {
        let mut out = Vec::new();
        locked(&self.storms).finish(Instant::now(), &mut out);
        self.push(out);
    }

    /// Writes what is held back and waiting. Gives whether all of it was taken in time.
    pub(super) fn finish(&self) -> bool {
        self.settle();
        let until = Instant::now() + FINISH_GRACE;
        let mut queue = locked(&self.queue);
        while queue.writing || !queue.lines.is_empty() || queue.lost > 0 {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            queue = self.written.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    fn run(&self, mut output: impl Output) {
        loop {
            let batch = self.next_batch();
            let refused = output.write(&batch);
            self.lost.fetch_add(refused, Ordering::Relaxed);
            let mut queue = locked(&self.queue);
            queue.writing = false;
            // Not added to `queue.lost`: who takes no lines takes no line about that either.
            drop(queue);
            self.written.notify_all();
        }
    }

    /// Waits for lines to write, also for those that storms hold back.
    fn next_batch(&self) -> Vec<Line> {
        loop {
            let (mut due, now) = (Vec::new(), Instant::now());
            let next_due = {
                let mut storms = locked(&self.storms);
                storms.due(now, &mut due);
                storms.next_due()
            };
            self.push(due);
            let mut queue = locked(&self.queue);
            if queue.lines.is_empty() && queue.lost > 0 {
                let line = lost_line(std::mem::take(&mut queue.lost));
                queue.bytes += line.weight();
                queue.lines.push_back(line);
            }
            if !queue.lines.is_empty() {
                let end = queue.lines.len().min(BATCH);
                let batch: Vec<Line> = queue.lines.drain(..end).collect();
                queue.bytes -= batch.iter().map(Line::weight).sum::<usize>();
                queue.writing = true;
                return batch;
            }
            if !std::mem::take(&mut queue.woken) {
                let wait = next_due.map_or(IDLE, |at| at.saturating_duration_since(now));
                let (mut queue, _) = self.work.wait_timeout(queue, wait).unwrap_or_else(PoisonError::into_inner);
                queue.woken = false;
            }
        }
    }
}

fn lost_line(lost: u64) -> Line {
    Line {
        time: SystemTime::now(),
        level: Level::WARN,
        target: module_path!(),
        source: Some((file!(), line!())),
        message: "log lines were dropped: nobody took them in time".to_owned(),
        fields: vec![("lines", Value::Unsigned(lost))],
        repeated: None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    use super::*;
    use crate::log::storms::BURST;

    /// Writes when it is allowed to, once for each permission.
    struct Gate {
        permits: Receiver<()>,
        written: SyncSender<Vec<Line>>,
    }

    impl Output for Gate {
        fn write(&mut self, lines: &[Line]) -> u64 {
            // Who dropped the other end wants no waiting any more.
            let _ = self.permits.recv();
            self.written.send(lines.to_vec()).map_or(lines.len() as u64, |()| 0)
        }
    }

    fn rig() -> (Arc<Shared>, SyncSender<()>, Receiver<Vec<Line>>) {
        let (permit, permits) = sync_channel(10_000);
        let (written, lines) = sync_channel(10_000);
        (Shared::start(Gate { permits, written }).unwrap(), permit, lines)
    }

    fn line(number: u64) -> Line {
        Line { fields: vec![("number", Value::Unsigned(number))], message: "x".repeat(500), ..lost_line(0) }
    }

    #[test]
    fn a_log_that_nobody_reads_stops_nobody_and_says_later_what_is_missing() {
        let (shared, permit, lines) = rig();
        for number in 0..10_000 {
            shared.take(None, || line(number));
        }
        let lost = shared.lost();
        assert!(lost > 5_000 && locked(&shared.queue).bytes <= QUEUE_BYTES, "{lost}");
        let began = Instant::now();
        assert!(!shared.finish(), "nobody reads");
        assert!(began.elapsed() >= FINISH_GRACE && began.elapsed() < FINISH_GRACE * 5);
        drop(permit);
        assert!(shared.finish());
        let written: Vec<Line> = lines.try_iter().flatten().collect();
        let (end, told) = written.split_last().unwrap();
        assert_eq!(end.fields, [("lines", Value::Unsigned(lost))]);
        assert_eq!(told.len() as u64 + lost, 10_000);
        let number = |line: &Line| match line.fields[..] {
            [("number", Value::Unsigned(number))] => number,
            _ => panic!("{line:?}"),
        };
        assert!(told.is_sorted_by(|a, b| number(a) < number(b)));
    }

    #[test]
    fn what_a_storm_holds_back_is_written_at_the_end() {
        let (shared, permit, lines) = rig();
        drop(permit);
        for number in 0..1_000 {
            shared.take(Some(Kind { id: 7, fact: None }), || line(number));
        }
        assert!(shared.finish());
        let written: Vec<Line> = lines.try_iter().flatten().collect();
        assert_eq!(written.len(), BURST as usize + 1);
        assert_eq!(written.last().unwrap().repeated.unwrap().times, 1_000 - u64::from(BURST));
    }

    #[test]
    fn the_last_fact_is_written_without_anybody_asking() {
        let (shared, permit, lines) = rig();
        drop(permit);
        for number in 0..100 {
            shared.take(Some(Kind { id: 7, fact: Some(7) }), || line(number));
        }
        let until = Instant::now() + Duration::from_secs(30);
        let mut written = Vec::new();
        while written.last().is_none_or(|line: &Line| line.repeated.is_none()) {
            written.extend(lines.recv_timeout(until.saturating_duration_since(Instant::now())).unwrap());
        }
        assert_eq!(written.last().unwrap().fields, [("number", Value::Unsigned(99))]);
    }
}
