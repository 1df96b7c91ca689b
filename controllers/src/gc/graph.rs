//! Who owns whom, looked up in the informers: by name for owners, by the index of owners' uids for dependents.

use std::fmt;
use std::sync::Arc;

use coracle_client::{Informer, Key, Object, Owner, Resource};
use parking_lot::RwLock;
use serde::Deserialize;

use super::plan::FOREGROUND;

/// An object by its place.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Place {
    pub resource: Resource,
    pub key: Key,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.resource, self.key)
    }
}

#[derive(Clone, Default)]
pub struct Graph {
    /// Swapped as a whole: readers hold what they began with.
    informers: Arc<RwLock<Arc<[Informer]>>>,
}

/// Where an owner reference points, from an object of some namespace.
pub enum Target {
    Place(Place),
    /// A cluster-scoped object cannot be owned by a namespaced one.
    Invalid,
    /// A kind that is not followed here.
    Unknown,
}

impl Graph {
    pub fn informers(&self) -> Arc<[Informer]> {
        self.informers.read().clone()
    }

    pub fn add(&self, informer: Informer) {
        let mut informers = self.informers.write();
        *informers = informers.iter().cloned().chain([informer]).collect();
    }

    pub fn remove(&self, resource: &Resource) {
        let mut informers = self.informers.write();
        *informers = informers.iter().filter(|i| i.resource() != resource).cloned().collect();
    }

    fn informer(&self, resource: &Resource) -> Option<Informer> {
        self.informers.read().iter().find(|i| i.resource() == resource).cloned()
    }

    pub fn get(&self, place: &Place) -> Option<Arc<Object>> {
        self.informer(&place.resource)?.get_key(&place.key)
    }

    pub fn target(&self, owner: &Owner, namespace: &str) -> Target {
        // Whatever version the reference names: the group and kind say which resource it is.
        let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
        let informers = self.informers();
        let informer =
            informers.iter().find(|i| i.resource().kind() == &*owner.kind && i.resource().group() == group);
        let Some(resource) = informer.map(Informer::resource) else { return Target::Unknown };
        let key = match (resource.namespaced(), namespace) {
            (true, "") => return Target::Invalid,
            (true, namespace) => Key::new(namespace, &owner.name),
            (false, _) => Key::new("", &owner.name),
        };
        Target::Place(Place { resource: resource.clone(), key })
    }

    /// Everything that names the uid as an owner.
    pub fn dependents(&self, uid: &str) -> Vec<(Place, Arc<Object>)> {
        self.informers()
            .iter()
            .flat_map(|informer| informer.by_owner(uid).into_iter().map(move |o| (informer.resource(), o)))
            .map(|(resource, object)| (Place { resource: resource.clone(), key: object.key() }, object))
            .collect()
    }

    /// Everything that names an owner of this kind.
    pub fn owned_by(&self, owners: &Resource) -> Vec<Place> {
        let named = |owner: &Owner| {
            let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
            &*owner.kind == owners.kind() && group == owners.group()
        };
        let mut places = Vec::new();
        for informer in self.informers().iter() {
            let objects = informer.list().into_iter().filter(|o| o.head.owners.iter().any(named));
            places.extend(objects.map(|o| Place { resource: informer.resource().clone(), key: o.key() }));
        }
        places
    }

    /// Whether an object of this uid stands in some other namespace.
    pub fn elsewhere(&self, place: &Place, uid: &str) -> bool {
        self.informer(&place.resource).is_some_and(|i| i.list().iter().any(|o| *o.head.uid == *uid))
    }
}

#[derive(Deserialize)]
struct View {
    metadata: Meta,
}

#[derive(Deserialize)]
struct Meta {
    #[serde(default)]
    finalizers: Vec<String>,
}

/// The names of an object's finalizers; decoded only where the head says that there are any.
pub fn finalizers(object: &Object) -> Vec<String> {
    if !object.head.has_finalizers {
        return Vec::new();
    }
    object.decode::<View>().map(|view| view.metadata.finalizers).unwrap_or_default()
}

/// The object is deleted in the foreground: it goes when its dependents are gone.
pub fn waits(object: &Object) -> bool {
    object.head.deleting && finalizers(object).iter().any(|f| f == FOREGROUND)
}
