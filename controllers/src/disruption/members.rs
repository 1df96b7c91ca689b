//! Which pods each disruption budget counts, kept up as pods and budgets change: a change of one pod costs a look at its
//! namespace's budgets, never at other pods.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use coracle_client::selector::Selector;
use coracle_client::{Change, Informer, Key, Object, Owner, Uid};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use parking_lot::Mutex;

use crate::pods::Pod;

/// What counts of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub uid: Uid,
    pub ready: bool,
    pub deleting: bool,
    pub controller: Option<Owner>,
}

impl Member {
    fn of(pod: &Arc<Object>) -> Self {
        Self {
            uid: pod.head.uid.clone(),
            ready: Pod::parse(pod).is_ok_and(|pod| pod.ready()),
            deleting: pod.head.deleting,
            controller: pod.head.controller().cloned(),
        }
    }
}

struct Budget {
    selector: Selector,
    members: BTreeMap<Arc<str>, Member>,
}

/// The budgets of a namespace, by name.
type Budgets = BTreeMap<Arc<str>, Budget>;

/// By namespace. Cheap to clone.
#[derive(Clone, Default)]
pub struct Members {
    namespaces: Arc<Mutex<HashMap<Arc<str>, Budgets>>>,
}

impl Members {
    /// A budget is new or changed; `pods` says who is there.
    pub fn budget(&self, change: &Change, pods: &Informer) {
        let key = change.key();
        let mut namespaces = self.namespaces.lock();
        let budgets = namespaces.entry(key.namespace.clone()).or_default();
        let Some(object) = &change.new else {
            budgets.remove(&key.name);
            if budgets.is_empty() {
                namespaces.remove(&key.namespace);
            }
            return;
        };
        let selector = selector(object);
        if budgets.get(&key.name).is_some_and(|budget| budget.selector == selector) {
            return;
        }
        let matching = pods.select(&key.namespace, &selector);
        let members = matching.iter().map(|pod| (pod.head.name.clone(), Member::of(pod))).collect();
        budgets.insert(key.name, Budget { selector, members });
    }

    /// A pod has changed: the budgets for which that makes a difference.
    pub fn pod(&self, change: &Change) -> Vec<Key> {
        let head = &change.object().head;
        let mut namespaces = self.namespaces.lock();
        let Some(budgets) = namespaces.get_mut(&head.namespace) else { return Vec::new() };
        let mut member = None;
        let mut changed = Vec::new();
        for (name, budget) in budgets {
            let next = change.new.as_ref().filter(|pod| budget.selector.matches(&pod.head));
            let different = match next {
                Some(pod) => {
                    let member = member.get_or_insert_with(|| Member::of(pod)).clone();
                    budget.members.insert(head.name.clone(), member.clone()).as_ref() != Some(&member)
                }
                None => budget.members.remove(&head.name).is_some(),
            };
            if different {
                changed.push(Key { namespace: head.namespace.clone(), name: name.clone() });
            }
        }
        changed
    }

    pub fn of(&self, budget: &Key) -> BTreeMap<Arc<str>, Member> {
        let namespaces = self.namespaces.lock();
        let found = namespaces.get(&budget.namespace).and_then(|budgets| budgets.get(&budget.name));
        found.map(|budget| budget.members.clone()).unwrap_or_default()
    }
}

/// One that does not parse selects nothing.
fn selector(budget: &Object) -> Selector {
    let budget: Option<PodDisruptionBudget> = budget.decode().ok();
    let wanted = budget.and_then(|budget| budget.spec).and_then(|spec| spec.selector);
    Selector::from_label_selector(wanted.as_ref()).unwrap_or_else(|_| Selector::nothing())
}
