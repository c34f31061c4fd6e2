//! Whose turn it is: of the streams that share an uplink, the higher priority first, equals alike, and nobody starves; pure.
//!
//! What is shared is *cost*: a message's bytes and [`MESSAGE_COST`] for its handling, so that a stream of large messages gets no more
//! of the line than one of small messages.
//!
//! - *Equals* take turns of about [`TURN_COST`] (deficit round robin): over any time in which two streams have something to send, their shares differ by one
//!   turn and one message at most.
//! - *A lower priority* goes when the higher ones have nothing to send, and beside that has a guaranteed share: whenever those above it have sent
//!   [`Turns::factor`] times as much as it did, one of its messages goes. That is 1 in 32 for each priority; with more than eight priorities on one uplink,
//!   1 in four times their number, so that all lower ones together never take more than a quarter. What an idle priority saves up is a turn at most.
//!
//! A stream that has nothing in memory at this moment (its next chunk is still being read) does not hold up the others.

/// What a message costs beside its bytes.
const MESSAGE_COST: u64 = 256;

/// Cost that a stream may send before an equal gets its turn.
const TURN_COST: i64 = 8 * 1024;

/// The order of the streams of one uplink, by index.
#[derive(Debug, Clone)]
pub(super) struct Turns {
    /// Indexes grouped by priority, highest first.
    groups: Vec<Group>,
    /// For each stream its place in `groups`.
    group_of: Vec<usize>,
    /// Whether the last choice was made over the head of a higher priority.
    is_guaranteed: bool,
}

#[derive(Debug, Clone)]
struct Group {
    members: Vec<Member>,
    /// Place in `members` of the one whose turn it is.
    turn: usize,
    /// What the higher ones have sent, less what this one has for it; the guaranteed share is due where it is enough for a message.
    credit: i64,
}

#[derive(Debug, Clone)]
struct Member {
    stream: usize,
    /// What is left of its turn; less than nothing where its last message was larger than that.
    left: i64,
}

impl Turns {
    /// Streams by index, with these priorities.
    pub(super) fn new(priorities: &[i8]) -> Self {
        let mut order: Vec<usize> = (0..priorities.len()).collect();
        order.sort_by_key(|index| std::cmp::Reverse(priorities[*index]));
        let mut group_of = vec![0; priorities.len()];
        let mut groups = Vec::new();
        for streams in order.chunk_by(|a, b| priorities[*a] == priorities[*b]) {
            for stream in streams {
                group_of[*stream] = groups.len();
            }
            let members = streams.iter().map(|stream| Member { stream: *stream, left: 0 }).collect();
            groups.push(Group { members, turn: 0, credit: 0 });
        }
        Self { groups, group_of, is_guaranteed: false }
    }

    /// What higher priorities may send for each part of a lower one.
    fn factor(&self) -> i64 {
        i64::try_from(self.groups.len() * 4).unwrap_or(i64::MAX).max(32) - 1
    }

    /// The stream to send from now, of those that are ready; `None` when none is.
    pub(super) fn next(&mut self, ready: impl Fn(usize) -> bool) -> Option<usize> {
        let enough = self.factor() * cost(0);
        self.is_guaranteed = false;
        let (first, highest) =
            self.groups.iter_mut().enumerate().find_map(|(index, group)| Some((index, group.next(&ready)?)))?;
        let mut lower = self.groups.iter_mut().skip(first + 1).filter(|group| group.credit >= enough);
        match lower.find_map(|group| group.next(&ready)) {
            Some(stream) => {
                self.is_guaranteed = true;
                Some(stream)
            }
            None => Some(highest),
        }
    }

    /// A message of this size went from the stream that was chosen last.
    pub(super) fn sent(&mut self, stream: usize, bytes: u64) {
        let (cost, factor, index) = (cost(bytes), self.factor(), self.group_of[stream]);
        let group = &mut self.groups[index];
        if let Some(member) = group.members.iter_mut().find(|member| member.stream == stream) {
            member.left -= cost;
        }
        if self.is_guaranteed {
            group.credit -= factor * cost;
        }
        for lower in &mut self.groups[index + 1..] {
            lower.credit = (lower.credit + cost).min(factor * TURN_COST);
        }
    }
}

fn cost(bytes: u64) -> i64 {
    i64::try_from(bytes.saturating_add(MESSAGE_COST)).unwrap_or(i64::MAX / 4096).min(i64::MAX / 4096)
}

impl Group {
    fn next(&mut self, ready: &impl Fn(usize) -> bool) -> Option<usize> {
        if let Some(stream) = self.next_with_something_left(ready) {
            return Some(stream);
        }
        // Everybody who is ready gets as many turns as bring the first of them above nothing.
        let rounds = |member: &Member| member.left.min(0).abs() / TURN_COST + 1;
        let is_ready = |member: &&mut Member| ready(member.stream);
        let rounds = self.members.iter_mut().filter(is_ready).map(|member| rounds(member)).min()?;
        for member in self.members.iter_mut().filter(is_ready) {
            member.left += rounds * TURN_COST;
        }
        self.next_with_something_left(ready)
    }

