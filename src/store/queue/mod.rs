//! Session queues: their books, and what their tables look like in SQL.

mod books;
mod sql;

pub(super) use self::{
    books::{Counts, Drop, Ledger, Left, QueueBooks, SESSION_END},
    sql::*,
};
