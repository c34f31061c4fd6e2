//! The socket and its buffers.

use std::{io, time::Instant};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite};

use super::Ending;
use crate::broker::{
    limits::{READ_MAX, READ_MIN, WRITE_STALL},
    packet::peek,
};

/// The socket and its buffers.
pub(super) struct Wire {
    pub(super) reader: Box<dyn AsyncRead + Send + Unpin>,
    pub(super) writer: Box<dyn AsyncWrite + Send + Unpin>,
    pub(super) input: BytesMut,
    pub(super) output: BytesMut,
    /// Size of the next read; follows what the client sends.
    pub(super) read_size: usize,
    /// The client will send no more.
    pub(super) ended: bool,
    /// When the client was last heard.
    pub(super) heard: Instant,
    /// Since when the client has taken nothing of what waits for it, as far as the timer has seen.
    stalled: Option<Instant>,
    /// Bytes of the input in which no PINGREQ is left; ends between two packets.
    searched: usize,
    /// Bytes of the output whose packets are counted.
    counted: usize,
}

/// The whole packet.
const PINGREQ: [u8; 2] = [0xC0, 0];

impl Wire {
    pub(super) fn new(reader: Box<dyn AsyncRead + Send + Unpin>, writer: Box<dyn AsyncWrite + Send + Unpin>) -> Self {
        let now = Instant::now();
        Self {
            reader,
            writer,
            input: BytesMut::new(),
            output: BytesMut::new(),
            read_size: READ_MIN,
            ended: false,
            heard: now,
            stalled: None,
            searched: 0,
            counted: 0,
        }
    }

    /// Whether something waits to be written and nothing of it was taken for [`WRITE_STALL`]. The time before it waited
    /// does not count.
    pub(super) fn is_stalled(&mut self, now: Instant) -> bool {
        if self.output.is_empty() {
            self.stalled = None;
            return false;
        }
        now.duration_since(*self.stalled.get_or_insert(now)) >= WRITE_STALL
    }

    pub(super) fn make_room(&mut self) {
        if self.input.capacity() - self.input.len() < self.read_size / 2 {
            self.input.reserve(self.read_size);
        }
    }

    /// Something was read; gives the number of bytes.
    pub(super) fn was_read(&mut self, read: io::Result<usize>) -> Result<u64, Ending> {
        match read {
            Ok(0) => self.ended = true,
            Ok(count) => {
                self.heard = Instant::now();
                if self.input.len() == self.input.capacity() {
                    self.read_size = (self.read_size * 2).min(READ_MAX);
                } else if count < self.read_size / 8 {
                    // After a silence it is smaller, and a ping is no reason to change that.
                    self.read_size = (self.read_size / 2).max(READ_MIN.min(self.read_size));
                }
                return Ok(count as u64);
            }
            Err(error) => return Err(Ending::Lost(Some(error))),
        }
        Ok(0)
    }

    /// Something was written; gives the number of bytes.
    pub(super) fn was_written(&mut self, written: io::Result<usize>) -> Result<u64, Ending> {
        match written {
            Ok(0) => Err(Ending::Lost(None)),
            Ok(count) => {
                self.stalled = None;
                self.counted = self.counted.saturating_sub(count);
                Ok(count as u64)
            }
            Err(error) => Err(Ending::Lost(Some(error))),
        }
    }

    /// A packet was taken off the input, which had `before` bytes.
    pub(super) fn was_decoded(&mut self, before: usize) {
        self.searched = self.searched.saturating_sub(before - self.input.len());
    }

    /// The number of packets that came to the output since it was asked last. Every packet in there is whole.
    ///
    /// Counted here and not where they are made, so that none is forgotten; a look at a fixed header costs less than an
    /// atomic counter.
    pub(super) fn new_packets(&mut self) -> u64 {
        let mut packets = 0;
        while let Ok(Some(frame)) = peek(&self.output[self.counted..], u32::MAX, false) {
            self.counted += frame.total;
            packets += 1;
        }
        packets
    }

    /// Takes the PINGREQs out of an input that is left alone otherwise, and says how many there were.
    pub(super) fn take_pings(&mut self) -> usize {
        let mut pings = 0;
        // What is wrong in there is for the decoder to say, when it gets there.
        while let Ok(Some(frame)) = peek(&self.input[self.searched..], u32::MAX, false) {
            let end = self.searched + frame.total;
            if end > self.input.len() {
                break;
            }
            if self.input[self.searched..end] == PINGREQ {
                self.input.copy_within(end.., self.searched);
                self.input.truncate(self.input.len() - PINGREQ.len());
                pings += 1;
            } else {
                self.searched = end;
            }
        }
        pings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_time_in_which_something_waits_to_be_written_counts_as_a_stall() {
        let mut wire = Wire::new(Box::new(tokio::io::empty()), Box::new(tokio::io::sink()));
        let start = Instant::now();
        assert!(!wire.is_stalled(start));
        wire.output.extend_from_slice(b"x");
        let later = start + 10 * WRITE_STALL;
        assert!(!wire.is_stalled(later), "it has waited for a moment only");
        assert!(!wire.is_stalled(later + WRITE_STALL / 2));
        assert!(wire.is_stalled(later + WRITE_STALL));
        wire.output.clear();
        assert!(!wire.is_stalled(later + WRITE_STALL));
    }

    #[test]
    fn pings_are_found_behind_packets_that_wait_and_everything_else_stays() {
        let mut wire = Wire::new(Box::new(tokio::io::empty()), Box::new(tokio::io::sink()));
        let publish = [0x30, 5, 0, 1, b't', 0xC0, 0];
        let parts: [&[u8]; 7] = [&publish, &PINGREQ, &publish, &PINGREQ, &PINGREQ, &publish, &[0xC0]];
        wire.input.extend_from_slice(&parts.concat());
        assert_eq!(wire.take_pings(), 3);
        assert_eq!(wire.input[..], [&publish[..], &publish, &publish, &[0xC0]].concat());
        assert_eq!(wire.take_pings(), 0);
        wire.input.extend_from_slice(&[0]);
        let before = wire.input.len();
        let _ = wire.input.split_to(publish.len());
        wire.was_decoded(before);
        assert_eq!(wire.take_pings(), 1);
        assert_eq!(wire.input[..], [publish, publish].concat());
    }

    #[test]
    fn every_packet_of_the_output_is_counted_once_however_it_is_written() {
        let mut wire = Wire::new(Box::new(tokio::io::empty()), Box::new(tokio::io::sink()));
        wire.output.extend_from_slice(&[0xD0, 0, 0x40, 2, 0, 1]);
        assert_eq!((wire.new_packets(), wire.new_packets()), (2, 0));
        let _ = wire.output.split_to(3);
        assert_eq!(wire.was_written(Ok(3)).unwrap(), 3);
        wire.output.extend_from_slice(&[0xD0, 0]);
        assert_eq!((wire.new_packets(), wire.new_packets()), (1, 0));
    }
}
