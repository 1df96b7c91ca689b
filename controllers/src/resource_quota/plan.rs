//! What a quota should show, from what it allows, what it shows and what was counted. Pure.

use coracle_client::amounts::Amounts;
use coracle_client::quantity::Quantity;

/// A quota's status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Books {
    pub hard: Amounts,
    pub used: Amounts,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// None: it shows that already.
    pub write: Option<Books>,
    /// Less is used than shown, but that may be what was charged a moment ago.
    pub again: bool,
}

/// `settled`: nothing was charged for long enough that what was charged would have been counted.
pub(super) fn plan(wanted: &Amounts, shown: &Books, counted: &Amounts, settled: bool) -> Plan {
    let mut again = false;
    let mut used = Amounts::new();
    for name in wanted.keys() {
        let counted = counted.get(name).copied().unwrap_or(Quantity::ZERO);
        let amount = match shown.used.get(name) {
            Some(shown) if *shown > counted && !settled => {
                again = true;
                *shown
            }
            _ => counted,
        };
        used.insert(name.clone(), amount);
    }
    let books = Books { hard: wanted.clone(), used };
    Plan { write: Some(books).filter(|books| books != shown), again }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn amounts(list: &[(&str, i64)]) -> Amounts {
        list.iter().map(|(name, n)| ((*name).to_owned(), Quantity::from_units(*n))).collect()
    }

    #[test]
    fn more_is_shown_at_once_and_less_when_it_is_sure() {
        let books =
            |hard: &[(&str, i64)], used: &[(&str, i64)]| Books { hard: amounts(hard), used: amounts(used) };
        let wanted = amounts(&[("pods", 5), ("services", 2)]);
        let full = [("pods", 5), ("services", 2)];
        for (shown, counted, settled, write, again) in [
            // A new quota shows everything.
            (
                Books::default(),
                [("pods", 3)].as_slice(),
                false,
                Some(books(&full, &[("pods", 3), ("services", 0)])),
                false,
            ),
            // Nothing to do.
            (books(&full, &[("pods", 3), ("services", 0)]), &[("pods", 3)], true, None, false),
            // More than was charged.
            (
                books(&full, &[("pods", 1), ("services", 0)]),
                &[("pods", 3)],
                false,
                Some(books(&full, &[("pods", 3), ("services", 0)])),
                false,
            ),
            // Less: not yet, then yes.
            (books(&full, &[("pods", 4), ("services", 0)]), &[("pods", 3)], false, None, true),
            (
                books(&full, &[("pods", 4), ("services", 0)]),
                &[("pods", 3)],
                true,
                Some(books(&full, &[("pods", 3), ("services", 0)])),
                false,
            ),
            // What is no longer limited is no longer shown.
            (
                books(&[("pods", 5), ("secrets", 1)], &[("pods", 3), ("secrets", 1)]),
                &[("pods", 3)],
                false,
                Some(books(&full, &[("pods", 3), ("services", 0)])),
                false,
            ),
        ] {
            assert_eq!(plan(&wanted, &shown, &amounts(counted), settled), Plan { write, again });
        }
    }
}
