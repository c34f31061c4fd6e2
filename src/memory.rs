//! Memory that nobody uses any more is given back to the system: after every busy time, and now and then within a long one.
//!
//! glibc keeps what was freed between things that are still in use, in an arena for each thread, and gives none of it back by itself.
//! Measured (x86-64, glibc 2.36, 20 publishers with 1 000 messages in flight each, 1 million messages): 13.4 MiB resident before, 34.3 for good
//! after it, of which 3.3 were in use; 17.4 once it was asked to give back. Guarantee G5 allows 16 above an empty gateway, and the board
//! has other programs to run. Other ways, measured on the same load: fixed thresholds by the environment 27 (and one mapping for each large
//! buffer), one arena 29 at half the speed, mimalloc 27 empty and 89 after it.
//!
//! Whether a time is busy is told by the processor time that the process has used: `Pace` decides, pure. One giving back took 6 ms on a busy machine; it
//! locks one arena at a time. Where the C library is not glibc, nothing is done.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use crate::beat;

/// How often it is looked how busy the process is, in a busy time.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// The same while nothing happens.
const IDLE_LOOK_INTERVAL: Duration = Duration::from_secs(10);
/// Processor time from one look to the next from which on it counts as busy: 1 % of a core in a busy time.
const BUSY: Duration = Duration::from_millis(20);
/// How many busy looks one after another until memory is given back all the same.
const BUSY_LOOKS_MAX: u32 = 15;

/// When to give back.
#[derive(Debug, Default)]
struct Pace {
    /// Processor time of the process at the last look.
    used: Duration,
    /// Busy looks since memory was given back.
    busy_looks: u32,
    /// Whether the last look was one.
    is_busy: bool,
}

impl Pace {
    /// A look: the process has used so much processor time since it began. Whether to give back now.
    fn look(&mut self, used: Duration) -> bool {
        let is_busy = used.saturating_sub(self.used) >= BUSY;
        self.used = used;
        self.is_busy = is_busy;
        if is_busy {
            self.busy_looks += 1;
        }
        let due = if is_busy { self.busy_looks >= BUSY_LOOKS_MAX } else { self.busy_looks > 0 };
        if due {
            self.busy_looks = 0;
        }
        due
    }

    /// How long until the next look.
    const fn interval(&self) -> Duration {
        if self.is_busy { LOOK_INTERVAL } else { IDLE_LOOK_INTERVAL }
    }
}

/// Gives back what is not in use, after busy times; never ends. Cancel safe.
pub async fn give_back_after_work() -> std::convert::Infallible {
    // The start is a busy time, too: it reads the configuration and some 150 roots.
    let mut pace = Pace { is_busy: true, ..Pace::default() };
    loop {
        beat::wait(pace.interval()).await;
        let used = clock_gettime(ClockId::ProcessCPUTime);
        let used = Duration::try_from(used).unwrap_or_default();
        if pace.look(used) {
            let began = Instant::now();
            // A failure to run it (the runtime is ending) leaves the memory where it is.
            let _ = tokio::task::spawn_blocking(give_back).await;
            tracing::debug!(took = ?began.elapsed(), "memory given back to the system");
        }
    }
}

/// Asks the C library to return to the system what it keeps (malloc_trim(3)).
#[cfg(target_env = "gnu")]
fn give_back() {
    #[expect(
        unsafe_code,
        reason = "no crate offers it; a call without pointers, thread-safe, that fails by doing nothing"
    )]
    mod glibc {
        unsafe extern "C" {
            // `int malloc_trim(size_t pad)`: keeps `pad` bytes at the top of the heap; 1 where something was given back.
            pub(super) safe fn malloc_trim(pad: usize) -> std::ffi::c_int;
        }
    }
    glibc::malloc_trim(0);
}

#[cfg(not(target_env = "gnu"))]
fn give_back() {}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes of looks between which so many milliseconds of processor time were used.
    fn looks(used_ms: &[u64]) -> Vec<bool> {
        let (mut pace, mut total) = (Pace::default(), 0);
        used_ms
            .iter()
            .map(|ms| {
                total += ms;
                pace.look(Duration::from_millis(total))
            })
            .collect()
    }

    #[test]
    fn memory_is_given_back_once_after_a_busy_time() {
        assert_eq!(looks(&[500, 900, 3, 2, 0]), [false, false, true, false, false]);
    }

    #[test]
    fn an_idle_process_is_left_alone() {
        assert!(looks(&[3; 100]).iter().all(|due| !due));
    }

    #[test]
    fn it_is_looked_often_only_in_a_busy_time() {
        let mut pace = Pace::default();
        let mut after = |used_ms| {
            pace.look(Duration::from_millis(used_ms));
            pace.interval()
        };
        assert_eq!([after(3), after(500), after(503)], [IDLE_LOOK_INTERVAL, LOOK_INTERVAL, IDLE_LOOK_INTERVAL]);
    }

    #[test]
    fn a_busy_time_without_end_is_interrupted_now_and_then() {
        let given_back = looks(&[1500; 45]).iter().filter(|due| **due).count();
        assert_eq!(given_back, 3);
    }

    #[cfg(target_env = "gnu")]
    #[test]
    fn what_was_freed_between_what_is_in_use_goes_back_to_the_system() {
        // In a process of its own: other tests take memory and give it back, too.
        if std::env::var_os("ALONE").is_none() {
            let name = "memory::tests::what_was_freed_between_what_is_in_use_goes_back_to_the_system";
            let mut alone = std::process::Command::new(std::env::current_exe().unwrap());
            let done = alone.args(["--exact", name]).env("ALONE", "1").output().unwrap();
            let said = String::from_utf8_lossy(&done.stdout);
            assert!(done.status.success() && said.contains("1 passed"), "{said}");
            return;
        }
        let resident = || {
            let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
            pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
        };
        let mut kept: Vec<Vec<u8>> = (0..40_000).map(|_| vec![1_u8; 1000]).collect();
        let full = resident();
        // Every tenth stays, so that nothing is free at the top.
        kept = kept.into_iter().enumerate().filter(|(at, _)| at % 10 == 0).map(|(_, bytes)| bytes).collect();
        give_back();
        let (after, mib) = (resident(), 1 << 20);
        assert!(after + 10 * mib < full, "{} MiB of {}", after / mib, full / mib);
        drop(kept);
    }
}
