//! Reading a table by its integer key, around damage.

use rusqlite::{Connection, Row};

use crate::store::failure::Failure;

/// A walk over all rows that can be read.
pub(in crate::store) struct Walk<'c> {
    pub(in crate::store) old: &'c Connection,
    /// Rows from ?1 on, at most ?2, in the order of the key, which is the first column.
    pub(in crate::store) sql: &'c str,
    /// The first key not yet looked at.
    pub(in crate::store) next: u64,
    /// The last key there can be.
    pub(in crate::store) last: u64,
}

impl Walk<'_> {
    /// Shows every readable row, in order, with its key. Errors are those of `each`.
    pub(in crate::store) fn run(
        mut self,
        mut each: impl FnMut(u64, &Row<'_>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        while self.next <= self.last {
            if self.up_to_damage(&mut each)? {
                break;
            }
            match self.first_readable() {
                Some(next) => self.next = next,
                None => break,
            }
        }
        Ok(())
    }

    /// True when the end was reached.
    fn up_to_damage(&mut self, each: &mut impl FnMut(u64, &Row<'_>) -> Result<(), Failure>) -> Result<bool, Failure> {
        let Ok(mut read) = self.old.prepare(self.sql) else { return Ok(true) };
        let Ok(mut rows) = read.query((self.next.cast_signed(), -1)) else { return Ok(false) };
        loop {
            let row = match rows.next() {
                Ok(Some(row)) => row,
                Ok(None) => return Ok(true),
                Err(_) => return Ok(false),
            };
            let Ok(key) = row.get::<_, i64>(0).map(i64::cast_unsigned) else { return Ok(false) };
            if key < self.next || key > self.last {
                // Out of order: a page that belongs elsewhere.
                return Ok(false);
            }
            self.next = key + 1;
            each(key, row)?;
        }
    }

    /// The first key after the damage at `next` from which on a row can be read: found by growing steps, then bisected,
    /// for damage is whole pages, that is, ranges of keys.
    pub(in crate::store) fn first_readable(&self) -> Option<u64> {
        let mut step = 1;
        let mut bad = self.next;
        let mut good = loop {
            let probe = self.next.saturating_add(step).min(self.last);
            if self.probe(probe) {
                break probe;
            }
            bad = probe;
            if probe == self.last {
                return None;
            }
            step = step.saturating_mul(2);
        };
        while good - bad > 1 {
            let middle = bad + (good - bad) / 2;
            if self.probe(middle) {
                good = middle;
            } else {
                bad = middle;
            }
        }
        Some(good)
    }

    /// Whether what is read from here on can be copied: where it cannot, each key would be tried in turn.
    fn probe(&self, from: u64) -> bool {
        let Ok(mut statement) = self.old.prepare_cached(self.sql) else { return false };
        let row = statement.query_row((from.cast_signed(), 1), |row| row.get::<_, i64>(0));
        row.is_ok_and(|key| (from..=self.last).contains(&key.cast_unsigned()))
    }
}
