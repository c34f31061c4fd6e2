//! What carries MQTT, over real sockets: TLS, reload of its files, WebSocket, unix sockets.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod authority;
mod client;
mod identity;
mod reload;
mod rig;
mod tls;
mod unix;
mod upgrade;
mod websocket;
