//! The broker against its real store, spoken to in bytes, and by clients that others wrote.

mod clients;
mod delivery;
mod durable;
mod protocol;
mod rig;
mod sessions;
