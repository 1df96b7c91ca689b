//! What a client is told beside the answer, whether what it asked for is done or refused.

use std::sync::{Arc, Mutex, PoisonError};

/// Characters of all warnings together; beyond, each is cut, and when that is not enough the rest is left out. As upstream.
const TOTAL_CHARS_MAX: usize = 4 * 1024;
const CUT_CHARS_MAX: usize = 256;

/// Collects warnings in the order in which they come up; clones collect into the same place.
#[derive(Clone, Debug, Default)]
pub struct Warnings(Arc<Mutex<Vec<String>>>);

impl Warnings {
    /// Adds those that were not there yet: what is tried anew warns anew.
    pub fn add(&self, warnings: impl IntoIterator<Item = String>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for warning in warnings {
            if !warning.is_empty() && !known.contains(&warning) {
                known.push(warning);
            }
        }
    }

    /// What goes out.
    pub fn shown(&self) -> Vec<String> {
        shortened(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn shortened(warnings: &[String]) -> Vec<String> {
    let chars = |text: &String| text.chars().count();
    if warnings.iter().map(chars).sum::<usize>() <= TOTAL_CHARS_MAX {
        return warnings.to_vec();
    }
    let mut written = 0;
    let mut shown = Vec::new();
    for warning in warnings {
        if written >= TOTAL_CHARS_MAX {
            break;
        }
        let cut: String = warning.chars().take(CUT_CHARS_MAX).collect();
        written += chars(&cut);
        shown.push(cut);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_told_once() {
        let warnings = Warnings::default();
        let same = warnings.clone();
        warnings.add(["a".to_owned(), String::new(), "b".to_owned()]);
        same.add(["b".to_owned(), "c".to_owned()]);
        assert_eq!(warnings.shown(), ["a", "b", "c"]);
    }

    #[test]
    fn many_are_cut() {
        let few: Vec<String> = (0..4).map(|i| format!("{i}{}", "x".repeat(1023))).collect();
        assert_eq!(shortened(&few), few);
        let many: Vec<String> = (0..40).map(|i| format!("{i:02}{}", "ü".repeat(300))).collect();
        let shown = shortened(&many);
        assert_eq!((shown.len(), shown.iter().all(|text| text.chars().count() == 256)), (16, true));
    }
}
