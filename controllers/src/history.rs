//! The templates that a StatefulSet or DaemonSet had, kept as ControllerRevisions that a rollback can go to.

use coracle_client::client::Kind;
use coracle_client::selector::Selector;
use coracle_client::{ApiError, Client, DeleteOptions, Informer};
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use serde_json::{Value, json};

use crate::{ownership, template};

/// The label of a pod that says which template it was made from.
pub const POD_LABEL: &str = "controller-revision-hash";

/// A name that something else has is passed by this often before the sync gives up.
const COLLISIONS_MAX: usize = 16;
/// Upstream's: the longest prefix that leaves room for a hash in a name.
const PREFIX_MAX: usize = 223;

pub fn name(revision: &ControllerRevision) -> &str {
    revision.metadata.name.as_deref().unwrap_or_default()
}

pub fn number(revision: &ControllerRevision) -> i64 {
    revision.revision.unwrap_or(0)
}

/// The revisions that are the owner's or become it now, oldest first.
pub async fn claim<O: Kind>(
    client: &Client,
    revisions: &Informer,
    owner: &ObjectMeta,
    selector: &Selector,
) -> Result<Vec<ControllerRevision>, ApiError> {
    let namespace = owner.namespace.as_deref().unwrap_or_default();
    let candidates = ownership::candidates(revisions, namespace, owner.uid.as_deref().unwrap_or_default());
    let claimed = ownership::claim_all::<O, ControllerRevision>(client, owner, selector, candidates).await?;
    let mut all: Vec<ControllerRevision> = claimed.iter().map(|o| o.decode()).collect::<Result<_, _>>()?;
    sort(&mut all);
    Ok(all)
}

/// By number, then age, then name.
fn sort(revisions: &mut [ControllerRevision]) {
    revisions.sort_by(|a, b| {
        let age = |r: &ControllerRevision| r.metadata.creation_timestamp.clone();
        number(a).cmp(&number(b)).then_with(|| age(a).cmp(&age(b))).then_with(|| name(a).cmp(name(b)))
    });
}

/// What a revision holds: a strategic merge patch that puts the template back. kubectl compares it byte by byte with
/// what it would write itself, so what Go never leaves out is there.
fn snapshot(template: &PodTemplateSpec) -> Value {
    let mut template = serde_json::to_value(template).unwrap_or_default();
    template["$patch"] = json!("replace");
    if template["metadata"].is_null() {
        template["metadata"] = json!({});
    }
    for list in ["containers", "initContainers"] {
        for container in template["spec"][list].as_array_mut().into_iter().flatten() {
            if container["resources"].is_null() {
                container["resources"] = json!({});
            }
        }
    }
    if let Some(spec) = template["spec"].as_object_mut() {
        spec.retain(|_, field| !field.is_null());
    }
    json!({"spec": {"template": template}})
}

/// The template that the revision holds; None where it holds none.
pub fn template_of(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template = revision.data.0.pointer("/spec/template")?.clone();
    template.as_object_mut()?.remove("$patch");
    serde_json::from_value(template).ok()
}

/// What the history says about the template that is wanted now.
#[derive(Debug, PartialEq)]
pub enum Update<'a> {
    /// It is the newest revision.
    Is(&'a ControllerRevision),
    /// It was there before, and becomes the newest again with this number.
    Renumber(&'a ControllerRevision, i64),
    Create(i64),
}

/// `revisions`: oldest first. Of several that hold the template the newest counts.
pub fn update<'a>(revisions: &'a [ControllerRevision], wanted: &PodTemplateSpec) -> Update<'a> {
    let wanted = template::canonical(wanted);
    let next = revisions.last().map_or(1, |last| number(last).saturating_add(1));
    let holds = |r: &&ControllerRevision| template_of(r).is_some_and(|t| template::canonical(&t) == wanted);
    match revisions.iter().rev().find(holds) {
        None => Update::Create(next),
        Some(found) if revisions.last().is_some_and(|last| name(last) == name(found)) => Update::Is(found),
        Some(found) => Update::Renumber(found, next),
    }
}

/// Revisions other than `current` that hold the same template.
pub fn duplicates<'a>(
    revisions: &'a [ControllerRevision],
    current: &ControllerRevision,
    wanted: &PodTemplateSpec,
) -> Vec<&'a ControllerRevision> {
    let wanted = template::canonical(wanted);
    let holds = |r: &ControllerRevision| template_of(r).is_some_and(|t| template::canonical(&t) == wanted);
    revisions.iter().filter(|r| name(r) != name(current) && holds(r)).collect()
}

