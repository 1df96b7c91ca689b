//! A table of facts about types, as text: a line for each type, in the order of their names.

use std::sync::OnceLock;

/// Text whose lines begin with a name and a space, sorted by it; looked up without copies.
pub struct Lines {
    text: &'static str,
    index: OnceLock<Vec<&'static str>>,
}

impl Lines {
    pub const fn new(text: &'static str) -> Self {
        Self { text, index: OnceLock::new() }
    }

    /// The rest of the line that begins with `name`.
    pub fn find(&self, name: &str) -> Option<&'static str> {
        let lines = self.index.get_or_init(|| self.text.lines().collect());
        let split = |line: &'static str| line.split_once(' ').unwrap_or((line, ""));
        let at = lines.binary_search_by(|line| split(line).0.cmp(name)).ok()?;
        lines.get(at).map(|line| split(line).1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_whole() {
        static LINES: Lines = Lines::new("a.Pod x\na.PodList y z\na.b");
        for (name, want) in [
            ("a.Pod", Some("x")),
            ("a.PodList", Some("y z")),
            ("a.b", Some("")),
            ("a.Po", None),
            ("a.c", None),
        ] {
            assert_eq!(LINES.find(name), want, "{name}");
        }
    }
}
