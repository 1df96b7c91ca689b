//! Which controlling object a change of a pod concerns: its owner, the one it had, or those that may adopt it.

use std::sync::Arc;

use coracle_client::selector::Selector;
use coracle_client::{Change, Informer, Key, Object, WorkQueue};

use crate::expectations::Expectations;

/// The objects of one kind that control pods.
#[derive(Clone)]
pub struct Owners {
    pub informer: Informer,
    /// None: it selects nothing, or everything, and adopts no pod.
    pub selector: fn(&Object) -> Option<Selector>,
}

impl Owners {
    /// The object that controls the pod, if the informer has the very one.
    fn of(&self, pod: &Object) -> Option<Key> {
        let resource = self.informer.resource();
        let owner = pod.head.controller()?;
        if *owner.kind != *resource.kind() || *owner.api_version != *resource.api_version() {
            return None;
        }
        let object = self.informer.get(&pod.head.namespace, &owner.name)?;
        (object.head.uid == owner.uid).then(|| object.key())
    }
}

/// Puts on the queue whom a pod's change concerns, and strikes what it fulfils off the expectations.
pub fn follow(pods: &Informer, owners: Owners, queue: &WorkQueue<Key>, expectations: Arc<Expectations>) {
    let queue = queue.clone();
    pods.on_change(move |change: &Change| {
        let pod = change.object();
        if let Some(key) = owners.of(pod) {
            if change.old.is_none() && change.new.is_some() {
                expectations.created(&key);
            }
            if change.new.is_none() || pod.head.deleting {
                expectations.deleted(&key, &pod.head.uid);
            }
            queue.add(key);
        } else if change.new.is_some() && !pod.head.deleting && pod.head.controller().is_none() {
            // An orphan whose labels just changed, or that is new: someone may want to adopt it.
            let same_labels = change
                .old
                .as_ref()
                .is_some_and(|o| o.head.labels == pod.head.labels && o.head.controller().is_none());
            if !same_labels {
                for object in owners.informer.list_namespace(&pod.head.namespace) {
                    if (owners.selector)(&object).is_some_and(|selector| selector.matches(&pod.head)) {
                        queue.add(object.key());
                    }
                }
            }
        }
        if let (Some(old), Some(new)) = (&change.old, &change.new)
            && old.head.controller() != new.head.controller()
            && let Some(key) = owners.of(old)
        {
            queue.add(key);
        }
    });
}

/// Puts the controlling objects themselves on the queue; what was expected of one that is gone is forgotten.
pub fn follow_owners(owners: &Informer, queue: &WorkQueue<Key>, expectations: Arc<Expectations>) {
    let queue = queue.clone();
    owners.on_change(move |change| {
        let replaced = match (&change.old, &change.new) {
            (Some(old), Some(new)) => old.head.uid != new.head.uid,
            (_, new) => new.is_none(),
        };
        if replaced {
            expectations.forget(&change.key());
        }
        queue.add(change.key());
    });
}
