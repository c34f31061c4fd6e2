//! `tidegate demo`: the main job on one machine, with its proof.

use std::process::ExitCode;

use clap::Args;

use super::finish;
use crate::demo;

/// Shows the main job on this machine, with nothing to set up.
///
/// An upstream broker, simulated sensors, an outage and a killed gateway in the middle, and at the end the proof: sent,
/// acknowledged, received upstream, lost 0, out of order 0. Exits with 1 if that is not so.
#[derive(Debug, Args)]
pub(super) struct Arguments {}

pub(super) fn main(_arguments: &Arguments) -> ExitCode {
    finish(demo::run(&demo::Options::default()))
}
