//! Stored messages for the admin room: read page by page, and imported.

use crate::{
    admin::{Answer, Messages, MessagesQuestion, Part, Taken},
    message::Message,
    record::{Death, Record},
    stats::DeadLetter,
    store::{self, DeadFilter, Handle, READ_BYTES_MAX, Stop, StoreError, Stored},
    units::rfc3339_of_unix_ms,
};

use super::orders::{find, refused};

/// Most dead letters of one page: each is read by itself.
const DEAD_PAGE: usize = 256;

/// A page of messages.
pub(super) fn read(store: &Handle, question: MessagesQuestion) -> Answer<Messages> {
    let store = store.clone();
    Box::pin(async move {
        let stream = find(&store, &question.stream)?;
        let page = match question.part {
            Part::Backlog | Part::Kept => stored(&store, stream, &question).await,
            Part::Dead => dead(&store, stream, &question).await,
        };
        page.map_err(|error| refused(error.into()))
    })
}

async fn stored(store: &Handle, stream: store::StreamId, question: &MessagesQuestion) -> Result<Messages, StoreError> {
    // Before the read: what it says is there was there.
    let MessagesQuestion { part, from, to, limit, .. } = question;
    let (position, count) = store.backlog_within(stream, *from, to.saturating_add(1))?;
    let (mut rows, end) = if *part == Part::Kept {
        (store.kept(stream, *from, *limit, READ_BYTES_MAX).await?, position.head)
    } else {
        (store.read(stream, *from, *limit, READ_BYTES_MAX).await?, position.next)
    };
    rows.truncate(rows.partition_point(|row| row.seq <= *to));
    let end = end.min(to.saturating_add(1));
    let count = (*part == Part::Backlog).then_some(count);
    let next = rows.last().map(|last| last.seq + 1).filter(|next| *next < end);
    let records = rows.into_iter().map(|stored| (record(stored), None)).collect();
    Ok(Messages { head: position.head, end: position.next, count, records, next, unreadable: 0 })
}

/// A stored message as it is shown.
pub(crate) fn record(stored: Stored) -> Record {
    Record {
        sequence: stored.seq,
        accepted_unix_ms: stored.accepted_unix_ms,
        clock_synced: stored.clock_synced,
        age_ms: stored.age_ms,
        message: stored.message,
    }
}

async fn dead(store: &Handle, stream: store::StreamId, question: &MessagesQuestion) -> Result<Messages, StoreError> {
    let position = *store.position(stream).borrow();
    let limit = question.limit.min(DEAD_PAGE);
    let after = question.from.saturating_sub(1);
    let heads = store.dead(DeadFilter { stream: Some(stream), after, limit, ..DeadFilter::default() }).await?;
    let mut page = Messages { head: position.head, end: position.next, ..Messages::default() };
    let is_full = heads.len() >= limit;
    let mut bytes = 0;
    for head in heads {
        page.next = Some(head.id + 1);
        let whole = DeadFilter { id: Some(head.id), limit: 1, ..DeadFilter::default() };
        // Gone meanwhile: retried, purged or dropped.
        let Some(letter) = store.dead(whole).await?.pop() else { continue };
        bytes += letter.bytes;
        match dead_record(letter) {
            Some(record) => page.records.push(record),
            None => page.unreadable += 1,
        }
        if bytes >= READ_BYTES_MAX as u64 {
            return Ok(page);
        }
    }
    page.next = page.next.filter(|_| is_full);
    Ok(page)
}

/// A dead letter as it is shown; `None` where it cannot be read as a message any more.
pub(crate) fn dead_record(letter: DeadLetter) -> Option<(Record, Option<Death>)> {
    let death = Death {
        id: letter.id,
        reason: letter.reason,
        detail: letter.detail,
        died: letter.died_unix_ms.and_then(rfc3339_of_unix_ms),
    };
    let record = Record {
        sequence: letter.seq,
        accepted_unix_ms: letter.accepted_unix_ms.unwrap_or(0),
        clock_synced: letter.accepted_unix_ms.is_some(),
        // What is dead does not expire.
        age_ms: 0,
        message: letter.message?,
    };
    Some((record, Some(death)))
}

/// Stores messages in a stream.
pub(super) fn import(
    store: &Handle,
    gateway_id: &str,
    stream: String,
    messages: Vec<Message>,
    again: bool,
) -> Answer<Taken> {
    let (store, own) = (store.clone(), format!("{gateway_id}/{stream}"));
    Box::pin(async move {
        let id = find(&store, &stream)?;
        let done = store.import(id, messages, own, again).await.map_err(refused)?;
        let stop = done.stop.map(|stop| (stop.sentence().to_owned(), stop == Stop::TooLarge));
        Ok(Taken { accepted: done.accepted, skipped: done.skipped, stop })
    })
}