    fn next_with_something_left(&mut self, ready: &impl Fn(usize) -> bool) -> Option<usize> {
        for _ in 0..self.members.len() {
            let member = &mut self.members[self.turn];
            if ready(member.stream) {
                if member.left > 0 {
                    return Some(member.stream);
                }
            } else {
                // A turn that is not taken is over; a debt stays.
                member.left = member.left.min(0);
            }
            self.turn = (self.turn + 1) % self.members.len();
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Lets everybody send for so long, with something to send always; gives what each sent, in cost.
    fn shares(priorities: &[i8], sizes: &[u64], messages: usize) -> Vec<i64> {
        let mut turns = Turns::new(priorities);
        let mut shares = vec![0; priorities.len()];
        for _ in 0..messages {
            let stream = turns.next(|_| true).unwrap();
            turns.sent(stream, sizes[stream]);
            shares[stream] += cost(sizes[stream]);
        }
        shares
    }

    proptest! {
        #[test]
        fn the_chosen_one_is_ready_and_some_ready_one_is_chosen(
            priorities in proptest::collection::vec(-3_i8..3, 1..8),
            rounds in proptest::collection::vec((any::<u8>(), 0_u64..100_000), 1..200),
        ) {
            let mut turns = Turns::new(&priorities);
            for (ready, bytes) in rounds {
                let is_ready = |index: usize| ready & (1 << index) != 0;
                let chosen = turns.next(is_ready);
                prop_assert_eq!(chosen.is_some(), (0..priorities.len()).any(is_ready));
                prop_assert!(chosen.is_none_or(is_ready));
                if let Some(stream) = chosen {
                    turns.sent(stream, bytes);
                }
            }
        }

        #[test]
        fn equals_get_equal_shares_whatever_their_sizes(
            sizes in proptest::collection::vec(0_u64..300_000, 1..8), messages in 1_usize..5_000,
        ) {
            let shares = shares(&vec![0; sizes.len()], &sizes, messages);
            let largest = sizes.iter().map(|size| cost(*size)).max().unwrap();
            let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
            prop_assert!(most - least <= 2 * (largest + TURN_COST), "{shares:?} of {sizes:?}");
        }

        #[test]
        fn what_is_idle_saves_up_no_more_than_a_turn(idle in 1_usize..100_000, bytes in 0_u64..2_000) {
            let mut turns = Turns::new(&[1, 0, 0]);
            for _ in 0..idle {
                prop_assert_eq!(turns.next(|stream| stream == 0), Some(0));
                turns.sent(0, 1000);
            }
            let mut in_a_row = 0;
            while turns.next(|_| true) != Some(0) {
                in_a_row += cost(bytes);
                turns.sent(if turns.groups[1].turn == 0 { 1 } else { 2 }, bytes);
            }
            prop_assert!(in_a_row <= TURN_COST + cost(bytes), "{in_a_row}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn nobody_starves_and_the_highest_has_most(
            sizes in proptest::collection::vec(0_u64..20_000, 2..24),
        ) {
            let priorities: Vec<i8> = (0..sizes.len()).map(|index| -i8::try_from(index).unwrap()).collect();
            let shares = shares(&priorities, &sizes, 20_000);
            let total: i64 = shares.iter().sum();
            let parts = i64::try_from(sizes.len() * 4).unwrap().max(32);
            for share in &shares[1..] {
                // The last message may be still to come.
                let least = total / parts * 2 / 3 - 32 * cost(20_000);
                prop_assert!(*share >= least && *share <= total / parts * 3 / 2 + 32 * cost(20_000), "{shares:?}");
            }
            prop_assert!(shares[0] >= total * 7 / 10, "{shares:?}");
        }
    }

    #[test]
    fn one_message_in_thirty_two_is_a_lower_one() {
        let mut turns = Turns::new(&[5, -5]);
        let mut order = Vec::new();
        for _ in 0..320 {
            let stream = turns.next(|_| true).unwrap();
            turns.sent(stream, 100);
            order.push(stream);
        }
        assert_eq!(order.iter().filter(|stream| **stream == 1).count(), 10);
        // Nor are they bunched.
        assert!(order.chunks(64).all(|chunk| chunk.contains(&1)));
    }

    #[test]
    fn a_choice_that_was_not_used_costs_nothing() {
        let mut turns = Turns::new(&[0, 0, -1]);
        let chosen: Vec<_> = (0..100).map(|_| turns.next(|_| true)).collect();
        assert!(chosen.iter().all(|stream| *stream == chosen[0]));
    }

    #[test]
    fn no_streams_no_turn() {
        assert_eq!(Turns::new(&[]).next(|_| true), None);
    }
}
