//! The answers of the HTTP interface about figures that come from somewhere else: the database of a stopped gateway. So scripts get the same
//! JSON from a command whichever way it took.

use serde_json::{Value, json};

use super::{
    dead::{List, View},
    rates::Rates,
    views,
};
use crate::stats::{DeadLetter, DeadStats, StreamStats};

/// What `GET /api/v1/streams` would say: nothing moves.
pub fn streams(streams: Vec<StreamStats>) -> Value {
    let still = |books: StreamStats| {
        let rates = Rates { seconds_to_drain: (books.backlog_messages == 0).then_some(0.0), ..Rates::default() };
        views::Stream::new(books, rates)
    };
    json!(views::Streams { streams: streams.into_iter().map(still).collect() })
}

/// What `GET /api/v1/dead` would say.
pub fn dead(stats: DeadStats, letters: Vec<DeadLetter>, next: Option<u64>) -> Value {
    json!(List { stats, dead: letters.into_iter().map(View::new).collect(), next })
}

/// What `GET /api/v1/dead/{id}` would say.
pub fn dead_letter(letter: DeadLetter) -> Value {
    json!(View::new(letter))
}
