//! Clients that do whatever a client can do, against the broker and its store, beside a model that knows what must come of it.
//!
//! Three clients (3.1.1, 5, and either) connect, subscribe, publish at every QoS, answer in any order or not at all, break
//! the protocol, vanish and come back, while the broker is restarted and crashes. What they do is read from bytes (`tape`),
//! so that a seed, a line of the corpus (`tests/fuzz/corpus/sessions.hex`) and an input of the fuzzer (`tests/fuzz/`) are
//! the same thing. At every packet, and at the end, holds:
//!
//! - a QoS 1 or 2 message that was acknowledged arrives at every session that was subscribed, once at QoS 2, also where the
//!   session was away or the broker died in between; once in a shared group;
//! - messages of one publisher to one topic come in order; QoS, retain flag, DUP and subscription identifiers are right;
//! - no acknowledgement comes that is not due, none is missing; packet ids and Receive Maximum are kept to;
//! - a session is present exactly when it is; retained messages are exactly those that were acknowledged last;
//! - who breaks the protocol is disconnected, nobody else is; nothing panics, and a newcomer is served.
//!
//! `MODEL_SEED=n cargo test --test model seeds` repeats one seed; `MODEL_RUNS=n` makes more of them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod rig;
mod run;
mod session;
mod tape;
mod wire;
mod world;

use std::{
    env,
    fmt::Write as _,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use run::{Failure, STEPS, run};

/// Runs of one `cargo test`.
const RUNS: u64 = 60;
/// How long a run that fails is made shorter.
const SHRINKING: Duration = Duration::from_secs(120);

fn play(bytes: &[u8]) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(run(bytes))
}

/// The run that a number stands for: short ones and long ones.
fn bytes_of(seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let steps = random.usize(10..STEPS);
    let mut bytes = vec![0; 1 + steps * tape::OP_BYTES];
    random.fill(&mut bytes);
    bytes
}

/// Leaves out one step after another, as long as the run still fails.
fn shrunk(mut bytes: Vec<u8>, mut failure: Failure) -> (Vec<u8>, Failure) {
    world::be_impatient();
    let began = Instant::now();
    // What follows the step that failed was never played.
    bytes.truncate(1 + failure.steps.len() * tape::OP_BYTES);
    let mut at = bytes.len();
    while at > tape::OP_BYTES && began.elapsed() < SHRINKING {
        at -= tape::OP_BYTES;
        let mut less = bytes.clone();
        less.drain(at..at + tape::OP_BYTES);
        if let Err(other) = play(&less) {
            (bytes, failure) = (less, other);
        }
    }
    (bytes, failure)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(line: &str) -> Vec<u8> {
    line.as_bytes().chunks(2).map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

#[track_caller]
fn fail(name: &str, bytes: &[u8], failure: &Failure) -> ! {
    let steps = &failure.steps;
    panic!("{name}: {}\n{steps:#?}\nas a line of the corpus: {}", failure.complaint, hex(bytes));
}

#[test]
fn seeds() {
    let number = |name: &str| env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seeds = match number("MODEL_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("MODEL_RUNS").unwrap_or(RUNS),
    };
    for seed in seeds {
        let bytes = bytes_of(seed);
        if let Err(failure) = play(&bytes) {
            eprintln!("MODEL_SEED={seed}: {}", failure.complaint);
            let (bytes, failure) = shrunk(bytes, failure);
            fail(&format!("MODEL_SEED={seed}"), &bytes, &failure);
        }
    }
}

#[test]
fn corpus() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus/sessions.hex");
    for (at, line) in fs::read_to_string(path).unwrap().lines().enumerate() {
        let bytes = unhex(line);
        if let Err(failure) = play(&bytes) {
            fail(&format!("line {} of the corpus", at + 1), &bytes, &failure);
        }
    }
}
