//! Reading dead letters.

use std::sync::PoisonError;

use super::Reader;
use crate::{
    stats::DeadLetter,
    store::{api::DeadFilter, dead, failure::Failure},
};

impl Reader {
    /// Heads of dead letters, oldest first; or one of them, whole.
    pub(super) fn dead(&mut self, filter: &DeadFilter) -> Result<Vec<DeadLetter>, Failure> {
        let boots = self.shared.boots.read().unwrap_or_else(PoisonError::into_inner).clone();
        let stream = filter.stream.and_then(|stream| self.shared.doors.of(stream)).map(|door| door.id);
        let doors = self.shared.doors.all();
        let sql = match filter.id {
            Some(_) => format!("{}WHERE id = ?1 AND ?2 IS NULL LIMIT ?3", dead::COLUMNS),
            None => format!("{}WHERE id > ?1 AND (?2 IS NULL OR stream = ?2) ORDER BY id LIMIT ?3", dead::HEADS),
        };
        let mut select = self.connection.prepare_cached(&sql)?;
        let limit = i64::try_from(filter.limit).unwrap_or(i64::MAX);
        let mut rows = select.query((filter.id.unwrap_or(filter.after).cast_signed(), stream, limit))?;
        let mut letters = Vec::new();
        while let Some(row) = rows.next()? {
            let name = |id| doors.iter().find(|door| door.id == id).map_or(String::new(), |door| door.name.clone());
            letters.push(dead::of_row(row, &mut self.decoder, &boots, name)?);
        }
        Ok(letters)
    }
}
