//! Sets of completion indexes, as a job's status writes them: `0-3,5,7`.

use std::fmt;

/// Ranges with both ends in, in order, with gaps between them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Indexes(Vec<(u32, u32)>);

impl Indexes {
    /// Indexes from `completions` on are left out, and what does not parse: the API has looked at it.
    pub fn parse(text: &str, completions: u32) -> Self {
        let mut ranges = Vec::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (Ok(first), Ok(last)) = (first.parse::<u32>(), last.parse::<u32>()) else { continue };
            if first < completions && first <= last {
                ranges.push((first, last.min(completions - 1)));
            }
        }
        Self::of_ranges(ranges)
    }

    fn of_ranges(mut ranges: Vec<(u32, u32)>) -> Self {
        ranges.sort_unstable();
        let mut joined: Vec<(u32, u32)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match joined.last_mut() {
                Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
                _ => joined.push((first, last)),
            }
        }
        Self(joined)
    }

    #[must_use]
    pub fn with(&self, more: impl IntoIterator<Item = u32>) -> Self {
        let mut ranges = self.0.clone();
        ranges.extend(more.into_iter().map(|index| (index, index)));
        Self::of_ranges(ranges)
    }

    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self::of_ranges(self.0.iter().chain(&other.0).copied().collect())
    }

    pub fn has(&self, index: u32) -> bool {
        let at = self.0.partition_point(|(_, last)| *last < index);
        self.0.get(at).is_some_and(|(first, _)| *first <= index)
    }

    pub fn total(&self) -> i32 {
        let total: u64 = self.0.iter().map(|(first, last)| u64::from(last - first) + 1).sum();
        i32::try_from(total).unwrap_or(i32::MAX)
    }

    /// How many are in both.
    pub fn common(&self, other: &Self) -> i32 {
        let (mut mine, mut others) = (self.0.iter().peekable(), other.0.iter().peekable());
        let mut total = 0u64;
        while let (Some(a), Some(b)) = (mine.peek(), others.peek()) {
            let (first, last) = (a.0.max(b.0), a.1.min(b.1));
            if first <= last {
                total += u64::from(last - first) + 1;
            }
            if a.1 < b.1 {
                mine.next();
            } else {
                others.next();
            }
        }
        i32::try_from(total).unwrap_or(i32::MAX)
    }

    /// The first `count` indexes below `completions` that are not in the set.
    pub fn missing(&self, count: usize, completions: u32) -> Vec<u32> {
        let mut found = Vec::new();
        let mut next = 0;
        for (first, last) in self.0.iter().copied().chain([(completions, completions)]) {
            let end = first.min(completions);
            found.extend((next..end).take(count.saturating_sub(found.len())));
            next = last.saturating_add(1);
        }
        found
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (first, last)) in self.0.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            write!(f, "{comma}{first}")?;
            match last - first {
                0 => {}
                1 => write!(f, ",{last}")?,
                _ => write!(f, "-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_read_and_written() {
        for (text, completions, shown, total) in [
            ("", 10, "", 0),
            ("0", 10, "0", 1),
            ("0,1", 10, "0,1", 2),
            ("0-1", 10, "0,1", 2),
            ("0-2,3,5", 10, "0-3,5", 5),
            ("0-20", 3, "0-2", 3),
            ("5,7-9", 6, "5", 1),
            ("7-9", 6, "", 0),
            ("9-7", 20, "", 0),
            ("a,1-b,2", 10, "2", 1),
            ("4,1-3", 10, "1-4", 4),
        ] {
            let set = Indexes::parse(text, completions);
            assert_eq!((set.to_string().as_str(), set.total()), (shown, total), "{text}");
        }
    }

    #[test]
    fn sets_grow_and_meet() {
        let set = Indexes::parse("1-3,7", 10);
        for (index, has) in [(0, false), (1, true), (2, true), (3, true), (4, false), (7, true), (8, false)] {
            assert_eq!(set.has(index), has, "{index}");
        }
        assert_eq!(set.with([0, 4, 9]).to_string(), "0-4,7,9");
        assert_eq!(set.with([]).to_string(), "1-3,7");
        assert_eq!(set.and(&Indexes::parse("4-6", 10)).to_string(), "1-7");
        for (other, common) in [("", 0), ("1-3", 3), ("0,2,7-9", 2), ("4-6", 0), ("0-9", 4)] {
            assert_eq!(set.common(&Indexes::parse(other, 10)), common, "{other}");
        }
    }

    #[test]
    fn the_first_missing_are_found() {
        for (text, count, completions, want) in [
            ("", 2, 5, vec![0, 1]),
            ("0-1", 9, 5, vec![2, 3, 4]),
            ("1,3", 2, 5, vec![0, 2]),
            ("1,3", 9, 5, vec![0, 2, 4]),
            ("0-4", 3, 5, vec![]),
            ("0-9", 3, 5, vec![]),
            ("", 0, 5, vec![]),
        ] {
            assert_eq!(Indexes::parse(text, 100).missing(count, completions), want, "{text}");
        }
    }
}
