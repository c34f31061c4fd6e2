//! Settings of the admin room, checked.

use std::{net::SocketAddr, path::PathBuf};

/// Where the HTTP interface listens, and who may use it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// Address; `None` for `bind = "off"`.
    pub bind: Option<SocketAddr>,
    /// File whose first line is the bearer token; required when `bind` is not loopback.
    pub token_file: Option<PathBuf>,
    /// Names under which it is reached, beside addresses, `localhost` and this machine's name; `Host` may be one of them.
    pub hosts: Vec<String>,
}
