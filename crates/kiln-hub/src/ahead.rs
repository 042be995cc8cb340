//! Which files of a data set are needed next, from what a training says and from what it opens.

use std::collections::{BTreeSet, VecDeque};

/// How many files are fetched ahead, at most. More would be of no use to a training that ends soon.
pub(crate) const AHEAD: usize = 4;

/// The needs of a training, by the numbers of files.
#[derive(Debug, Default)]
pub(crate) struct Needs {
    /// What it said that it will open, the next one first.
    told: VecDeque<usize>,
    /// What it opened although it had not said so, such as the images to measure on. It may do so again.
    others: BTreeSet<usize>,
    /// The last of these.
    last_other: Option<usize>,
    /// The file after two that were opened one after the other: a reader that goes through the set in order opens it next.
    after: Option<usize>,
    /// Files that could not be fetched ahead. They are not tried again until something changes.
    left: BTreeSet<usize>,
}

impl Needs {
    /// Notes what will be opened, instead of what was said before.
    pub(crate) fn expect(&mut self, files: impl IntoIterator<Item = usize>) {
        self.told = files.into_iter().collect();
        self.left.clear();
    }

    /// Notes that a file, of so many, is opened.
    pub(crate) fn open(&mut self, file: usize, files: usize) {
        self.left.clear();
        self.after = None;
        if let Some(place) = self.told.iter().position(|told| *told == file) {
            self.told.remove(place);
            return;
        }
        let goes_on = file
            .checked_sub(1)
            .is_some_and(|before| self.last_other == Some(before));
        self.after = Some(file + 1).filter(|next| goes_on && *next < files);
        self.others.insert(file);
        self.last_other = Some(file);
    }

    /// Notes that a file cannot be fetched ahead now.
    pub(crate) fn leave(&mut self, file: usize) {
        self.left.insert(file);
    }

    /// How soon a file is needed: the next one has the least number. `None` if it is not known to be.
    pub(crate) fn of(&self, file: usize) -> Option<usize> {
        if self.after == Some(file) {
            return Some(0);
        }
        let told = self.told.iter().position(|told| *told == file);
        let told = told.map(|place| place + 1);
        // More than what is fetched ahead, and less than what was: a round ends sooner than a pass.
        let other = self.others.contains(&file).then_some(AHEAD + 1);
        told.into_iter().chain(other).min()
    }

    /// The next file to fetch ahead, which is not `here`.
    pub(crate) fn next(&self, here: impl Fn(usize) -> bool) -> Option<usize> {
        let soon = self.told.iter().take(AHEAD).copied();
        let mut soon = self.after.into_iter().chain(soon);
        soon.find(|file| !self.left.contains(file) && !here(*file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_is_needed_in_its_order() {
        let mut needs = Needs::default();
        needs.expect([5, 3, 8, 1, 9, 5]);
        assert_eq!(needs.next(|_| false), Some(5));
        assert_eq!(needs.next(|file| file != 1), Some(1));
        assert_eq!(needs.next(|file| file != 9), None, "that is too far ahead");
        assert!(needs.of(5) < needs.of(3) && needs.of(7).is_none());
        needs.open(5, 10);
        assert_eq!(needs.next(|_| false), Some(3));
        assert!(needs.of(5) > needs.of(9), "it is needed again later");
        needs.leave(3);
        assert_eq!(needs.next(|_| false), Some(8));
        needs.open(8, 10);
        assert_eq!(needs.next(|_| false), Some(3), "there may be room now");
    }

    #[test]
    fn what_is_opened_unsaid_stays_before_what_is_far_ahead() {
        let mut needs = Needs::default();
        needs.expect([0, 1, 2, 3, 4, 5, 6]);
        needs.open(9, 10);
        assert!(needs.of(9) > needs.of(3) && needs.of(9) < needs.of(6));
        assert_eq!(needs.next(|_| false), Some(0));
    }

    #[test]
    fn a_reader_that_goes_from_file_to_file_gets_the_next_one() {
        let mut needs = Needs::default();
        needs.open(0, 3);
        assert_eq!(needs.next(|_| false), None);
        needs.open(1, 3);
        assert_eq!((needs.next(|_| false), needs.of(2)), (Some(2), Some(0)));
        needs.open(2, 3);
        assert_eq!(needs.next(|_| false), None);
    }
}
