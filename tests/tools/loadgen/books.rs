//! What was acknowledged, what arrived, and what that says about loss, order and duplicates: no I/O, no clock.

use std::collections::HashMap;

use serde::Serialize;

/// Bytes in front of every payload: magic, sensor, sequence number, time of sending in microseconds since 1970.
pub(crate) const STAMP_BYTES: usize = 24;
const MAGIC: &[u8; 4] = b"TGLG";

/// What a payload says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Number of the sensor.
    pub sensor: u32,
    /// Its sequence number, from 1.
    pub seq: u64,
    /// When it was first sent.
    pub sent_unix_us: u64,
}

impl Stamp {
    /// Writes the stamp over the first bytes of a payload.
    pub(crate) fn write(self, payload: &mut [u8]) {
        payload[..4].copy_from_slice(MAGIC);
        payload[4..8].copy_from_slice(&self.sensor.to_be_bytes());
        payload[8..16].copy_from_slice(&self.seq.to_be_bytes());
        payload[16..24].copy_from_slice(&self.sent_unix_us.to_be_bytes());
    }

    /// Reads a stamp; `None` for payloads that the load generator did not make.
    pub(crate) fn read(payload: &[u8]) -> Option<Self> {
        let rest = payload.strip_prefix(MAGIC)?;
        let (sensor, rest) = rest.split_first_chunk::<4>()?;
        let (seq, rest) = rest.split_first_chunk::<8>()?;
        let (sent, _) = rest.split_first_chunk::<8>()?;
        let seq = u64::from_be_bytes(*seq);
        // A sequence number beyond this is garbage, and would cost the bitmap gigabytes.
        (seq <= 1 << 32).then_some(Self {
            sensor: u32::from_be_bytes(*sensor),
            seq,
            sent_unix_us: u64::from_be_bytes(*sent),
        })
    }
}

/// A set of sequence numbers: one bit each.
#[derive(Debug, Default, Clone)]
pub(crate) struct SeqSet {
    words: Vec<u64>,
    len: u64,
}

impl SeqSet {
    fn place(seq: u64) -> (usize, u64) {
        (usize::try_from(seq / 64).expect("64-bit machine"), 1 << (seq % 64))
    }

    /// Adds a number; false if it was there already.
    pub(crate) fn insert(&mut self, seq: u64) -> bool {
        let (word, bit) = Self::place(seq);
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        let new = self.words[word] & bit == 0;
        self.words[word] |= bit;
        self.len += u64::from(new);
        new
    }

    /// Whether the number is there.
    pub(crate) fn contains(&self, seq: u64) -> bool {
        let (word, bit) = Self::place(seq);
        self.words.get(word).is_some_and(|w| w & bit != 0)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// All numbers as ranges `(first, last)`, in order.
    pub(crate) fn ranges(&self) -> Vec<(u64, u64)> {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        let end = self.words.len() as u64 * 64;
        for seq in (0..end).filter(|seq| self.contains(*seq)) {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == seq => *last = seq,
                _ => ranges.push((seq, seq)),
            }
        }
        ranges
    }
}

#[derive(Debug, Default)]
struct SensorBooks {
    seen: SeqSet,
    highest: u64,
    /// `tg-id` sequence of the first arrival, by sensor sequence; 0 = none.
    ids: Vec<u64>,
}

#[derive(Debug, Default)]
struct StreamBooks {
    /// Sensor and sequence number that each `tg-id` stood for.
    known: HashMap<u64, (u32, u64)>,
    highest: u64,
}

/// The arrivals of one run.
#[derive(Debug, Default)]
pub(crate) struct Arrivals {
    sensors: HashMap<u32, SensorBooks>,
    streams: HashMap<String, StreamBooks>,
    /// The figures so far.
    pub figures: Figures,
}

/// What a run's arrivals add up to.
#[derive(Debug, Default, Clone, Serialize)]
pub(crate) struct Figures {
    /// PUBLISH packets with our stamp.
    pub received: u64,
    /// Different messages among them.
    pub distinct: u64,
    /// Packets without our stamp.
    pub foreign: u64,
    /// First deliveries that came after a later message of the same sensor.
    pub out_of_order: u64,
    /// Repetitions.
    pub duplicates: u64,
    /// ... that carry the `tg-id` of their first arrival: the gateway sent them again.
    pub duplicates_same_id: u64,
    /// ... that carry another one: the sensor published them again, and the gateway accepted both.
    pub duplicates_new_id: u64,
    /// ... that carry none and cannot be recognised.
    pub duplicates_without_id: u64,
    /// A `tg-id` that stood for two different messages.
    pub id_conflicts: u64,
    /// First deliveries of a `tg-id` that came after a higher one of the same stream.
    pub ids_out_of_order: u64,
    /// Arrivals with a `tg-id`.
    pub with_id: u64,
}