/// Creates the revision of the template. A name that something else has makes another one: `collisions` counts up.
/// `label` carries the hash.
pub async fn create<O: Kind>(
    client: &Client,
    owner: &ObjectMeta,
    template: &PodTemplateSpec,
    label: &str,
    number: i64,
    collisions: &mut i32,
) -> Result<ControllerRevision, ApiError> {
    let canonical = template::canonical(template);
    let owner_name = owner.name.as_deref().unwrap_or_default();
    let prefix: String = owner_name.chars().take(PREFIX_MAX).collect();
    let mut tries = 0;
    loop {
        let hash = template::hash(&canonical, Some(*collisions).filter(|count| *count > 0));
        let mut labels = template.metadata.as_ref().and_then(|m| m.labels.clone()).unwrap_or_default();
        labels.insert(label.into(), hash.clone());
        let revision = ControllerRevision {
            metadata: ObjectMeta {
                namespace: owner.namespace.clone(),
                name: Some(format!("{prefix}-{hash}")),
                labels: Some(labels),
                annotations: owner.annotations.clone(),
                owner_references: Some(vec![ownership::controller_of::<O>(owner)]),
                ..ObjectMeta::default()
            },
            data: RawExtension(snapshot(template)),
            revision: Some(number),
        };
        let error = match client.create(&revision).await {
            Ok(written) => return written.decode(),
            Err(error) if error.is_already_exists() && tries < COLLISIONS_MAX => error,
            Err(error) => return Err(error),
        };
        let namespace = owner.namespace.as_deref().unwrap_or_default();
        let Some(present) = client.find::<ControllerRevision>(namespace, name(&revision)).await? else {
            return Err(error);
        };
        let ours = present
            .metadata
            .owner_references
            .iter()
            .flatten()
            .any(|o| o.controller == Some(true) && Some(&o.uid) == owner.uid.as_ref());
        if ours && template_of(&present).is_some_and(|t| template::canonical(&t) == canonical) {
            // Ours, which the informer does not show yet.
            return Ok(present);
        }
        *collisions = collisions.saturating_add(1);
        tries += 1;
    }
}

pub async fn renumber(
    client: &Client,
    revision: &ControllerRevision,
    number: i64,
) -> Result<ControllerRevision, ApiError> {
    let next = ControllerRevision { revision: Some(number), ..revision.clone() };
    client.update(&next).await?.decode()
}

/// The oldest `excess` revisions that no pod needs.
pub fn expired(
    revisions: &[ControllerRevision],
    excess: usize,
    live: impl Fn(&ControllerRevision) -> bool,
) -> impl Iterator<Item = &ControllerRevision> {
    revisions.iter().filter(move |r| !live(r)).take(excess)
}

pub async fn delete(client: &Client, revision: &ControllerRevision) -> Result<(), ApiError> {
    let namespace = revision.metadata.namespace.as_deref().unwrap_or_default();
    let options = DeleteOptions::default().uid(revision.metadata.uid.as_deref().unwrap_or_default());
    match client.delete::<ControllerRevision>(namespace, name(revision), options).await {
        Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, from};

    fn template(image: &str) -> PodTemplateSpec {
        from(testing::template(image))
    }

    fn revision(name: &str, number: i64, image: &str) -> ControllerRevision {
        from(json!({"metadata": {"name": name}, "revision": number, "data": snapshot(&template(image))}))
    }

    #[test]
    fn the_history_knows_what_is_new_what_is_there_and_what_comes_back() {
        let all = [revision("a", 1, "v1"), revision("b", 2, "v2"), revision("c", 5, "v3")];
        for (image, want) in [
            ("v3", Update::Is(&all[2])),
            ("v1", Update::Renumber(&all[0], 6)),
            ("v2", Update::Renumber(&all[1], 6)),
            ("v4", Update::Create(6)),
        ] {
            assert_eq!(update(&all, &template(image)), want, "{image}");
        }
        assert_eq!(update(&[], &template("v1")), Update::Create(1));
        let twice = [revision("a", 1, "v1"), revision("b", 2, "v1")];
        assert_eq!(update(&twice, &template("v1")), Update::Is(&twice[1]));
    }

    #[test]
    fn a_revision_is_a_patch_that_puts_the_template_back() {
        let original = template("v1");
        let held = snapshot(&original);
        assert_eq!(held["spec"]["template"]["$patch"], "replace");
        assert_eq!(held["spec"]["template"]["spec"]["containers"][0]["resources"], json!({}));
        assert!(held.pointer("/spec/template/spec/initContainers").is_none());
        let back = template_of(&revision("a", 1, "v1")).unwrap();
        assert_eq!(template::canonical(&back), template::canonical(&original));
    }

    #[test]
    fn the_oldest_that_no_pod_needs_go() {
        let all = [revision("a", 1, "v1"), revision("b", 2, "v2"), revision("c", 3, "v3")];
        for (excess, live, want) in
            [(0, "", ""), (1, "", "a"), (1, "a", "b"), (2, "b", "a c"), (9, "a b c", "")]
        {
            let got: Vec<&str> = expired(&all, excess, |r| live.contains(name(r))).map(name).collect();
            assert_eq!(got.join(" "), want, "{excess} {live}");
        }
    }
}
