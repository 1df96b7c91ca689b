//! Adopting objects that match a selector, and releasing those that no longer do.

use std::sync::Arc;

use coracle_client::client::Kind;
use coracle_client::selector::Selector;
use coracle_client::{ApiError, Client, Informer, Object, PatchType};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde::Deserialize;
use serde_json::json;

/// Index of objects without a controller, by namespace.
const ORPHANS: &str = "orphans";

/// Adds the index by which [`candidates`] finds what may be adopted.
pub fn index(informer: &Informer) {
    informer.add_index(ORPHANS, |o| {
        if o.head.controller().is_none() { vec![Box::from(&*o.head.namespace)] } else { Vec::new() }
    });
}

/// What `uid` owns, and what nobody controls in its namespace.
pub fn candidates(informer: &Informer, namespace: &str, uid: &str) -> Vec<Arc<Object>> {
    let mut candidates = informer.by_owner(uid);
    let orphans = informer.by_index(ORPHANS, namespace);
    candidates.extend(orphans.into_iter().filter(|o| o.head.owners.iter().all(|w| &*w.uid != uid)));
    candidates
}

/// What becomes of one object that is a candidate for a controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    Keep,
    Adopt,
    Release,
    Ignore,
}

/// Decides for one object; `deleting`: the controlling object itself is going.
pub fn claim(object: &Object, uid: &str, selector: &Selector, deleting: bool) -> Claim {
    let matches = selector.matches(&object.head);
    match object.head.controller() {
        Some(owner) if &*owner.uid != uid => Claim::Ignore,
        Some(_) if matches => Claim::Keep,
        Some(_) if deleting => Claim::Ignore,
        Some(_) => Claim::Release,
        None if deleting || !matches || object.head.deleting => Claim::Ignore,
        None => Claim::Adopt,
    }
}

/// The reference that makes `K` the controller.
pub fn controller_of<K: Kind>(meta: &ObjectMeta) -> OwnerReference {
    OwnerReference {
        api_version: K::API_VERSION.into(),
        kind: K::KIND.into(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

#[derive(Deserialize)]
struct Owned {
    metadata: OwnedMeta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OwnedMeta {
    owner_references: Option<Vec<OwnerReference>>,
    finalizers: Option<Vec<String>>,
}

/// Claims `candidates` (of type `C`) for the controlling object: what it keeps and adopts is returned, in order.
/// Adoption asks the API first whether the owner still lives: a cached one may be gone, or another of its name.
pub async fn claim_all<O: Kind, C: Kind>(
    client: &Client,
    owner: &ObjectMeta,
    selector: &Selector,
    candidates: Vec<Arc<Object>>,
) -> Result<Vec<Arc<Object>>, ApiError> {
    claim_holding::<O, C>(client, owner, selector, candidates, None).await
}

/// The same, where what is adopted gets a finalizer too.
pub async fn claim_holding<O: Kind, C: Kind>(
    client: &Client,
    owner: &ObjectMeta,
    selector: &Selector,
    candidates: Vec<Arc<Object>>,
    finalizer: Option<&str>,
) -> Result<Vec<Arc<Object>>, ApiError> {
    let uid = owner.uid.as_deref().unwrap_or_default();
    let deleting = owner.deletion_timestamp.is_some();
    let mut checked = false;
    let mut claimed = Vec::with_capacity(candidates.len());
    for object in candidates {
        match claim(&object, uid, selector, deleting) {
            Claim::Keep => claimed.push(object),
            Claim::Ignore => {}
            Claim::Release => {
                let owned: Owned = object.decode()?;
                let mut references = owned.metadata.owner_references.unwrap_or_default();
                references.retain(|r| r.uid != uid);
                match write_references::<C>(client, &object, &references, None).await {
                    Ok(_) => {}
                    Err(error) if error.is_not_found() => {}
                    Err(error) => return Err(error),
                }
            }
            Claim::Adopt => {
                if !checked {
                    check_alive::<O>(client, owner).await?;
                    checked = true;
                }
                let owned: Owned = object.decode()?;
                let mut references = owned.metadata.owner_references.unwrap_or_default();
                references.retain(|r| r.uid != uid);
                references.push(controller_of::<O>(owner));
                let finalizers = finalizer.map(|finalizer| {
                    let mut finalizers = owned.metadata.finalizers.unwrap_or_default();
                    finalizers.retain(|f| f != finalizer);
                    finalizers.push(finalizer.to_owned());
                    finalizers
                });
                match write_references::<C>(client, &object, &references, finalizers).await {
                    Ok(adopted) => claimed.push(adopted),
                    Err(error) if error.is_not_found() => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }
    Ok(claimed)
}

async fn check_alive<O: Kind>(client: &Client, owner: &ObjectMeta) -> Result<(), ApiError> {
    let name = owner.name.as_deref().unwrap_or_default();
    let namespace = owner.namespace.as_deref().unwrap_or_default();
    let fresh: O = client.get(namespace, name).await?;
    let meta = fresh.metadata();
    if meta.uid != owner.uid {
        return Err(ApiError::internal(format!("original {} {namespace}/{name} is gone", O::KIND)));
    }
    if meta.deletion_timestamp.is_some() {
        return Err(ApiError::internal(format!("{namespace}/{name} has just been deleted")));
    }
    Ok(())
}

/// The uid and resourceVersion in the patch make it fail rather than overwrite references that others just set.
pub async fn write_references<C: Kind>(
    client: &Client,
    object: &Object,
    references: &[OwnerReference],
    finalizers: Option<Vec<String>>,
) -> Result<Arc<Object>, ApiError> {
    let head = &object.head;
    let references = Some(references).filter(|r| !r.is_empty());
    let mut patch = json!({"metadata": {
        "uid": head.uid, "resourceVersion": head.resource_version.to_string(), "ownerReferences": references,
    }});
    if let Some(finalizers) = finalizers {
        patch["metadata"]["finalizers"] = json!(finalizers);
    }
    let written = client.patch::<C>(&head.namespace, &head.name, None, PatchType::Merge, &patch).await?;
    Ok(Object::parse(written.json, coracle_client::Resource::of::<C>().selectable_fields())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims() {
        let object = |labels: &str, owner: &str, deleting: bool| {
            let owners = if owner.is_empty() {
                json!([])
            } else {
                json!([{"apiVersion": "v1", "kind": "X", "name": "x", "uid": owner, "controller": true}])
            };
            let mut value =
                json!({"metadata": {"name": "p", "labels": {"app": labels}, "ownerReferences": owners}});
            if deleting {
                value["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            }
            Object::parse(value.to_string().into(), &[]).unwrap()
        };
        let selector = Selector::parse("app=web").unwrap();
        for (label, owner, going, owner_going, want) in [
            ("web", "me", false, false, Claim::Keep),
            ("web", "me", true, false, Claim::Keep),
            ("db", "me", false, false, Claim::Release),
            ("db", "me", false, true, Claim::Ignore),
            ("web", "", false, false, Claim::Adopt),
            ("web", "", true, false, Claim::Ignore),
            ("web", "", false, true, Claim::Ignore),
            ("db", "", false, false, Claim::Ignore),
            ("web", "other", false, false, Claim::Ignore),
        ] {
            assert_eq!(claim(&object(label, owner, going), "me", &selector, owner_going), want);
        }
    }
}
