//! An upstream that is never the limit: takes QoS 1 messages from one client as fast as they come, and counts them.
//!
//! No broker: it keeps nothing and gives nothing to anybody. For measuring what a gateway can send, where a broker as the
//! upstream would be what is measured.

use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use serde::Serialize;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use crate::wire;

const CONNECT: u8 = 1;
const SUBSCRIBE: u8 = 8;
const PINGREQ: u8 = 12;
const PINGRESP: u8 = 13;
const READ_BYTES: usize = 256 << 10;

/// What the sink took.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    taken: u64,
    elapsed_s: f64,
    per_s: f64,
}

/// Takes `count` messages on `listen`; the time runs from the first to the last.
pub(crate) async fn run(listen: SocketAddr, count: u64) -> io::Result<Report> {
    let listener = TcpListener::bind(listen).await?;
    let mut sink = Sink { count, taken: 0, began: None, mqtt5: false };
    while sink.taken < count {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        sink.serve(stream).await?;
    }
    let elapsed = sink.began.map_or(Duration::ZERO, |began| began.elapsed()).as_secs_f64();
    #[allow(clippy::cast_precision_loss, reason = "a rate for people")]
    let per_s = sink.taken as f64 / elapsed;
    Ok(Report { taken: sink.taken, elapsed_s: elapsed, per_s })
}

struct Sink {
    count: u64,
    taken: u64,
    began: Option<Instant>,
    mqtt5: bool,
}

impl Sink {
    /// One connection, until it ends or everything is there.
    async fn serve(&mut self, mut stream: TcpStream) -> io::Result<()> {
        let mut input = vec![0; READ_BYTES];
        let (mut filled, mut output) = (0, Vec::new());
        while self.taken < self.count {
            let got = stream.read(&mut input[filled..]).await?;
            if got == 0 {
                return Ok(());
            }
            filled += got;
            let mut at = 0;
            while let Some(frame) = wire::frame(&input[at..filled])? {
                at += frame.len;
                self.answer(frame, &mut output)?;
            }
            input.copy_within(at..filled, 0);
            filled -= at;
            stream.write_all(&output).await?;
            output.clear();
        }
        Ok(())
    }

    fn answer(&mut self, frame: wire::Frame<'_>, output: &mut Vec<u8>) -> io::Result<()> {
        match frame.kind() {
            CONNECT => {
                // The protocol level stands behind the six bytes of the protocol name.
                self.mqtt5 = frame.body.get(6) == Some(&5);
                output.extend_from_slice(if self.mqtt5 { &[0x20, 3, 0, 0, 0] } else { &[0x20, 2, 0, 0] });
            }
            wire::PUBLISH => {
                let version = if self.mqtt5 { wire::Version::V5 } else { wire::Version::V311 };
                let publish = wire::publish(frame, version)?;
                if publish.qos == 1 {
                    wire::put_acknowledgement(output, wire::PUBACK, publish.packet_id);
                }
                self.began.get_or_insert_with(Instant::now);
                self.taken += 1;
            }
            SUBSCRIBE => {
                let id = frame.body.get(..2).unwrap_or(&[0, 0]);
                output.extend_from_slice(if self.mqtt5 { &[0x90, 4] } else { &[0x90, 3] });
                output.extend_from_slice(id);
                output.extend_from_slice(if self.mqtt5 { &[0, 1] } else { &[1] });
            }
            PINGREQ => output.extend_from_slice(&[PINGRESP << 4, 0]),
            _ => {}
        }
        Ok(())
    }
}
