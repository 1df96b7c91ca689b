//! Decides what becomes of an object, from the state of its owners and dependents.

use coracle_client::{Owner, Propagation, Uid};

pub const ORPHAN: &str = "orphan";
pub const FOREGROUND: &str = "foregroundDeletion";

/// How an owner stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is there, so what it owns stays.
    Solid,
    /// It does not exist.
    Absent,
    /// It is there, but only until its dependents are gone.
    Waiting,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Nothing,
    /// Take the references to these owners away.
    Disown(Vec<Uid>),
    /// Take the references' hold on their owners away, then delete in the foreground: a cycle would wait forever.
    Unblock,
    Delete(Propagation),
}

/// The object as seen by the decision.
pub struct Item<'a> {
    pub owners: &'a [(Owner, Standing)],
    pub finalizers: &'a [String],
    pub has_dependents: bool,
    /// Some dependent is itself waiting for its dependents.
    pub dependent_waits: bool,
}

pub fn plan(item: &Item<'_>) -> Action {
    let with = |standing: Standing| {
        item.owners.iter().filter(move |(_, s)| *s == standing).map(|(owner, _)| owner.uid.clone())
    };
    if item.owners.is_empty() {
        return Action::Nothing;
    }
    if with(Standing::Solid).next().is_some() {
        let stale: Vec<Uid> = with(Standing::Absent).chain(with(Standing::Waiting)).collect();
        return if stale.is_empty() { Action::Nothing } else { Action::Disown(stale) };
    }
    if with(Standing::Waiting).next().is_some() && item.has_dependents {
        // The owner waits for this one, so this one waits for its own.
        return if item.dependent_waits { Action::Unblock } else { Action::Delete(Propagation::Foreground) };
    }
    let has = |name: &str| item.finalizers.iter().any(|f| f == name);
    Action::Delete(match () {
        () if has(ORPHAN) => Propagation::Orphan,
        () if has(FOREGROUND) => Propagation::Foreground,
        () => Propagation::Background,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_becomes_of_objects() {
        use Standing::{Absent, Solid, Waiting};
        let background = Action::Delete(Propagation::Background);
        for (owners, finalizers, dependents, waits, want) in [
            (vec![], vec![], false, false, Action::Nothing),
            (vec![Solid], vec![], true, false, Action::Nothing),
            (vec![Solid, Absent], vec![], true, false, Action::Disown(vec!["1".into()])),
            (
                vec![Absent, Solid, Waiting],
                vec![],
                false,
                false,
                Action::Disown(vec!["0".into(), "2".into()]),
            ),
            (vec![Absent], vec![], true, false, background.clone()),
            (vec![Absent, Waiting], vec![], false, false, background.clone()),
            (vec![Absent], vec![ORPHAN], true, false, Action::Delete(Propagation::Orphan)),
            (vec![Absent], vec![FOREGROUND], true, false, Action::Delete(Propagation::Foreground)),
            (vec![Absent], vec!["a/b"], true, false, background.clone()),
            (vec![Waiting], vec![], true, false, Action::Delete(Propagation::Foreground)),
            (vec![Waiting], vec![], true, true, Action::Unblock),
            (vec![Waiting], vec![], false, false, background),
        ] {
            let owners: Vec<(Owner, Standing)> = owners
                .into_iter()
                .enumerate()
                .map(|(i, s)| (Owner { uid: i.to_string().into(), ..Owner::default() }, s))
                .collect();
            let finalizers: Vec<String> = finalizers.into_iter().map(str::to_owned).collect();
            let item = Item {
                owners: &owners,
                finalizers: &finalizers,
                has_dependents: dependents,
                dependent_waits: waits,
            };
            assert_eq!(plan(&item), want, "{owners:?} {finalizers:?} {dependents} {waits}");
        }
    }
}
