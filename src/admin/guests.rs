//! Who is connected, and who makes room when the house is full.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio_util::sync::CancellationToken;

/// The connections, at most a given number of them.
#[derive(Clone)]
pub(super) struct Guests {
    limit: usize,
    book: Arc<Mutex<Book>>,
}

#[derive(Default)]
struct Book {
    guests: HashMap<u64, Entry>,
    /// Grows with every arrival and every answer: both the next name and the measure of who has been idle longest.
    tick: u64,
}

struct Entry {
    /// When it became idle; `None` while an answer is being made.
    idle_since: Option<u64>,
    leave: CancellationToken,
}

/// One connection; leaves the book when dropped.
pub(super) struct Guest {
    name: u64,
    leave: CancellationToken,
    guests: Guests,
}

/// A request whose body has not come yet; the connection is busy again when it is dropped.
pub(super) struct Waiting {
    guest: Arc<Guest>,
}

/// Ends the connection of a request; every request has one among its extensions.
#[derive(Debug, Clone, Default)]
pub(super) struct HangUp(CancellationToken);

/// An answer in the making; the connection is idle again when it is dropped.
pub(super) struct Busy {
    guest: Arc<Guest>,
}

impl Guests {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, book: Arc::default() }
    }

    /// Takes a new connection in; at the limit whoever has been idle longest is asked to leave. `None` when all are busy.
    pub(super) fn welcome(&self) -> Option<Guest> {
        let mut book = self.book();
        if book.guests.len() >= self.limit {
            let idle = book.guests.iter().filter_map(|(name, entry)| entry.idle_since.map(|since| (since, *name)));
            let (_, longest) = idle.min()?;
            if let Some(entry) = book.guests.remove(&longest) {
                entry.leave.cancel();
            }
        }
        book.tick += 1;
        let name = book.tick;
        let leave = CancellationToken::new();
        book.guests.insert(name, Entry { idle_since: Some(name), leave: leave.clone() });
        Some(Guest { name, leave, guests: self.clone() })
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Guest {
    /// Waits until the place is needed for somebody else.
    pub(super) async fn asked_to_leave(&self) {
        self.leave.cancelled().await;
    }

    /// What ends the connection, for an answer that has no end of its own.
    pub(super) fn hang_up(&self) -> HangUp {
        HangUp(self.leave.clone())
    }

    /// Marks the connection as one that is being answered.
    pub(super) fn busy(self: &Arc<Self>) -> Busy {
        if let Some(entry) = self.guests.book().guests.get_mut(&self.name) {
            entry.idle_since = None;
        }
        Busy { guest: Arc::clone(self) }
    }

    /// Marks a connection that is being answered as one that waits for its client: it may have to make room.
    pub(super) fn waiting(self: &Arc<Self>) -> Waiting {
        self.idle();
        Waiting { guest: Arc::clone(self) }
    }

    fn idle(&self) {
        let mut book = self.guests.book();
        book.tick += 1;
        let tick = book.tick;
        if let Some(entry) = book.guests.get_mut(&self.name) {
            entry.idle_since = Some(tick);
        }
    }
}

impl HangUp {
    /// Ends the connection at once.
    pub(super) fn now(&self) {
        self.0.cancel();
    }

    /// Whether the connection is to end.
    #[cfg(test)]
    pub(super) fn is_due(&self) -> bool {
        self.0.is_cancelled()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.guests.book().guests.remove(&self.name);
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.guest.idle();
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(entry) = self.guest.guests.book().guests.get_mut(&self.guest.name) {
            entry.idle_since = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(guest: &Guest) -> bool {
        guest.leave.is_cancelled()
    }

    #[test]
    fn the_longest_idle_makes_room() {
        let guests = Guests::new(2);
        let first = Arc::new(guests.welcome().unwrap());
        let second = Arc::new(guests.welcome().unwrap());
        drop(first.busy());
        let _third = guests.welcome().unwrap();
        assert!(!asked(&first) && asked(&second), "the first has just been answered");
        assert_eq!(guests.book().guests.len(), 2);
    }

    #[test]
    fn the_busy_stay_and_the_newcomer_goes() {
        let guests = Guests::new(1);
        let first = Arc::new(guests.welcome().unwrap());
        let busy = first.busy();
        assert!(guests.welcome().is_none());
        drop(busy);
        assert!(guests.welcome().is_some());
        assert!(asked(&first));
    }

    #[test]
    fn who_waits_for_its_client_makes_room() {
        let guests = Guests::new(2);
        let first = Arc::new(guests.welcome().unwrap());
        let second = Arc::new(guests.welcome().unwrap());
        let _busy = (first.busy(), second.busy());
        drop(first.waiting());
        let _waiting = second.waiting();
        assert!(guests.welcome().is_some());
        assert!(asked(&second) && !asked(&first), "the body of the first has come");
    }

    #[test]
    fn who_leaves_makes_room() {
        let guests = Guests::new(1);
        drop(guests.welcome().unwrap());
        assert!(guests.book().guests.is_empty());
    }
}
