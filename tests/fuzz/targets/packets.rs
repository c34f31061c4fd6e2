//! Any bytes against the decoder of packets: what must hold is in `tidegate::broker::fuzz`, what it may take is here.

#![no_main]

use std::alloc::System;

use cap::Cap;
use libfuzzer_sys::fuzz_target;
use tidegate::broker::fuzz;

/// What decoding may allocate at the same time: per byte of input, for a user property of 5 bytes becomes some 64 ...
const BYTES_PER_BYTE: usize = 32;
/// ... and for buffers and tables that every connection has.
const BYTES: usize = 16 << 10;

#[global_allocator]
static MEMORY: Cap<System> = Cap::new(System, usize::MAX);

fuzz_target!(|data: &[u8]| {
    MEMORY.set_limit(MEMORY.allocated() + data.len() * BYTES_PER_BYTE + BYTES).expect("more than is in use");
    fuzz::decode(data);
    MEMORY.set_limit(usize::MAX).expect("more than is in use");
    fuzz::check(data);
});
