//! `tidegate demo`: the main job on one machine, with its proof.

use std::process::ExitCode;

use clap::{Args, value_parser};

use super::finish;
use crate::demo;

/// Shows the main job on this machine, with nothing to set up.
///
/// An upstream broker, simulated sensors, an outage and a killed gateway in the middle, and at the end the proof: sent,
/// acknowledged, received upstream, lost 0, out of order 0. Exits with 1 if that is not so.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Simulated sensors, 1 to 99
    #[arg(long, value_name = "NUMBER", value_parser = value_parser!(u8).range(1..=99))]
    sensors: Option<u8>,
    /// Messages a second of all sensors together
    #[arg(long, value_name = "NUMBER", value_parser = value_parser!(u32).range(1..=1_000_000))]
    rate: Option<u32>,
    /// Prints the proof as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn main(arguments: &Arguments) -> ExitCode {
    let usual = demo::Options::default();
    finish(demo::run(&demo::Options {
        sensors: arguments.sensors.map_or(usual.sensors, usize::from),
        messages_per_s: arguments.rate.unwrap_or(usual.messages_per_s),
        json: arguments.json,
    }))
}
