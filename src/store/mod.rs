//! The store: every message that was acknowledged, on disk, in order, in one SQLite database.
//!
//! # Layout
//!
//! `data_dir/tidegate.db` (+ `-wal`, `-shm`), `data_dir/tidegate.lock`, `data_dir/quarantine/`; files 0600, folder 0700.
//! One table a stream, `s_<id>`, keyed by the sequence number: every append is at the right edge of its B-tree and no secondary
//! index is paid for. Each row carries the cumulative byte offset of its end, so that the bytes of any range are the difference
//! of two point look-ups. The table `stream` holds the books: `tail <= head <= next` (rows below `head` have left, rows below
//! `tail` are deleted), counters, drops by reason, holes. Times are boot id + CLOCK_BOOTTIME; the wall clock of a boot is one
//! row of `boot` (4096 at most), so that correcting a clock corrects every message of that boot. Further tables: `dead`, `received`
//! (QoS 2 packet ids), `retained`, `floor` (see recovery), `imported` (see `import`), and those of session queues.
//!
//! *Session queues.* `session` has a row for each session that outlives its connection: number, client id, expiry, limits, will, and
//! what else the broker wants remembered. All queues are one table, `queued`, keyed by session number (23 bits) and sequence
//! number (40 bits), so that each queue is appended to at its own right edge, read and deleted by range, and a site with ten
//! thousand sessions has as many tables as one with none. A message that goes into ten queues is ten rows: no count of references
//! has to be kept, and each row leaves by itself. `queue` has the books of each queue: `tail <= head <= next` as for streams,
//! but what lies between `head` and `next` may have holes, for acknowledgements may come in another order, and `drop-oldest` spares what is in flight; so
//! `messages` is a count of its own. The row at `head` is always there. `ledger` has the one row of what is beyond sessions: the next session
//! number, the end of the revisions of retained messages given so far, and the sums of the sessions that have ended. Session numbers begin
//! anew after 8 million, passing over those in use.
//!
//! *What operators do*: `operated` has a row for each stream that is paused, keeps forwarded messages for replay, or is being replayed (see
//! `operated`). Kept rows lie between `tail` and `head`. `dead` is bounded, and `dead_left` counts what left it (see `dead`). Streams that are not configured
//! any more are opened like the others, behind them: they take nothing and go nowhere. Streams can come, go and change while the store is open
//! (see `configure`).
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
//! so that the rows a count still hangs on are never deleted before it is written. Every checkpoint and the orderly end write it, too, so that
//! where the last rows can no longer be read it is known that there were some. Queues do the same, each by itself (but for that).
//!
//! *Copies.* [`Publish::copies`] are rows of queues in the transaction of the message itself. Where one queue refuses, the message is refused
//! whole. `drop-oldest` drops what was not sent yet (see [`Handle::sent`]) and was not received (QoS 2); 1024 at most for each
//! message that comes. Where there are no copies nothing of all this runs.
//!
//! *Queues of the gateway's own* have names that begin with [`RESERVED`]: they are queues as all others, but neither listed nor counted
//! with those of clients (downlinks wait in them). [`Entry::Handover`] takes a message out of one queue as delivered and publishes it anew
//! in one transaction; where that is refused, it stays.
//!
//! *Steps.* [`Step::Received`] is committed before it is answered, for PUBREL must not go out before. The other steps, and
//! [`Handle::session_left`], are *lazy*: answered at once, kept in memory as runs, and written by the next transaction, by one of
//! their own with the next tick (1 s), or when 4096 wait, so that acknowledgements of subscribers cost no commits. A delivered message at the head moves the head;
//! one behind it is deleted at once.
//!
//! *Full.* A stream refuses or drops as its `when_full` says. The whole store and the disk (`min_free`) refuse what comes; a
//! stream that drops makes room in its own backlog. `SQLITE_FULL` rolls the transaction back and decides the same round again
//! with less: without messages, then without any write; what must be written (settlements, sessions) is deferred in bounded
//! number, what must be counted is counted at the doors and entered later; lazy steps wait in memory (65 536 runs of neighbours at most; what
//! comes then is forgotten as by a crash). It is tried again every second.
//!
//! *Trouble.* Any other error of the disk (it cannot be written, synced or read, became read-only, another process holds a lock for long)
//! suspends the store: the connections are dropped, everything is refused, held or kept in bounded number, nothing is acknowledged. It is
//! tried again after 1 s to 30 s with fresh connections, and goes on where the disk does; `writer::suspension` has the rules, `mend` why nothing
//! acknowledged is lost by it though a failed fsync means that Linux no longer knows what is on the disk. There is no memory to fall back to. Only a
//! defect of the program ends it ([`Handle::failed`]). A start waits 7 s for such a disk, then it fails, and systemd starts it again.
//!
//! *Slow.* A sync of seconds delays acknowledgements and nothing else; from [`DISK_PATIENCE`] on the disk counts as stuck (`disk`).
//!
//! *Deleting.* Rows below the head are deleted in slices (4096 rows, 4 MiB) when 1024 rows or 1 MiB have gathered, of a stream, or of all
//! queues together. A session that ends has all its rows below the head: what was queued counts as purged at once, its row of `queue` goes when its rows are gone. Free pages are
//! used again; from 16 MiB free on they are given back to the file system, 1 MiB or 10 ms at a time, when it is quiet for 20 ms, and otherwise in 5 % of the
//! writer's time (`auto_vacuum = INCREMENTAL`: its cost was not measurable beside the scatter of the machine, 2 runs with and 1 without). Given back
//! after the first outage a page costs 4 µs and 35 bytes of log, where 1 GiB is free; out of a list of free pages that earlier outages have shuffled, 900 µs.
//!
//! Rows that are kept for replay are let go when their time is over, or from 16 MiB (an eighth of a small store) before the store or its disk is full (see `writer::kept`).
//!
//! *Settlements* wait up to a second for others where nothing hangs on their room (`writer::settling`), for each changes a page besides.
//!
//! *Checkpoints* run in the writer, after the acknowledgements are out, when the log has 4 MiB; from 16 MiB on they wait for
//! readers, so that the log is bounded under any load; for a second, and where a reader stays (a backup, see `backup`) not again for ten. A thread of their own would never finish one under continuous load.
//!
//! # Page and log, as measured
//!
//! Bytes given to the storage below for each message (a row of 128 bytes, one settlement a commit, one device), by messages a commit:
//!
//! | page size | 1 | 10 | 1 000 | rows/s of 400 bytes, 1 000 a commit |
//! | --- | ---: | ---: | ---: | ---: |
//! | 1 KiB | 7 200 | 1 470 | 348 | 138 000 |
//! | 2 KiB | 9 200 | 1 930 | 313 | 151 000 |
//! | **4 KiB** | 13 400 | 2 330 | 323 | 191 000 |
//! | 8 KiB | 21 800 | 3 230 | 340 | |
//!
//! A lone commit costs at least two pages of the system's cache whatever it holds, for a frame of the log is a page and 24 bytes. Smaller pages save a
//! third there, and cost a quarter of the speed and (from payloads of 1 KiB on) half as many bytes again where it matters most, when there is much to
//! store; waiting for company saves more of both. Checkpoints from 0.5, 1, 4, 16 MiB of log on: 498, 382, 323, 308 bytes at 1 000 a commit.
//!
//! # Reading
//!
//! One reader thread with a connection of its own: the writer never blocks it. A read is one short statement (at most 4096
//! messages, about 1 MiB), so that it never holds a checkpoint back for long. Topics and client ids that come back share
//! their memory, small payloads share allocations of 32 KiB. `mmap_size = 0` and page caches of 2 MiB and 256 KiB: resident
//! memory does not know how long the backlog is, and opening reads the first and last row of each stream and queue, nothing more.
//! Books and limits of each queue are in memory, about 1 KiB a session.
//!
//! # What a crash does
//!
//! Before the commit is synced: the round never was; nobody got an outcome. After it: everything is there at the next start,
//! whether or not the outcome got out; a QoS 2 packet id then answers with [`Outcome::Duplicate`]. Sequence numbers are never
//! used again: `next` is written before the rows it could be read from are deleted. Drops counted by [`Handle::drop_offline`] in the last
//! second may be forgotten, both sides of the count. Lazy steps of the last second may be forgotten: their messages are still queued and are
//! delivered again; and settlements: up to a second (4096 messages) of what was forwarded is sent again. What was received stays received. A client that was connected is found as one of which nobody knows when it left
//! and what it was sent.
//!
//! # Damage
//!
//! Found when opening, or met while running. While running, a row that makes no sense by itself goes to the dead letters as it is and
//! leaves a *hole*; damage of the file (a number that is missing without being a hole, too: a page can lose rows without an error)
//! suspends the store, which is salvaged in the same process and goes on: to skip over it in silence
//! would leave messages behind, to go on writing would spread it. What was known before and is not found any more is taken over: what had left stays away,
//! no counter falls, and what is missing counts as lost. What cannot be read is tried four times before it is damage. Salvage reads each stream around the damage (by key, found
//! by growing steps and bisection), counts what is missing as dropped (`damaged`), skips a million numbers, and sets the damaged files aside
//! unchanged; the steps are in `recovery`. Where a stream's row is lost too, its numbers go on from the milliseconds since 1970, and a
//! thousand million further for every database in the quarantine (`floor`). So do they where the database is gone though the lock file says that there was one.
//! Queues are salvaged alike: numbers go on a million further, or where the books are lost too from the seconds since 1970. A queued row that makes no
//! sense is dropped and counted. As a queue may have holes, a gap is damage only where it is larger than all holes that its books know of.
//! The messages of a session whose own row is lost are dropped and counted: nobody can ever ask for them.
//! A log that is damaged in its middle reads as one that ends there; a start finds it out, and has again what can be had (`wal`).
//! A garbage header is replaced on a copy. If the schema in page 1 is lost, nothing can be read: it is set aside, an alarm is
//! logged, the store starts empty.
//!
//! A stop that was not clean (`alarms`: the mark in the table `stop`) makes the next run read all that is stored, in the background (`reader::check`).
//! Salvages are counted for ever (`alarms`: the table `salvage`). What lies in the quarantine is never deleted by us; its bytes are shown.

mod alarms;
mod api;
mod at_rest;
mod backup;
mod books;
mod clock;
mod configure;
mod dead;
mod disk;
mod doors;
mod failure;
mod figures;
mod handle;
mod import;
mod inspect;
mod lane;
mod lock;
mod log;
mod mend;
mod metrics;
mod opening;
mod operated;
mod orders;
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
mod trial;
mod wal;
mod writer;

pub use self::{
    api::*,
    at_rest::{AtRest, AtRestError, RestingPage},
    backup::{BackupError, Copied, backup, restore},
    configure::{Changes, ConfigureError},
    dead::{DEAD_BYTES_MAX, DEAD_MESSAGES_MAX},
    disk::DISK_PATIENCE,
    handle::{Handle, OpenError, Store, StoreError},
    import::{Imported, Stop},
    inspect::*,
    lane::{LANE_BATCHES_MAX, Lane, Permit, Returns},
    opening::open,
    orders::OrderError,
    reader::{READ_BYTES_MAX, READ_MESSAGES_MAX},
    sessions::*,
    trial::*,
};
