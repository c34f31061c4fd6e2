//! The log (SQLite's WAL) as bytes: whether it is damaged in its middle, and what can be put together again of it.
//!
//! SQLite reads its log up to the first frame whose checksum does not fit, and takes that for the end: after a power cut it is. But
//! a block that goes bad in the middle looks the same, and everything behind it, acknowledged, would be gone without a word.
//!
//! # What proves damage
//!
//! A frame carries the page, whether it ends a transaction (*commit*), the two salts of this run of the log, and a checksum that goes on from
//! that of the frame before. So any frame can be judged by itself, from the stored checksum of its predecessor ([`Frame::fits`]). Each commit is
//! synced before the next frame is written. Therefore: **a frame that fits on a commit, behind one that fits nowhere, is damage**; when it was
//! written, everything before that commit was on the disk.
//!
//! A power cut never leaves that. What it may tear is the last transaction alone, and that has one commit, at its end: nothing follows it. What can
//! lie behind it is older: frames of an earlier run of the log, which have other salts; or of transactions that were rolled back and written over,
//! whose frames have the salts, but no frame was ever written on the commit of such a one, and what was written over them
//! carries another checksum. A header that is half old (it lies across two sectors) counts only if its frame fits. Nothing is padded with
//! second commits (SQLite takes the device for one that harms no bytes beside those it writes). The head of the log is
//! synced before its first frame is written, so frames behind a head that makes no sense are judged by the salts that they share.
//!
//! This holds for `durability = "full"` only, and for a log of which every frame was written so: see `log::UNSYNCED`. What is out of reach: damage in the last transaction, or in the commit of the last but one where that lies
//! across two sectors; it looks like a power cut.
//!
//! # What can be had again
//!
//! Frames are whole pages, and the last one of a page counts. So a bad frame whose page comes again behind it costs nothing; one
//! whose page does not is replaced by a page of zeros, which salvage walks around as around any damaged page. That needs the number
//! of the page: the header of the bad frame must be beyond doubt, which it is where the next frame fits on it. Where it is not,
//! an older state of some unknown page would be read as if it were the newest, rows of one stream in another in the worst case: then only what comes
//! before the damage is taken. Without page 1 nothing can be read at all, and what matters in it, the schema, hardly ever changes: an older state of it
//! stands in, of the log or else of the database. The log that was found is set aside whole.

use std::{
    collections::HashSet,
    fmt,
    fs::{File, OpenOptions},
    io::{self, BufWriter, ErrorKind, Write},
    ops::Range,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
};

use super::schema::PAGE_BYTES;

const HEAD_BYTES: usize = 32;
const FRAME_HEAD_BYTES: usize = 24;

/// The lowest bit of it says in which order of bytes words are summed up.
const MAGIC: u32 = 0x377f_0682;
const FORMAT: u32 = 3_007_000;

/// What a disk writes whole.
const SECTOR_BYTES: u64 = 512;

/// The page that everything is found by.
const FIRST_PAGE: u32 = 1;

/// In that page: for which state of the file its number of pages holds (SQLite file format, section 1.3.7).
const VALID_FOR: Range<usize> = 92..96;

type Sum = (u32, u32);

/// A log, without its pages.
#[derive(Debug)]
pub(super) struct Wal {
    /// Whether its head makes sense.
    has_head: bool,
    big_endian: bool,
    page_bytes: usize,
    salts: [u8; 8],
    frames: Vec<Frame>,
}

#[derive(Debug, Clone, Copy)]
struct Frame {
    page: u32,
    /// Pages of the database after the transaction that it ends; 0 where it ends none.
    commit: u32,
    salts: [u8; 8],
    /// Its checksum follows from that of the frame before.
    fits: bool,
}

/// Damage in the middle of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Damage {
    /// The first frame that is damaged, from 1 on; 0 is the head.
    frame: usize,
    frames: usize,
    /// Transactions that cannot be read for it.
    transactions: usize,
    /// The last frame that is known to belong to a whole transaction.
    end: usize,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { frame, frames, transactions, .. } = self;
        write!(f, "the log is damaged at frame {frame} of {frames}, and {transactions} commits lie behind that")
    }
}

