//! Files that are looked at again and again: whether they have changed, and stand still again.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// What tells that a file is another one than before.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Mark {
    /// File system, inode, length, and time of the last change.
    File([u64; 3], (i64, i64)),
    /// It is not there, or cannot be looked at.
    Nothing,
}

impl Mark {
    fn of(path: &Path) -> Self {
        fs::metadata(path).map_or(Self::Nothing, |file| {
            Self::File([file.dev(), file.ino(), file.len()], (file.ctime(), file.ctime_nsec()))
        })
    }
}

/// One look at some files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Look(Vec<(PathBuf, Mark)>);

impl Look {
    /// Looks at these now. Blocks on the file system.
    pub(super) fn at(paths: Vec<PathBuf>) -> Self {
        let mark = |path: PathBuf| {
            let mark = Mark::of(&path);
            (path, mark)
        };
        Self(paths.into_iter().map(mark).collect())
    }
}

/// Says when files have changed and stand still again.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// What was taken up; nothing at first, so that a change between the start and the first look is seen.
    taken: Look,
    last: Look,
}

impl Watch {
    pub(super) fn look(&mut self, seen: Look) -> bool {
        let stands_still = seen == self.last;
        let is_new = stands_still && seen != self.taken;
        if is_new {
            self.taken.clone_from(&seen);
        }
        self.last = seen;
        is_new
    }

    /// What was seen could not be taken up: the next look says so again, for what keeps a file from being read leaves no mark on it.
    pub(super) fn not_taken(&mut self) {
        self.taken = Look::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_taken_up_once_and_only_when_it_stands_still() {
        let look = |marks: [Mark; 2]| Look(marks.into_iter().map(|mark| (PathBuf::from("f"), mark)).collect());
        let mark = |number| look([Mark::File([1, 2, number], (0, 0)), Mark::Nothing]);
        let nothing = || look([Mark::Nothing, Mark::Nothing]);
        let mut watch = Watch::default();
        assert!(!watch.look(mark(1)));
        assert!(watch.look(mark(1)), "once after the start, for what changed before the first look");
        assert!(!watch.look(mark(1)));
        assert!(!watch.look(mark(2)));
        assert!(!watch.look(mark(3)), "somebody is writing");
        assert!(watch.look(mark(3)));
        assert!(!watch.look(mark(3)));
        assert!(!watch.look(nothing()) && watch.look(nothing()));
        watch.not_taken();
        assert!(watch.look(nothing()), "tried again, though nothing changed");
        assert!(!watch.look(nothing()));
    }
}
