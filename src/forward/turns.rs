//! Whose turn it is: of the streams that share an uplink, the highest priority first, equals in turn; pure.
//!
//! A stream of higher priority that never runs dry starves the lower ones: that is what a priority is. A stream that has nothing
//! in memory at this moment (its next chunk is still being read) does not hold up the others.

/// Messages a stream may send before an equal gets its turn.
const TURN_MESSAGES: u32 = 16;

/// The order of the streams of one uplink, by index.
#[derive(Debug, Clone)]
pub(super) struct Turns {
    /// Indexes grouped by priority, highest first.
    groups: Vec<Group>,
}

#[derive(Debug, Clone)]
struct Group {
    members: Vec<usize>,
    /// Place in `members` of the one whose turn it is.
    turn: usize,
    /// What is left of that turn.
    left: u32,
}

impl Turns {
    /// Streams by index, with these priorities.
    pub(super) fn new(priorities: &[i8]) -> Self {
        let mut order: Vec<usize> = (0..priorities.len()).collect();
        order.sort_by_key(|index| std::cmp::Reverse(priorities[*index]));
        let groups = order
            .chunk_by(|a, b| priorities[*a] == priorities[*b])
            .map(|members| Group { members: members.to_vec(), turn: 0, left: TURN_MESSAGES })
            .collect();
        Self { groups }
    }

    /// The stream to send from now, of those that are ready; `None` when none is.
    pub(super) fn next(&mut self, ready: impl Fn(usize) -> bool) -> Option<usize> {
        self.groups.iter_mut().find_map(|group| group.next(&ready))
    }
}

impl Group {
    fn next(&mut self, ready: &impl Fn(usize) -> bool) -> Option<usize> {
        for _ in 0..=self.members.len() {
            let member = self.members[self.turn];
            if self.left > 0 && ready(member) {
                self.left -= 1;
                return Some(member);
            }
            self.turn = (self.turn + 1) % self.members.len();
            self.left = TURN_MESSAGES;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_lower_priority_never_goes_before_a_ready_higher_one(
            priorities in proptest::collection::vec(-3_i8..3, 1..8),
            rounds in proptest::collection::vec(any::<u8>(), 1..200),
        ) {
            let mut turns = Turns::new(&priorities);
            for ready in rounds {
                let is_ready = |index: usize| ready & (1 << index) != 0;
                let best = (0..priorities.len()).filter(|index| is_ready(*index)).map(|index| priorities[index]).max();
                let chosen = turns.next(is_ready);
                prop_assert_eq!(chosen.map(|index| priorities[index]), best);
                prop_assert!(chosen.is_none_or(is_ready));
            }
        }

        #[test]
        fn equals_get_equal_shares(streams in 1_usize..8, rounds in 1_usize..20) {
            let mut turns = Turns::new(&vec![0; streams]);
            let mut shares = vec![0_u32; streams];
            for _ in 0..rounds * streams * TURN_MESSAGES as usize {
                shares[turns.next(|_| true).unwrap()] += 1;
            }
            prop_assert!(shares.iter().all(|share| *share == shares[0]), "{:?}", shares);
        }
    }

    #[test]
    fn no_streams_no_turn() {
        assert_eq!(Turns::new(&[]).next(|_| true), None);
    }
}