impl Wal {
    /// Reads a log; `None` where there is none, or nothing in it. `around`: what the disk does not give is as bad as what it gives wrong.
    pub(super) fn read(path: &Path, around: bool) -> io::Result<Option<Self>> {
        let file = match File::open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let bytes = file.metadata()?.len();
        let get = |at: u64, buffer: &mut [u8]| match file.read_exact_at(buffer, at) {
            Err(_) if around => {
                buffer.fill(0);
                // The header of a frame may be on another block than what cannot be read.
                if file.read_exact_at(&mut buffer[..FRAME_HEAD_BYTES], at).is_err() {
                    buffer.fill(0);
                }
                Ok(())
            }
            read => read,
        };
        let mut head = [0; HEAD_BYTES];
        if bytes <= HEAD_BYTES as u64 {
            return Ok(None);
        }
        get(0, &mut head)?;
        let mut wal = Self::of_head(&head);
        let mut before = (word(&head, 24), word(&head, 28));
        let mut frame = vec![0; FRAME_HEAD_BYTES + wal.page_bytes];
        while wal.place(wal.frames.len() + 1) <= bytes {
            get(wal.place(wal.frames.len()), &mut frame)?;
            let salts = frame[8..16].try_into().unwrap_or_default();
            let (page, commit) = (word(&frame, 0), word(&frame, 4));
            let stored = (word(&frame, 16), word(&frame, 20));
            // What an earlier run of the log left is not looked at any closer.
            let may_fit = page > 0 && (salts == wal.salts || !wal.has_head);
            let sum = |wal: &Self| wal.sum(wal.sum(before, &frame[..8]), &frame[FRAME_HEAD_BYTES..]);
            let fits = may_fit && sum(&wal) == stored;
            before = stored;
            wal.frames.push(Frame { page, commit, salts, fits });
        }
        wal.find_salts();
        Ok(Some(wal))
    }

    fn of_head(head: &[u8; HEAD_BYTES]) -> Self {
        let usual = usize::try_from(PAGE_BYTES).unwrap_or_default();
        let (magic, page_bytes) = (word(head, 0), usize::try_from(word(head, 8)).unwrap_or_default());
        let is_sane = magic & !1 == MAGIC && page_bytes.is_power_of_two() && (512..=65_536).contains(&page_bytes);
        let mut wal = Self {
            has_head: is_sane,
            big_endian: if is_sane { magic & 1 == 1 } else { cfg!(target_endian = "big") },
            page_bytes: if is_sane { page_bytes } else { usual },
            salts: head[16..24].try_into().unwrap_or_default(),
            frames: Vec::new(),
        };
        wal.has_head = is_sane && wal.sum((0, 0), &head[..24]) == (word(head, 24), word(head, 28));
        if is_sane && !wal.has_head {
            // Any bit of it may be wrong.
            return Self { big_endian: cfg!(target_endian = "big"), page_bytes: usual, ..wal };
        }
        wal
    }

    /// Without a head: the salts of the first two frames that fit together.
    fn find_salts(&mut self) {
        let pair = |pair: &&[Frame]| pair[1].fits && pair[0].salts == pair[1].salts;
        if !self.has_head
            && let Some(pair) = self.frames.windows(2).find(pair)
        {
            self.salts = pair[0].salts;
        }
    }

    /// The checksum of SQLite (file format, section 4.2).
    fn sum(&self, from: Sum, bytes: &[u8]) -> Sum {
        let of = if self.big_endian { u32::from_be_bytes } else { u32::from_le_bytes };
        bytes.chunks_exact(8).fold(from, |(a, b), pair| {
            let a = a.wrapping_add(of([pair[0], pair[1], pair[2], pair[3]])).wrapping_add(b);
            (a, b.wrapping_add(of([pair[4], pair[5], pair[6], pair[7]])).wrapping_add(a))
        })
    }

    /// Where a frame begins. A log can be longer than 32 bits can count.
    fn place(&self, at: usize) -> u64 {
        HEAD_BYTES as u64 + at as u64 * (FRAME_HEAD_BYTES + self.page_bytes) as u64
    }

    fn is_good(&self, at: usize) -> bool {
        self.frames.get(at).is_some_and(|frame| frame.fits && frame.salts == self.salts)
    }

    /// Whether the header of a frame is as it was written: its checksum is what the next frame goes on from.
    fn has_header(&self, at: usize) -> bool {
        let is_whole = self.place(at) % SECTOR_BYTES + FRAME_HEAD_BYTES as u64 <= SECTOR_BYTES;
        self.is_good(at)
            || (is_whole && self.is_good(at + 1) && self.frames[at].salts == self.salts && self.frames[at].page > 0)
    }

