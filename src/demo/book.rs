//! What arrived upstream, checked message by message: plain bookkeeping, no clock, no socket.
//!
//! Every message carries two numbers. Its sensor counted it (`n`, from 0), and the gateway gave it an id when it accepted
//! it (`tg-id`). The same `tg-id` twice is the gateway sending again what was in flight when the connection broke. The
//! same `n` under a new `tg-id` is a sensor publishing again because the acknowledgement was lost, as QoS 1 asks of it.

/// What arrived of all sensors.
#[derive(Debug, Default)]
pub(super) struct Book {
    sensors: Vec<Arrivals>,
    by_gateway: Arrivals,
    deliveries: u64,
}

/// Which numbers arrived, and whether their first arrivals were in order.
#[derive(Debug, Clone, Default)]
struct Arrivals {
    /// One bit for each number.
    seen: Vec<u64>,
    distinct: u64,
    highest: Option<u64>,
    out_of_order: u64,
}

impl Arrivals {
    /// True when it had not arrived before.
    fn take(&mut self, number: u64) -> bool {
        let (word, bit) = place(number);
        if word >= self.seen.len() {
            self.seen.resize(word + 1, 0);
        }
        if self.seen[word] & bit != 0 {
            return false;
        }
        self.seen[word] |= bit;
        self.distinct += 1;
        if self.highest.is_some_and(|highest| number < highest) {
            self.out_of_order += 1;
        } else {
            self.highest = Some(number);
        }
        true
    }

    fn has(&self, number: u64) -> bool {
        let (word, bit) = place(number);
        self.seen.get(word).is_some_and(|seen| seen & bit != 0)
    }
}

fn place(number: u64) -> (usize, u64) {
    let word = usize::try_from(number / 64).expect("numbers are checked against MAX_NUMBER");
    (word, 1 << (number % 64))
}

/// Above this, a number is not one of ours.
const MAX_NUMBER: u64 = 1 << 30;

impl Book {
    /// An empty book for this many sensors.
    pub(super) fn new(sensors: usize) -> Self {
        Self { sensors: vec![Arrivals::default(); sensors], ..Self::default() }
    }

    /// Enters one delivery: the sensor, its number, and the sequence number out of `tg-id`.
    pub(super) fn enter(&mut self, sensor: usize, n: u64, sequence: u64) -> Result<(), String> {
        let sensors = self.sensors.len();
        let arrivals = self.sensors.get_mut(sensor).filter(|_| n.max(sequence) < MAX_NUMBER);
        let Some(arrivals) = arrivals else {
            return Err(format!(
                "message {n} of sensor {sensor} of {sensors} under sequence {sequence} is not one of ours"
            ));
        };
        self.deliveries += 1;
        arrivals.take(n);
        self.by_gateway.take(sequence);
        Ok(())
    }

    /// Deliveries in all, duplicates included.
    #[cfg(test)]
    pub(super) fn deliveries(&self) -> u64 {
        self.deliveries
    }

    /// Messages of sensors that arrived at least once.
    pub(super) fn distinct(&self) -> u64 {
        self.sensors.iter().map(|arrivals| arrivals.distinct).sum()
    }

    /// Ids of the gateway that arrived at least once.
    pub(super) fn distinct_ids(&self) -> u64 {
        self.by_gateway.distinct
    }

    /// Deliveries under an id that had arrived before.
    pub(super) fn duplicates(&self) -> u64 {
        self.deliveries - self.by_gateway.distinct
    }

    /// Messages that arrived again under a new id, because their sensor published them again.
    pub(super) fn published_again(&self) -> u64 {
        // An id stands for one publish. Both counts are of first arrivals, so duplicates are in neither.
        self.by_gateway.distinct.saturating_sub(self.distinct())
    }

    /// First deliveries that came after a later one: of the same sensor, or of the same stream.
    pub(super) fn out_of_order(&self) -> u64 {
        self.sensors.iter().map(|arrivals| arrivals.out_of_order).sum::<u64>() + self.by_gateway.out_of_order
    }

    /// How many of the sensor's first `count` messages never arrived.
    pub(super) fn missing(&self, sensor: usize, count: u64) -> u64 {
        let arrivals = self.sensors.get(sensor);
        (0..count).map(|n| u64::from(!arrivals.is_some_and(|arrivals| arrivals.has(n)))).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_clean_run_is_clean() {
        let mut book = Book::new(2);
        for n in 0..1000 {
            book.enter(0, n, 2 * n + 1).unwrap();
            book.enter(1, n, 2 * n + 2).unwrap();
        }
        assert_eq!((book.deliveries(), book.distinct(), book.distinct_ids()), (2000, 2000, 2000));
        assert_eq!((book.duplicates(), book.published_again(), book.out_of_order()), (0, 0, 0));
        assert_eq!(book.missing(0, 1000), 0);
        assert_eq!(book.missing(1, 1010), 10);
    }

    #[test]
    fn sent_again_is_not_out_of_order() {
        let mut book = Book::new(1);
        for (n, sequence) in [(0, 1), (1, 2), (0, 1), (1, 2), (2, 3)] {
            book.enter(0, n, sequence).unwrap();
        }
        assert_eq!((book.duplicates(), book.published_again(), book.out_of_order()), (2, 0, 0));
    }

    #[test]
    fn published_again_has_a_new_id() {
        let mut book = Book::new(1);
        for (n, sequence) in [(0, 1), (1, 2), (1, 3), (2, 4)] {
            book.enter(0, n, sequence).unwrap();
        }
        assert_eq!((book.duplicates(), book.published_again(), book.out_of_order()), (0, 1, 0));
    }

    #[test]
    fn strangers_are_errors() {
        let mut book = Book::new(1);
        assert!(book.enter(1, 0, 1).is_err());
        assert!(book.enter(0, u64::MAX, 1).is_err());
        assert!(book.enter(0, 0, u64::MAX).is_err());
    }

    proptest! {
        #[test]
        fn any_order_is_counted_as_a_plain_list_would(numbers in proptest::collection::vec(0u64..200, 0..300)) {
            let mut book = Book::new(1);
            let (mut first, mut out_of_order) = (Vec::new(), 0);
            for n in numbers {
                book.enter(0, n, n).unwrap();
                if !first.contains(&n) {
                    // Once in the sensor's order, once in the stream's.
                    out_of_order += if first.iter().any(|earlier| *earlier > n) { 2 } else { 0 };
                    first.push(n);
                }
            }
            prop_assert_eq!(book.distinct(), first.len() as u64);
            prop_assert_eq!(book.out_of_order(), out_of_order);
            prop_assert_eq!(book.missing(0, 200), 200 - first.len() as u64);
        }
    }
}
