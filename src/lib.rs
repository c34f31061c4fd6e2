//! Tidegate, an MQTT edge gateway: every acknowledged message is on disk, goes upstream in order, and can be seen.
//!
//! # The way of a message
//!
//! ```text
//! sensor ──MQTT──▶ broker ──▶ intake ──▶ store ──▶ forward ──▶ uplink ──▶ upstream
//!         ◀─PUBACK── (held until ─────── commit)     ◀── ack ──────┘
//!                      │
//!                      └──▶ fan-out ──▶ local subscribers
//! ```
//!
//! 1. [`broker`]: a listener accepts a connection, one task owns it. Everything that one read of the socket brought
//!    is decoded and becomes one batch.
//! 2. [`intake`] says which streams take a message, and the broker which local sessions that outlive their connection are to
//!    get it; the batch goes to the store on the connection's own lane, with a copy for each of those.
//! 3. [`store`]: one writer thread gathers what is queued into one transaction, commits, syncs, and only then hands
//!    each batch back with an [`store::Outcome`] for every entry.
//! 4. The connection turns outcomes into PUBACK, PUBREC and PUBCOMP, in the order of arrival, and passes the
//!    messages on to local subscribers.
//! 5. [`forward`] reads a stream in order, keeps a window in flight through its [`uplink`], and settles what the
//!    upstream acknowledged: the cursor moves, and is counted, in the next transaction. Rows behind the cursor are
//!    deleted later, in ranges.
//!
//! A message waits in exactly two places: its stream on disk, and the bounded window in flight. There is one road:
//! also with the upstream connected, a message goes through the store. The same holds towards a local session that outlives its
//! connection: its queue is on disk. Only sessions that end with their connection are served from memory, after the commit.
//!
//! # Rooms
//!
//! | room | is | only it knows |
//! | --- | --- | --- |
//! | [`message`], [`topic`], [`units`], [`bucket`], [`stats`], [`record`] | words: no I/O, no clock | |
//! | [`broker`] | shore: listeners, packets, connections, sessions, local delivery | the MQTT server side |
//! | [`store`] | shore: schema, group commit, reads, recovery | SQLite |
//! | [`uplink`] | shore: connections to upstream systems, one file a kind | rumqttc |
//! | [`admin`] | shore: HTTP, metrics, health | HTTP |
//! | [`named_file`] | secrets, certificates and keys that the configuration names: read, within bounds | |
//! | [`intake`] | station: from the broker into the store | |
//! | [`forward`] | station: from the store to an uplink | |
//! | [`downlink`] | station: from an uplink through the store to local clients | |
//! | [`config`] | what the user wrote, checked into what the program may use | TOML |
//! | [`doctor`] | station: checks a device beside the gateway, changes nothing | |
//! | [`mosquitto`] | a mosquitto.conf into a configuration of ours | |
//! | [`app`] | builds the rooms, starts and stops them in order | all of them |
//! | [`cli`], [`log`], [`beat`], [`memory`], [`signal`], [`systemd`], [`demo`] | the program around it | clap, tracing's output, the C library, signals, rumqttd (the demo) |
//!
//! **Architecture invariant:** shores never import each other; stations join two. Arrows point downwards only. The
//! test `tests/tidy.rs` holds the house to it.
//!
//! # Invariants
//!
//! 1. An acknowledgement to a client is created only from a commit that was synced: [`store::Outcome`]s come from
//!    nowhere else.
//! 2. A row is deleted only by a confirmed cursor, an expiry, a drop, a purge: each in the transaction that counts it.
//! 3. Sequence numbers of a stream only grow and are never reused, also across restarts.
//! 4. Counters live in the same database and transaction as the rows they count.
//! 5. Pure rooms never read a clock, never await, never log.
//! 6. Dropped, expired, refused, dead, purged: five words, five counters.
//! 7. What a lasting session is due is queued in the transaction of the message itself, and leaves its queue only by the
//!    client's acknowledgement, an expiry, a drop, or the end of the session. PUBREL goes out only after its PUBREC is synced.
//!
//! # Decisions that differ from the first design, and why
//!
//! * **rumqttc: its packets and codec, not its event loop.** The event loop writes and flushes every PUBLISH on its
//!   own, forgets what is pending when a CONNACK says that no session is present, does not read while it writes, and
//!   ends the connection over an acknowledgement it does not know. Measured on 2 cores with Mosquitto 2.0.11 as the
//!   upstream, 128 bytes, QoS 1, 256 in flight: 117 000 messages/s with it, 145 000/s (and 160 000/s with 2 000 in
//!   flight) with many PUBLISHes a write, where Mosquitto is the limit. See [`uplink`].
//! * **A packet decoder of our own for the server side.** See [`broker`]: the specifications to the letter, and the
//!   acknowledgement path, are what the gateway is for.
//! * **Local delivery without rumqttd's router.** `tests/bench/fanout.rs` measures both ways, and speed does not tell
//!   them apart (one subscriber: 0.6 to 2.2 million messages/s direct, 0.3 to 1.3 through the router, on a busy machine).
//!   What does: a subscriber that stood still for 20 000 messages lost 8 800 to 9 700 of them through the router with
//!   only a warning, where the direct way lost none and counts what it ever drops; the router took 66 to 70 MiB against
//!   2.4; and 20 000 filters that came and went left 128 MiB behind for good, so that any client could make the gateway
//!   grow without bound (guarantee G9). rumqttd is the demo's upstream. See [`broker`].
//! * **A table per stream** in the store, so that every append is at the right edge of its own B-tree. See [`store`].
//!
//! # What it weighs
//!
//! Code by crate, in a build for speed (profile `release`, x86-64, `nm` by the crate that a symbol belongs to; 13.3 MiB in all, of which each
//! generic function counts for whoever wrote it). The profile `dist`, which is shipped, makes the same code smaller; see README, "Measured".
//!
//! | crate | KiB | for |
//! | --- | ---: | --- |
//! | Tidegate | 3 120 | |
//! | Rust's own library, hashbrown | 2 790 | collections, sorting, formatting, most of it made for our types |
//! | SQLite, rusqlite | 1 320 | the store |
//! | tokio, tokio-util | 1 230 | tasks, sockets, timers |
//! | rustls, ring, webpki, x509-parser, oid-registry | 880 | TLS; and ring's assembly, some 400 more |
//! | hyper, axum, http, tower | 930 | HTTP; axum twice, for rumqttd brings another version for its console |
//! | rumqttd, flume, metrics | 730 | the upstream of `tidegate demo`, nothing else |
//! | clap, clap_complete, clap_mangen | 380 | the command line, completions, man pages |
//! | regex-automata, regex-syntax | 290 | `RUST_LOG`, through tracing-subscriber's filter; rumqttd's console needs it as well |
//! | rumqttc | 220 | its packets and codec |
//! | serde_json, serde, toml, config | 330 | HTTP, configuration |
//! | prometheus, procfs | 120 | metrics |
//!
//! An idle gateway has some 3 MiB of memory of its own; the rest of what is resident are pages of this file and of the C library, which the
//! system can drop and read again. So a smaller file is the way to less memory, too: from 17.8 MiB (`release`) to 10.7 (`dist`) brought an idle gateway from
//! 18.1 MiB resident to 13.3. Of the file, 8 MiB are code, and 1.4 the tables by which a panic unwinds to its connection.

pub mod admin;
pub mod app;
pub mod beat;
pub mod broker;
pub mod bucket;
pub mod cli;
pub mod config;
pub mod demo;
pub mod doctor;
pub mod downlink;
pub mod forward;
pub mod intake;
pub mod log;
pub mod memory;
pub mod message;
pub mod mosquitto;
pub mod named_file;
pub mod record;
pub mod signal;
pub mod stats;
pub mod store;
pub mod systemd;
pub mod topic;
pub mod units;
pub mod uplink;
