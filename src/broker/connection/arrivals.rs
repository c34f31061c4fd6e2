//! What arrived from one client and is not acknowledged yet, in the order in which it arrived. Pure.

use std::collections::VecDeque;

use crate::{
    broker::{
        fanout::Onward,
        packet::{AckKind, Reason},
    },
    message::Message,
};

/// The acknowledgement that an arrival will get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Due {
    /// `None` for QoS 0.
    pub(crate) kind: Option<AckKind>,
    pub(crate) packet_id: u16,
    pub(crate) reason: Reason,
    /// The reason in words, where it is an error.
    pub(crate) why: &'static str,
    /// Whether the end of the exchange frees a place in the Receive Maximum.
    pub(crate) counts: bool,
}

impl Due {
    /// A success that frees nothing.
    pub(crate) const fn new(kind: Option<AckKind>, packet_id: u16) -> Self {
        Self { kind, packet_id, reason: Reason::SUCCESS, why: "", counts: false }
    }
}

/// What an arrival waits for.
#[derive(Debug)]
pub(crate) enum Wait {
    /// The store's verdict, and what is to be done for local subscribers then.
    Store(Onward),
    /// Only for its turn; then the message goes to local subscribers.
    Turn(Option<Box<Passing>>),
}

/// A message that the store has no part in.
#[derive(Debug)]
pub(crate) struct Passing {
    pub(crate) message: Message,
    pub(crate) onward: Onward,
}

/// Acknowledgements go out in the order in which the packets came in (MQTT 5, section 4.6), and local subscribers see
/// one client's messages in that order too, whether or not a stream takes them.
#[derive(Debug, Default)]
pub(crate) struct Arrivals {
    queue: VecDeque<(Wait, Due)>,
    /// The tag of the first of `queue`; wraps.
    first: u32,
}

impl Arrivals {
    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Enters an arrival and gives the tag under which [`Arrivals::decide`] knows it.
    pub(crate) fn push(&mut self, wait: Wait, due: Due) -> u32 {
        let tag = self.first.wrapping_add(u32::try_from(self.queue.len()).expect("the window is bounded"));
        self.queue.push_back((wait, due));
        tag
    }

    /// The store has decided on an arrival; `refused` replaces the reason of its acknowledgement, with its words.
    pub(crate) fn decide(&mut self, tag: u32, refused: Option<(Reason, &'static str)>) -> Option<(Due, Onward)> {
        let at = tag.wrapping_sub(self.first) as usize;
        let (wait, due) = self.queue.get_mut(at)?;
        let onward = match std::mem::replace(wait, Wait::Turn(None)) {
            Wait::Store(onward) => onward,
            Wait::Turn(_) => Onward::default(),
        };
        if let Some(refused) = refused {
            (due.reason, due.why) = refused;
        }
        Some((*due, onward))
    }

    /// The store has released a packet id; releases carry no tag, and the oldest one that waits is meant.
    pub(crate) fn released(&mut self, packet_id: u16) {
        let meant = |(wait, due): &&mut (Wait, Due)| {
            due.kind == Some(AckKind::PubComp) && due.packet_id == packet_id && matches!(wait, Wait::Store(_))
        };
        if let Some((wait, _)) = self.queue.iter_mut().find(meant) {
            *wait = Wait::Turn(None);
        }
    }

    /// The next arrival whose turn has come.
    pub(crate) fn next(&mut self) -> Option<(Due, Option<Box<Passing>>)> {
        if !matches!(self.queue.front(), Some((Wait::Turn(_), _))) {
            return None;
        }
        let (wait, due) = self.queue.pop_front()?;
        self.first = self.first.wrapping_add(1);
        match wait {
            Wait::Turn(passing) => Some((due, passing)),
            Wait::Store(_) => None,
        }
    }

    /// Gives the memory of an idle queue back.
    pub(crate) fn shrink(&mut self) {
        if self.queue.is_empty() {
            self.queue = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(packet_id: u16) -> Due {
        Due::new(Some(AckKind::PubAck), packet_id)
    }

    fn ready(arrivals: &mut Arrivals) -> Vec<u16> {
        std::iter::from_fn(|| arrivals.next().map(|(due, _)| due.packet_id)).collect()
    }

    #[test]
    fn acknowledgements_leave_in_the_order_of_arrival() {
        let mut arrivals = Arrivals { first: u32::MAX, ..Arrivals::default() };
        let tags: Vec<u32> = (1..=3).map(|id| arrivals.push(Wait::Store(Onward::default()), due(id))).collect();
        arrivals.push(Wait::Turn(None), due(4));
        assert!(ready(&mut arrivals).is_empty());
        arrivals.decide(tags[1], Some((Reason::QUOTA_EXCEEDED, "full")));
        assert!(ready(&mut arrivals).is_empty());
        arrivals.decide(tags[0], None);
        assert_eq!(ready(&mut arrivals), [1, 2]);
        arrivals.decide(tags[2], None);
        assert_eq!(ready(&mut arrivals), [3, 4]);
        assert!(arrivals.decide(tags[0], None).is_none());
    }
}
