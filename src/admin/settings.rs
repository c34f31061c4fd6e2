//! Settings of the admin room, checked.

use std::{net::SocketAddr, path::PathBuf};

/// Where the HTTP interface listens, and who may use it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Address; `None` for `bind = "off"`.
    pub bind: Option<SocketAddr>,
    /// File whose first line is the bearer token; required when `bind` is not loopback.
    pub token_file: Option<PathBuf>,
}
