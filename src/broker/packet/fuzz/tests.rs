//! The corpus of the fuzzer through its judge, and random changes to it.

use std::{fs, path::Path};

use proptest::prelude::*;

use super::*;

/// Everything the fuzzer found worth keeping: one input a line, in hexadecimal digits.
fn corpus() -> Vec<Vec<u8>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus/packets.hex");
    let text = fs::read_to_string(path).unwrap();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    text.lines().map(|line| line.as_bytes().chunks(2).map(byte).collect()).collect()
}

#[test]
fn every_input_of_the_corpus_is_judged_well() {
    let corpus = corpus();
    assert!(corpus.len() > 100, "{} inputs", corpus.len());
    for input in corpus {
        decode(&input);
        check(&input);
    }
}

#[test]
fn the_corpus_takes_every_packet_in_both_versions() {
    let mut seen = std::collections::BTreeSet::new();
    for data in corpus() {
        let Some(input) = Input::new(&data) else { continue };
        let (mut stream, mut outcome) = (Stream::new(&input), Outcome::default());
        stream.buffer = BytesMut::from(input.stream);
        stream.drain(&mut outcome);
        if let Some(connect) = &outcome.connect {
            seen.insert(format!("{:?} Connect", connect.version));
        }
        let version = stream.decoder.map(|decoder| decoder.version());
        for packet in &outcome.packets {
            let name: String = format!("{packet:?}").chars().take_while(|c| c.is_alphanumeric()).collect();
            seen.insert(format!("{:?} {name}", version.unwrap()));
        }
    }
    // Both have the same ten, and MQTT 5 has AUTH as well.
    assert_eq!(seen.len(), 21, "{seen:#?}");
}

/// How one input becomes another.
#[derive(Debug, Clone)]
enum Change {
    Put(prop::sample::Index, u8),
    Insert(prop::sample::Index, Vec<u8>),
    Remove(prop::sample::Index, usize),
    /// What another input has, from there on.
    Cross(prop::sample::Index, prop::sample::Index),
}

fn any_change() -> impl Strategy<Value = Change> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        (index(), any::<u8>()).prop_map(|(at, byte)| Change::Put(at, byte)),
        (index(), proptest::collection::vec(any::<u8>(), 1..5)).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        (index(), 1..5usize).prop_map(|(at, count)| Change::Remove(at, count)),
        (index(), index()).prop_map(|(at, other)| Change::Cross(at, other)),
    ]
}

impl Change {
    fn make(self, data: &mut Vec<u8>, corpus: &[Vec<u8>]) {
        let place = |at: prop::sample::Index, len: usize| at.index(len + 1);
        match self {
            Self::Put(at, byte) if !data.is_empty() => {
                let at = at.index(data.len());
                data[at] = byte;
            }
            Self::Put(..) => {}
            Self::Insert(at, bytes) => {
                let at = place(at, data.len());
                data.splice(at..at, bytes);
            }
            Self::Remove(at, count) => {
                let at = place(at, data.len());
                data.drain(at..(at + count).min(data.len()));
            }
            Self::Cross(at, other) => {
                let other = other.get(corpus);
                data.truncate(place(at, data.len()));
                data.extend(&other[other.len() / 2..]);
            }
        }
    }
}

#[test]
fn no_change_to_the_corpus_is_judged_badly() {
    let corpus = corpus();
    let config = ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() };
    let changed = (any::<prop::sample::Index>(), proptest::collection::vec(any_change(), 1..6));
    proptest!(config, |((from, changes) in changed)| {
        let mut data = from.get(&corpus).clone();
        for change in changes {
            change.make(&mut data, &corpus);
        }
        check(&data);
    });
}
