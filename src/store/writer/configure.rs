//! Another configuration, in the writer's hands.

use std::sync::Arc;

use super::{STATEMENTS, Writer, transaction::Stream};
use crate::store::{
    api::{Refusal, StreamId, StreamSettings},
    configure::{Changes, Configure, ConfigureError},
    doors::Door,
    failure::Failure,
    schema,
};

impl<'c> Writer<'c> {
    /// Makes another configuration hold, or says why not. An error is trouble for the whole store.
    pub(super) fn configure(&mut self, configure: Configure) -> Result<(), Failure> {
        if configure.is_given_up() {
            return Ok(());
        }
        let failure = match self.learn(&configure.changes.streams) {
            Ok(places) => {
                self.change(configure, &places);
                return Ok(());
            }
            Err(failure) => failure,
        };
        match failure {
            Failure::Full(_) => {
                self.transaction.undo()?;
                self.disk_was_full(&failure);
                configure.refuse(Refusal::DiskFull);
                Ok(())
            }
            Failure::Damaged(_) | Failure::Trouble(_) | Failure::Unreadable(_) | Failure::Fatal(_) => {
                // Whoever has given up waiting takes it for refused anyway.
                let _ = configure.answer(Err(ConfigureError::Disk(failure.to_string())));
                Err(failure)
            }
        }
    }

    /// Makes it hold, and says so; where nobody hears that any more, what held before holds again.
    fn change(&mut self, configure: Configure, places: &[usize]) {
        let places_before = self.transaction.shared.doors.configured();
        let before = Changes {
            streams: places_before.iter().map(|at| self.desk_streams[*at].clone()).collect(),
            commit_delay: self.desk_settings.commit_delay,
            max_bytes: self.desk_settings.max_bytes,
            min_free: self.desk_settings.min_free,
        };
        self.hold_to(&configure.changes, places);
        let ids = places.iter().map(|place| StreamId(u32::try_from(*place).unwrap_or(u32::MAX))).collect();
        if !configure.answer(Ok(ids)) {
            self.hold_to(&before, &places_before);
        }
    }

    /// The place of each stream; those that are new are made, synced and taken in.
    fn learn(&mut self, streams: &[StreamSettings]) -> Result<Vec<usize>, Failure> {
        let is_new = |settings: &&StreamSettings| self.place(&settings.name).is_none();
        let new: Vec<_> = streams.iter().filter(is_new).collect();
        if !new.is_empty() {
            let made = self.make(&new)?;
            let doors = made.iter().map(|stream| Arc::clone(&stream.door)).collect();
            self.transaction.streams.extend(made);
            self.desk_streams.extend(new.into_iter().cloned());
            self.transaction.shared.doors.add(doors);
        }
        Ok(streams.iter().filter_map(|settings| self.place(&settings.name)).collect())
    }

    fn place(&self, name: &str) -> Option<usize> {
        self.transaction.streams.iter().position(|stream| stream.name == name)
    }

    fn make(&mut self, new: &[&StreamSettings]) -> Result<Vec<Stream<'c>>, Failure> {
        self.transaction.begin()?;
        let connection = self.transaction.connection;
        // A commit in doubt may have made them before.
        let known = schema::load_streams(connection)?;
        for settings in new.iter().filter(|settings| !known.iter().any(|stream| stream.name == settings.name)) {
            schema::create_stream(connection, None, &settings.name)?;
        }
        self.transaction.commit()?;
        self.transaction.evidence = None;
        let known = schema::load_streams(connection)?;
        let take_in = |settings: &&StreamSettings| {
            let found = known.iter().find(|stream| stream.name == settings.name);
            let found = found.ok_or_else(|| Failure::Damaged(format!("the stream {} is missing", settings.name)))?;
            let door = Arc::new(Door::new(found.id, &found.books, settings, true));
            Stream::new(connection, found.books.clone(), settings, door)
        };
        new.iter().map(take_in).collect()
    }

    /// All that is in memory.
    fn hold_to(&mut self, changes: &Changes, places: &[usize]) {
        let Changes { streams, commit_delay, max_bytes, min_free } = changes;
        let configured: Vec<_> = places.iter().copied().zip(streams.iter().cloned()).collect();
        for (place, (stream, known)) in self.transaction.streams.iter_mut().zip(&mut *self.desk_streams).enumerate() {
            *known = match configured.iter().find(|(of, _)| *of == place) {
                Some((_, settings)) => settings.clone(),
                None => StreamSettings::not_configured(&stream.name),
            };
            stream.set(known);
        }
        let statements = STATEMENTS + 4 * self.transaction.streams.len();
        self.transaction.connection.set_prepared_statement_cache_capacity(statements);
        self.transaction.shared.doors.arrange(&configured);
        (self.desk_settings.commit_delay, self.commit_delay) = (*commit_delay, *commit_delay);
        (self.desk_settings.max_bytes, self.desk_settings.min_free) = (*max_bytes, *min_free);
        self.space.set_limits(*max_bytes, *min_free);
        // What was kept may have to go, and what was held may fit.
        self.chores = true;
        self.announce_refusing();
        self.transaction.shared.announce_room();
    }
}
