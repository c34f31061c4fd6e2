//! The life of the gateway: build, start, stop in order.

use crate::config::Config;

/// Runs the gateway until it is told to stop. Blocks; an error is a failure while running.
pub fn run(config: &Config) -> anyhow::Result<()> {
    anyhow::bail!("gateway {}: this build has no broker, store or uplinks in it", config.gateway_id)
}
