//! The owners of a workload's replicas as owners of its Scale, and back.

use super::element::Element;
use super::managers::{Manager, Managers};
use super::set::Set;

/// The version of Scale.
const SCALE: &str = "autoscaling/v1";

fn replicas_of_scale() -> [Element; 2] {
    [Element::field("spec"), Element::field("replicas")]
}

fn group(api_version: &str) -> &str {
    api_version.split_once('/').map_or("", |(group, _)| group)
}

/// Whoever owns the replicas at `path` of a workload of this version's group, as an owner of the Scale's.
pub fn to_scale(parent: &Managers, api_version: &str, path: &[Element]) -> Managers {
    let owners = parent
        .0
        .iter()
        .filter(|manager| group(&manager.who.api_version) == group(api_version) && manager.fields.has(path));
    let mut fields = Set::default();
    fields.insert(&replicas_of_scale());
    let owners = owners.map(|manager| {
        let mut manager = Manager { fields: fields.clone(), ..manager.clone() };
        SCALE.clone_into(&mut manager.who.api_version);
        manager
    });
    Managers(owners.collect())
}

/// The workload's owners after those of its Scale have become `scale`. Who takes the replicas over from there has no
/// time, as upstream.
pub fn from_scale(parent: Managers, scale: Managers, api_version: &str, path: &[Element]) -> Managers {
    let mut replicas = Set::default();
    replicas.insert(path);
    // The version of an updater is a part of who it is; here all of them are of the Scale's.
    let same = |of_scale: &Manager, of_parent: &Manager| {
        let mut who = of_parent.who.clone();
        SCALE.clone_into(&mut who.api_version);
        of_scale.who.is(&who)
    };
    let mut new: Vec<Manager> = scale.0.into_iter().filter(|m| m.fields.has(&replicas_of_scale())).collect();
    let mut after = Managers::default();
    for mut manager in parent.0 {
        if group(&manager.who.api_version) != group(api_version) {
            continue;
        }
        if manager.fields.has(path) {
            match new.iter().position(|of_scale| same(of_scale, &manager)) {
                Some(kept) => drop(new.remove(kept)),
                None => manager.fields = manager.fields.difference(&replicas),
            }
        }
        if !manager.fields.is_empty() {
            after.set(manager);
        }
    }
    for mut manager in new {
        api_version.clone_into(&mut manager.who.api_version);
        manager.fields = replicas.clone();
        manager.time = after.get(&manager.who).and_then(|have| have.time);
        after.set(manager);
    }
    after
}
