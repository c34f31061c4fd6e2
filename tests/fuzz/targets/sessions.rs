//! Any bytes as a run of clients against the broker and its store: see `tests/model/`.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tokio::runtime::{Builder, Runtime};

#[path = "../../model/rig.rs"]
mod rig;
#[path = "../../model/run.rs"]
mod run;
#[path = "../../model/session.rs"]
mod session;
#[path = "../../model/tape.rs"]
mod tape;
#[path = "../../model/wire.rs"]
mod wire;
#[path = "../../model/world.rs"]
mod world;

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime"));

fuzz_target!(|data: &[u8]| {
    if let Err(failure) = RUNTIME.block_on(run::run(data)) {
        panic!("{}\n{:#?}", failure.complaint, failure.steps);
    }
});
