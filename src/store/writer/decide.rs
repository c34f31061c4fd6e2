//! What becomes of the entries of a batch: stored, a duplicate, dropped, refused or held back.

use bytes::BytesMut;
use rusqlite::{OptionalExtension, params};

use super::{Mode, Writer};
use crate::{
    message::{Message, QoS},
    store::{
        api::{Entry, OnRefusal, Outcome, Publish, Refusal, StreamId, WhenFull},
        books::Fit,
        failure::Failure,
        lane::LaneShared,
        row::{self, weight},
        shared::{Batch, Blocked, NEWEST, OLDEST, QOS0_FULL, TOO_LARGE},
    },
};

pub(super) enum Decision {
    Done(Outcome),
    Hold(Blocked),
}

impl Writer<'_> {
    /// The outcomes of a batch, in order; fewer than entries where the rest is held.
    pub(super) fn decide_batch(
        &mut self,
        batch: &mut Batch,
        mode: Mode,
        attempt: u64,
    ) -> Result<Vec<Outcome>, Failure> {
        let mut outcomes = Vec::with_capacity(batch.entries.len());
        if batch.lane.is_held(attempt) {
            return Ok(outcomes);
        }
        let lane = &*batch.lane;
        for entry in &mut batch.entries {
            let decision = match entry {
                Entry::Publish(publish) => self.decide_publish(publish, lane, mode)?,
                Entry::Release { packet_id } => self.decide_release(*packet_id, lane, mode)?,
                Entry::Step { session, seq, step } => self.decide_step((*session, *seq, *step), lane, mode)?,
                Entry::Handover(handover) => self.decide_handover(handover, lane, mode)?,
            };
            match decision {
                Decision::Done(outcome) => outcomes.push(outcome),
                Decision::Hold(blocked) => {
                    lane.hold(attempt, blocked);
                    break;
                }
            }
        }
        Ok(outcomes)
    }

    pub(super) fn decide_publish(
        &mut self,
        publish: &mut Publish,
        lane: &LaneShared,
        mode: Mode,
    ) -> Result<Decision, Failure> {
        // What an attempt that was undone has set.
        publish.copies.iter_mut().for_each(|copy| copy.seq = None);
        publish.retained_revision = 0;
        let key = lane.session.as_deref().zip(publish.packet_id);
        if let Some((session, packet_id)) = key
            && !self.remember(session, packet_id, mode)?
        {
            return Ok(Decision::Done(Outcome::Duplicate));
        }
        if let (Some(session), Some(packet_id)) = (&lane.session, publish.packet_id) {
            self.transaction.remembered.get_or_insert_with(|| (session.clone(), packet_id));
        }
        let bytes = weight(&publish.message);
        if let Some(refusal) = self.refusal(publish, lane, key.is_some(), bytes, mode) {
            if let (Some((session, packet_id)), Mode::Normal) = (key, mode) {
                self.forget(session, packet_id)?;
            }
            return Ok(self.refuse(publish, lane, refusal, bytes, mode));
        }
        let properties = self.encoded_properties(&publish.message);
        for &StreamId(index) in &publish.streams {
            self.take(index as usize, &publish.message, properties.as_deref(), bytes)?;
        }
        for copy in &mut publish.copies {
            self.take_copy(copy, &publish.message, properties.as_deref(), bytes)?;
        }
        if publish.set_retained {
            publish.retained_revision = self.set_retained(&publish.message, properties.as_deref())?;
        }
        self.properties = properties.unwrap_or_else(|| std::mem::take(&mut self.properties));
        Ok(Decision::Done(Outcome::Accepted))
    }

    /// Why a message cannot be accepted, if so. A stream or queue that drops refuses nothing.
    fn refusal(
        &mut self,
        publish: &Publish,
        lane: &LaneShared,
        remembered: bool,
        bytes: u64,
        mode: Mode,
    ) -> Option<Refusal> {
        let kept = !publish.streams.is_empty() || !publish.copies.is_empty();
        if !kept && !publish.set_retained && !remembered {
            return None;
        }
        if mode != Mode::Normal {
            return Some(Refusal::DiskFull);
        }
        let store_full = self.space.store_full(bytes);
        if store_full && !kept {
            return Some(Refusal::StoreFull);
        }
        // Whoever can be told that a message is too large for ever is told; what cannot be told is dropped and counted, for
        // to hold it back would block its client for ever.
        let can_be_told = lane.on_refusal == OnRefusal::Report && publish.message.qos != QoS::AtMostOnce;
        let refusal = publish.streams.iter().find_map(|&id| {
            let stream = &self.transaction.streams[id.0 as usize];
            match (stream.when_full, stream.books.fit(stream.limits, bytes)) {
                (WhenFull::Reject, Fit::Full) => Some(Refusal::StreamFull(id)),
                (WhenFull::Reject, Fit::Never) if can_be_told => Some(Refusal::StreamFull(id)),
                (WhenFull::Reject, Fit::Fits) if store_full => Some(Refusal::StoreFull),
                (WhenFull::DropOldest, Fit::Fits | Fit::Full) if store_full && stream.books.backlog_messages() == 0 => {
                    Some(Refusal::StoreFull)
                }
                _ => None,
            }
        });
        refusal.or_else(|| self.queue_refusal(&publish.copies, bytes, can_be_told, store_full))
    }

    fn refuse(&mut self, publish: &Publish, lane: &LaneShared, refusal: Refusal, bytes: u64, mode: Mode) -> Decision {
        if publish.message.qos == QoS::AtMostOnce {
            for &StreamId(index) in &publish.streams {
                self.count_qos0_drop(index as usize, mode);
            }
        } else if lane.on_refusal == OnRefusal::Hold {
            let sessions = publish.copies.iter().map(|copy| copy.session).collect();
            return Decision::Hold(Blocked { refusal, bytes, streams: publish.streams.clone(), sessions });
        }
        Decision::Done(Outcome::Refused(refusal))
    }

    fn count_qos0_drop(&mut self, index: usize, mode: Mode) {
        if mode == Mode::NoWrite {
            // Entered in the books by the next transaction that works.
            self.transaction.streams[index].door.qos0_full.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        } else {
            self.transaction.changing(index).books.drop_at_door(QOS0_FULL, 1);
        }
    }

    /// Appends to one stream, or drops and counts as it says.
    pub(super) fn take(
        &mut self,
        index: usize,
        message: &Message,
        properties: Option<&[u8]>,
        bytes: u64,
    ) -> Result<(), Failure> {
        let store_full = self.space.store_full(bytes);
        let stream = &self.transaction.streams[index];
        match (stream.books.fit(stream.limits, bytes), stream.when_full) {
            (Fit::Never, _) => {
                self.transaction.changing(index).books.drop_at_door(TOO_LARGE, 1);
                return Ok(());
            }
            (Fit::Full, WhenFull::DropNewest) => {
                self.transaction.changing(index).books.drop_at_door(NEWEST, 1);
                return Ok(());
            }
            (Fit::Fits, WhenFull::DropNewest) if store_full => {
                self.transaction.changing(index).books.drop_at_door(NEWEST, 1);
                return Ok(());
            }
            (Fit::Full, WhenFull::DropOldest) => self.drop_oldest(index, bytes, store_full)?,
            (Fit::Fits, WhenFull::DropOldest) if store_full => self.drop_oldest(index, bytes, true)?,
            (Fit::Fits | Fit::Full, _) => {}
        }
        self.append(index, message, properties, bytes)
    }

    pub(super) fn append(
        &mut self,
        index: usize,
        message: &Message,
        properties: Option<&[u8]>,
        bytes: u64,
    ) -> Result<(), Failure> {
        self.transaction.begin()?;
        let (boot, at) = (self.boot, self.transaction.now.mono_ms);
        let stream = self.transaction.appending(index);
        let seq = stream.books.append(bytes);
        let insert = &mut stream.insert;
        insert.raw_bind_parameter(1, seq.cast_signed())?;
        insert.raw_bind_parameter(2, stream.books.end_offset.cast_signed())?;
        insert.raw_bind_parameter(3, boot)?;
        insert.raw_bind_parameter(4, at.cast_signed())?;
        insert.raw_bind_parameter(5, row::flags(message))?;
        insert.raw_bind_parameter(6, &*message.client)?;
        insert.raw_bind_parameter(7, message.topic.as_str())?;
        insert.raw_bind_parameter(8, properties)?;
        insert.raw_bind_parameter(9, &*message.payload)?;
        insert.raw_execute()?;
        self.transaction.inserted += 1;
        self.space.note_appended(bytes);
        Ok(())
    }

    /// Drops from the head until a message of so many bytes fits; in a full store until as much has gone as comes.
    ///
    /// Found by the ends of the rows, in steps that grow from the head: where a limit was lowered, millions go at once.
    fn drop_oldest(&mut self, index: usize, bytes: u64, store_full: bool) -> Result<(), Failure> {
        let stream = &self.transaction.streams[index];
        let (books, limits) = (&stream.books, stream.limits);
        let backlog = books.backlog_messages();
        if backlog == 0 {
            return Ok(());
        }
        let too_many = limits.max_messages.map_or(0, |max| (backlog + 1).saturating_sub(max));
        let too_large = limits.max_bytes.map_or(0, |max| (books.end_offset + bytes).saturating_sub(max));
        let paid = if store_full { books.head_offset + bytes } else { 0 };
        let offset = too_large.max(paid).min(books.end_offset);
        let newest = books.next - 1;
        let mut last = books.nth(too_many.clamp(1, backlog));
        let mut end = self.transaction.end_of(index, last)?;
        let (mut short, mut step) = (last, 1);
        while end < offset {
            short = last;
            last = last.saturating_add(step).min(newest);
            step = step.saturating_mul(2);
            end = self.transaction.end_of(index, last)?;
        }
        while last - short > 1 {
            let middle = short + (last - short) / 2;
            let middle_end = self.transaction.end_of(index, middle)?;
            if middle_end < offset {
                short = middle;
            } else {
                (last, end) = (middle, middle_end);
            }
        }
        let books = &mut self.transaction.changing(index).books;
        let count = books.pass(last, end);
        books.dropped.add(OLDEST, count);
        Ok(())
    }

    fn decide_release(&mut self, packet_id: u16, lane: &LaneShared, mode: Mode) -> Result<Decision, Failure> {
        let Some(session) = &lane.session else { return Ok(Decision::Done(Outcome::Released)) };
        if mode != Mode::NoWrite {
            self.forget(session, packet_id)?;
            return Ok(Decision::Done(Outcome::Released));
        }
        let refusal = Refusal::DiskFull;
        Ok(match lane.on_refusal {
            OnRefusal::Report => Decision::Done(Outcome::Refused(refusal)),
            OnRefusal::Hold => Decision::Hold(Blocked::wholly(refusal)),
        })
    }

    /// Remembers a packet id; false where it is remembered already. Only asks where nothing can be written.
    fn remember(&mut self, session: &str, packet_id: u16, mode: Mode) -> Result<bool, Failure> {
        let connection = self.transaction.connection;
        if mode == Mode::Normal {
            self.transaction.begin()?;
            let mut insert = connection.prepare_cached("INSERT OR IGNORE INTO received VALUES(?1, ?2)")?;
            return Ok(insert.execute(params![session, packet_id])? == 1);
        }
        let mut select = connection.prepare_cached("SELECT 1 FROM received WHERE session = ?1 AND packet_id = ?2")?;
        let known: Option<i64> = select.query_row(params![session, packet_id], |row| row.get(0)).optional()?;
        Ok(known.is_none())
    }

    fn forget(&mut self, session: &str, packet_id: u16) -> Result<(), Failure> {
        self.transaction.begin()?;
        let mut delete =
            self.transaction.connection.prepare_cached("DELETE FROM received WHERE session = ?1 AND packet_id = ?2")?;
        delete.execute(params![session, packet_id])?;
        Ok(())
    }

    /// The properties as they are stored, in the writer's own buffer; `None` where there are none.
    pub(super) fn encoded_properties(&mut self, message: &Message) -> Option<BytesMut> {
        let properties = message.properties.as_ref().filter(|properties| !properties.is_empty())?;
        let mut buffer = std::mem::take(&mut self.properties);
        buffer.clear();
        properties.encode(&mut buffer);
        Some(buffer)
    }
}
