//! Sessions and retained messages: remembered and forgotten.

use bytes::BytesMut;
use rusqlite::params;

use super::Writer;
use crate::{
    message::Message,
    store::{
        failure::Failure,
        queue::when_full_number,
        row,
        sessions::{SessionId, SessionRecord},
    },
    topic::TopicName,
};

impl Writer<'_> {
    /// Makes or changes a session, as one whose client is connected.
    pub(super) fn save_session(&mut self, session: &SessionRecord) -> Result<SessionId, Failure> {
        self.transaction.begin()?;
        let queues = &mut self.transaction.queues;
        let id = match queues.id_of(&session.client_id) {
            Some(id) => id,
            // Copied: what the client sent must not be kept with the buffer that it came in.
            None => queues.create(String::from(&*session.client_id).into(), session.limits),
        };
        if queues.live(id).is_some_and(|queue| queue.books.left.is_some())
            && let Some(queue) = queues.changing(id)
        {
            queue.books.left = None;
        }
        if let Some(queue) = queues.appending(id) {
            queue.limits = session.limits;
        }
        let will = session.will.as_ref().map(|will| &will.message);
        let properties = will.and_then(|will| will.properties.as_ref()).filter(|properties| !properties.is_empty());
        let properties = properties.map(|properties| {
            let mut block = BytesMut::new();
            properties.encode(&mut block);
            block
        });
        let mut replace = self.transaction.connection.prepare_cached(
            "INSERT OR REPLACE INTO session VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
        )?;
        replace.execute(params![
            id.0,
            &*session.client_id,
            session.expiry_s,
            &*session.state,
            session.limits.max_messages.min(i64::MAX.cast_unsigned()).cast_signed(),
            session.limits.max_bytes.min(i64::MAX.cast_unsigned()).cast_signed(),
            when_full_number(session.limits.when_full),
            session.will.as_ref().map(|will| will.delay_s),
            will.map(row::flags),
            will.map(|will| &*will.client),
            will.map(|will| will.topic.as_str()),
            properties.as_deref(),
            will.map(|will| &*will.payload),
        ])?;
        self.space.note_appended((session.state.len() + will.map_or(0, Message::footprint)) as u64);
        Ok(id)
    }

    /// Forgets a session, its packet ids and its queue, whose rows are deleted in slices later.
    pub(super) fn delete_session(&mut self, client_id: &str) -> Result<(), Failure> {
        self.transaction.begin()?;
        let connection = self.transaction.connection;
        if let Some(id) = self.transaction.queues.id_of(client_id) {
            self.transaction.queues.end(id);
            connection.prepare_cached("DELETE FROM session WHERE id = ?1")?.execute([id.0])?;
        }
        connection.prepare_cached("DELETE FROM received WHERE session = ?1")?.execute([client_id])?;
        Ok(())
    }

    pub(super) fn forget_will(&mut self, session: SessionId) -> Result<(), Failure> {
        self.transaction.begin()?;
        let mut update = self.transaction.connection.prepare_cached(
            "UPDATE session SET will_delay_s = NULL, will_flags = NULL, will_client = NULL, will_topic = NULL,
            will_properties = NULL, will_payload = NULL WHERE id = ?1",
        )?;
        update.execute([session.0])?;
        Ok(())
    }

    /// Keeps or, with an empty payload, deletes the retained message of a topic; gives its revision.
    pub(super) fn set_retained(&mut self, message: &Message, properties: Option<&[u8]>) -> Result<u64, Failure> {
        self.transaction.begin()?;
        let connection = self.transaction.connection;
        let revision = self.transaction.queues.next_revision();
        if message.payload.is_empty() {
            let mut delete = connection.prepare_cached("DELETE FROM retained WHERE topic = ?1")?;
            delete.execute([message.topic.as_str()])?;
        } else {
            let (boot, at) = (self.boot, self.transaction.now.mono_ms.cast_signed());
            let mut replace =
                connection.prepare_cached("INSERT OR REPLACE INTO retained VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?;
            replace.execute(params![
                message.topic.as_str(),
                row::flags(message),
                &*message.client,
                properties,
                &*message.payload,
                boot,
                at,
                revision.cast_signed(),
            ])?;
            self.space.note_appended(message.payload.len() as u64);
        }
        Ok(revision)
    }

    /// Deletes retained messages that are still of these revisions.
    pub(super) fn forget_retained(&mut self, expired: &[(TopicName, u64)]) -> Result<(), Failure> {
        self.transaction.begin()?;
        let connection = self.transaction.connection;
        let mut delete = connection.prepare_cached("DELETE FROM retained WHERE topic = ?1 AND revision = ?2")?;
        for (topic, revision) in expired {
            delete.execute(params![topic.as_str(), revision.cast_signed()])?;
        }
        Ok(())
    }
}
