//! The store: every message that was acknowledged, on disk, in order, in one SQLite database.
//!
//! # Layout
//!
//! `data_dir/tidegate.db` (+ `-wal`, `-shm`), `data_dir/tidegate.lock`, `data_dir/quarantine/`; files 0600, folder 0700.
//! One table a stream, `s_<id>`, keyed by the sequence number: every append is at the right edge of its B-tree and no secondary
//! index is paid for. Each row carries the cumulative byte offset of its end, so that the bytes of any range are the difference
//! of two point look-ups. The table `stream` holds the books: `tail <= head <= next` (rows below `head` have left, rows below
//! `tail` are deleted), counters, drops by reason, holes. Times are boot id + CLOCK_BOOTTIME; the wall clock of a boot is one
//! row of `boot`, so that correcting a clock corrects every message of that boot. Further tables: `dead`, `session`,
//! `received` (QoS 2 packet ids), `retained`, `floor` (see recovery).
//!
//! # Writing
//!
//! One writer thread. Lanes put batches into one bounded queue (4 MiB of messages and 1024 batches in all, 256 batches a lane);
//! the writer drains it into one transaction of about 1 MiB or 4096 entries, commits, and only then hands each batch back:
//! `writer` is the only place where an [`Outcome`] is made. A commit waits for company in steps of `commit_delay / 8` only while
//! messages keep coming, never longer than `commit_delay` in all; where waiting was in vain it is left out for a growing number of rounds, for a
//! client that waits for each acknowledgement would only be slowed by it.
//!
//! *Books.* Every change of a counter is in the transaction of the rows it counts. A pure append does not write the row of its
//! stream: the rows themselves are the count, and opening adds them up from the last one (`accepted += last + 1 - next`). That
//! halves what a lone message writes. Anything else (a settlement, a drop, a deletion) writes the row with the counters as they are then,
//! so that the rows a count still hangs on are never deleted before it is written.
//!
//! *Full.* A stream refuses or drops as its `when_full` says. The whole store and the disk (`min_free`) refuse what comes; a
//! stream that drops makes room in its own backlog. `SQLITE_FULL` rolls the transaction back and decides the same round again
//! with less: without messages, then without any write; what must be written (settlements, sessions) is deferred in bounded
//! number, what must be counted is counted at the doors and entered later. It is tried again every second. Any other write
//! error poisons the store: [`Handle::failed`] resolves, everything returns errors, the process ends. There is no memory to fall back to.
//!
//! *Deleting.* Rows below the head are deleted in slices (4096 rows, 4 MiB) when 1024 rows or 1 MiB have gathered. Free pages are
//! used again; when idle and more than 16 MiB are free they are given back to the file system, 1 MiB or 10 ms at a time
//! (`auto_vacuum = INCREMENTAL`: its cost was not measurable beside the scatter of the machine, 2 runs with and 1 without).
//!
//! *Checkpoints* run in the writer, after the acknowledgements are out, when the log has 4 MiB; from 16 MiB on they wait for
//! readers, so that the log is bounded under any load. A thread of their own would never finish one under continuous load.
//!
//! # Reading
//!
//! One reader thread with a connection of its own: the writer never blocks it. A read is one short statement (at most 4096
//! messages, about 1 MiB), so that it never holds a checkpoint back for long. Topics and client ids that come back share
//! their memory, small payloads share allocations of 32 KiB. `mmap_size = 0` and page caches of 2 MiB and 256 KiB: resident
//! memory does not know how long the backlog is, and opening reads the first and last row of each stream, nothing more.
//!
//! # What a crash does
//!
//! Before the commit is synced: the round never was; nobody got an outcome. After it: everything is there at the next start,
//! whether or not the outcome got out; a QoS 2 packet id then answers with [`Outcome::Duplicate`]. Sequence numbers are never
//! used again: `next` is written before the rows it could be read from are deleted. Drops counted by [`Handle::drop_offline`] in the last
//! second may be forgotten, both sides of the count.
//!
//! # Damage
//!
//! Found when opening, or met while running. While running, a row that makes no sense by itself goes to the dead letters as it is and
//! leaves a *hole*; damage of the file (a number that is missing without being a hole, too: a page can lose rows without an error)
//! poisons the store and is noted, and the next start salvages: to skip over it in silence
//! would leave messages behind, to go on writing would spread it. Salvage reads each stream around the damage (by key, found
//! by growing steps and bisection), counts what is missing as dropped (`damaged`), skips a million numbers, and sets the damaged files aside
//! unchanged; the steps are in `recovery`. Where a stream's row is lost too, its numbers go on from the milliseconds since 1970 (`floor`).
//! A garbage header is replaced on a copy. If the schema in page 1 is lost, nothing can be read: it is set aside, an alarm is
//! logged, the store starts empty.

mod api;
mod books;
mod clock;
mod failure;
mod handle;
mod lane;
mod lock;
mod metrics;
mod opening;
mod queue;
mod reader;
mod recovery;
mod row;
mod salvage;
mod schema;
mod sessions;
mod shared;
#[cfg(test)]
mod tests;
mod writer;

pub use self::{
    api::*,
    handle::{Handle, OpenError, Store, StoreError},
    lane::{LANE_BATCHES_MAX, Lane, Permit, Returns},
    opening::open,
    reader::{READ_BYTES_MAX, READ_MESSAGES_MAX},
    sessions::*,
};