    /// The damage, if what is here cannot be what a power cut left.
    pub(super) fn damage(&self) -> Option<Damage> {
        let bad = if self.has_head { (0..self.frames.len()).find(|at| !self.is_good(*at))? } else { 0 };
        let is_commit = |at: &usize| self.frames[*at].commit > 0 && self.has_header(*at);
        let proven = (bad..self.frames.len()).rev().find(|at| self.is_good(at + 1) && is_commit(at))?;
        // The last transaction counts if all of it is there.
        let whole = (proven + 1..self.frames.len()).take_while(|at| self.is_good(*at));
        let end = whole.filter(is_commit).last().unwrap_or(proven);
        Some(Damage {
            frame: if self.has_head { bad + 1 } else { 0 },
            frames: self.frames.len(),
            transactions: (bad..=end).filter(is_commit).count(),
            end,
        })
    }

    /// Writes a log that has what can be had of the damaged one at `from`, which is that of `database`. False where that cannot be said, and
    /// nothing is written.
    pub(super) fn repair(&self, damage: Damage, database: &Path, from: &Path, to: &Path) -> io::Result<bool> {
        let Some(plan) = self.plan(damage) else { return Ok(false) };
        let from = File::open(from)?;
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(to)?;
        let mut to = BufWriter::new(file);
        let mut head = Vec::with_capacity(HEAD_BYTES);
        for number in [MAGIC | u32::from(self.big_endian), FORMAT, u32::try_from(self.page_bytes).unwrap_or(0), 0] {
            head.extend_from_slice(&number.to_be_bytes());
        }
        head.extend_from_slice(&self.salts);
        let mut sum = self.sum((0, 0), &head);
        put(&mut head, sum);
        to.write_all(&head)?;
        let mut frame = vec![0; FRAME_HEAD_BYTES + self.page_bytes];
        for (at, keep) in plan.into_iter().enumerate() {
            match keep {
                Keep::No => continue,
                Keep::Page => from.read_exact_at(&mut frame, self.place(at))?,
                Keep::Place => {
                    frame.fill(0);
                    if self.frames[at].page == FIRST_PAGE {
                        self.older_first_page(at, database, &from, &mut frame[FRAME_HEAD_BYTES..])?;
                    }
                    let Frame { page, commit, salts, .. } = self.frames[at];
                    frame[..4].copy_from_slice(&page.to_be_bytes());
                    frame[4..8].copy_from_slice(&commit.to_be_bytes());
                    frame[8..16].copy_from_slice(&salts);
                }
            }
            sum = self.sum(self.sum(sum, &frame[..8]), &frame[FRAME_HEAD_BYTES..]);
            let mut header = frame[..16].to_vec();
            put(&mut header, sum);
            to.write_all(&header)?;
            to.write_all(&frame[FRAME_HEAD_BYTES..])?;
        }
        to.flush()?;
        Ok(true)
    }

    /// Page 1 as it was before this frame.
    fn older_first_page(&self, at: usize, database: &Path, log: &File, page: &mut [u8]) -> io::Result<()> {
        match (0..at).rev().find(|at| self.frames[*at].page == FIRST_PAGE && self.is_good(*at)) {
            Some(older) => log.read_exact_at(page, self.place(older) + FRAME_HEAD_BYTES as u64)?,
            None => File::open(database)?.read_exact_at(page, 0)?,
        }
        // Unlike the change counter: the number of pages is then that of the commit, not the one of then.
        page[VALID_FOR].fill(0xFF);
        Ok(())
    }

    /// What becomes of each frame up to the end of the damage; `None` where a page cannot be named.
    fn plan(&self, damage: Damage) -> Option<Vec<Keep>> {
        let mut seen = HashSet::new();
        let mut plan = Vec::with_capacity(damage.end + 1);
        for at in (0..=damage.end).rev() {
            if !self.has_header(at) {
                return None;
            }
            let is_newest = seen.insert(self.frames[at].page);
            plan.push(match (self.is_good(at), is_newest) {
                (true, _) => Keep::Page,
                (false, true) => Keep::Place,
                (false, false) => Keep::No,
            });
        }
        plan.reverse();
        Some(plan)
    }
}

/// What becomes of a frame.
#[derive(Debug, Clone, Copy)]
enum Keep {
    Page,
    /// It was here, and nobody knows what was in it.
    Place,
    /// The same page comes again.
    No,
}

fn put(to: &mut Vec<u8>, (a, b): Sum) {
    to.extend_from_slice(&a.to_be_bytes());
    to.extend_from_slice(&b.to_be_bytes());
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].try_into().map_or(0, u32::from_be_bytes)
}