impl Arrivals {
    /// Enters one arrival; true if it is the first of this message.
    pub(crate) fn enter(&mut self, stamp: Stamp, tg_id: Option<&str>) -> bool {
        let id = tg_id.and_then(|text| {
            let (stream, seq) = text.rsplit_once('/')?;
            Some((stream, seq.parse::<u64>().ok()?))
        });
        if let Some((stream, id)) = id {
            self.enter_id(stream, id, stamp);
        }
        let id = id.map_or(0, |(_, id)| id);
        let figures = &mut self.figures;
        figures.received += 1;
        let books = self.sensors.entry(stamp.sensor).or_default();
        let place = usize::try_from(stamp.seq).expect("64-bit machine");
        if books.seen.insert(stamp.seq) {
            figures.distinct += 1;
            figures.out_of_order += u64::from(stamp.seq < books.highest);
            books.highest = books.highest.max(stamp.seq);
            if id != 0 {
                if place >= books.ids.len() {
                    books.ids.resize(place + 1, 0);
                }
                books.ids[place] = id;
            }
            return true;
        }
        figures.duplicates += 1;
        match (id, books.ids.get(place)) {
            (0, _) => figures.duplicates_without_id += 1,
            (id, Some(first)) if id == *first => figures.duplicates_same_id += 1,
            _ => figures.duplicates_new_id += 1,
        }
        false
    }

    fn enter_id(&mut self, stream: &str, id: u64, stamp: Stamp) {
        self.figures.with_id += 1;
        if !self.streams.contains_key(stream) {
            self.streams.insert(stream.to_owned(), StreamBooks::default());
        }
        let books = self.streams.get_mut(stream).expect("entered above");
        let what = (stamp.sensor, stamp.seq);
        match books.known.insert(id, what) {
            Some(before) if before != what => self.figures.id_conflicts += 1,
            Some(_) => {}
            None => {
                self.figures.ids_out_of_order += u64::from(id < books.highest);
                books.highest = books.highest.max(id);
            }
        }
    }

    /// What was acknowledged and did not arrive, as `(sensor, first, last)`, and how many that is.
    pub(crate) fn missing(&self, acknowledged: &Acknowledged) -> (u64, Vec<(u32, u64, u64)>) {
        let empty = SensorBooks::default();
        let (mut count, mut ranges) = (0, Vec::new());
        for (sensor, first, last) in &acknowledged.ranges {
            let books = self.sensors.get(sensor).unwrap_or(&empty);
            let mut lost = SeqSet::default();
            for seq in (*first..=*last).filter(|seq| !books.seen.contains(*seq)) {
                lost.insert(seq);
            }
            count += lost.len();
            ranges.extend(lost.ranges().into_iter().map(|(a, b)| (*sensor, a, b)));
        }
        (count, ranges)
    }
}

/// What a publisher wrote down as acknowledged.
#[derive(Debug, Default)]
pub(crate) struct Acknowledged {
    /// Sensor, first and last sequence number of a run without gaps.
    pub ranges: Vec<(u32, u64, u64)>,
}

impl Acknowledged {
    /// Reads the lines `sensor first last` of a journal.
    pub(crate) fn parse(journal: &str) -> Option<Self> {
        let ranges = journal.lines().map(|line| {
            let mut words = line.split(' ');
            Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?, words.next()?.parse().ok()?))
        });
        Some(Self { ranges: ranges.collect::<Option<_>>()? })
    }

    /// How many messages that are.
    pub(crate) fn count(&self) -> u64 {
        self.ranges.iter().map(|(_, first, last)| last - first + 1).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrive(arrivals: &mut Arrivals, seq: u64, id: Option<u64>) {
        let id = id.map(|id| format!("g/s/{id}"));
        arrivals.enter(Stamp { sensor: 1, seq, sent_unix_us: 0 }, id.as_deref());
    }

    #[test]
    fn a_gap_is_a_loss() {
        let mut arrivals = Arrivals::default();
        for seq in [1, 2, 5] {
            arrive(&mut arrivals, seq, None);
        }
        let acknowledged = Acknowledged::parse("1 1 6\n").unwrap();
        assert_eq!(arrivals.missing(&acknowledged), (3, vec![(1, 3, 4), (1, 6, 6)]));
    }

    #[test]
    fn a_swap_is_a_disorder_and_a_repetition_is_not() {
        let mut arrivals = Arrivals::default();
        for (seq, id) in [(1, 1), (2, 2), (1, 1), (2, 2), (4, 3), (3, 4), (4, 9), (9, 2), (5, 5)] {
            arrive(&mut arrivals, seq, Some(id));
        }
        let figures = &arrivals.figures;
        assert_eq!(figures.out_of_order, 2, "3 after 4, and 5 after 9");
        assert_eq!((figures.duplicates, figures.duplicates_same_id, figures.duplicates_new_id), (3, 2, 1));
        assert_eq!(figures.id_conflicts, 1, "id 2 was message 2 and then 9");
        assert_eq!(figures.ids_out_of_order, 1, "id 5 after 9");
    }

    #[test]
    fn a_stamp_comes_back_as_it_was_written() {
        let stamp = Stamp { sensor: 7, seq: 1 << 32, sent_unix_us: 12 };
        let mut payload = [0; 40];
        stamp.write(&mut payload);
        assert_eq!(Stamp::read(&payload), Some(stamp));
        assert_eq!(Stamp::read(&payload[..23]), None);
    }
}
