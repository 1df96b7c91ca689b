//! What every object's metadata must be, and the names the server makes up. Pure.

use coracle_client::ApiError;
use coracle_client::selector::is_name_part;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use crate::field_error::Errors;
use crate::kinds::KindDef;
use crate::validation;

/// As upstream's `TotalAnnotationSizeLimitB`.
const ANNOTATIONS_BYTES_MAX: usize = 256 * 1024;

/// Characters of generated names: no vowels, nothing that reads as another.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_CHARS: usize = 5;
/// So that generated names are DNS labels.
const GENERATED_CHARS_MAX: usize = 63;

const QUALIFIED_NAME: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

/// `base` and a random suffix.
pub fn generate_name(base: &str) -> String {
    let mut name: String = base.chars().take(GENERATED_CHARS_MAX - SUFFIX_CHARS).collect();
    for _ in 0..SUFFIX_CHARS {
        let at = rand::random_range(0..ALPHABET.len());
        name.push(ALPHABET.get(at).map_or('b', |b| char::from(*b)));
    }
    name
}

/// Now, in the seconds that the API shows.
pub fn now() -> Time {
    let now = Timestamp::now();
    Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
}

/// The namespace of the URL goes into the object; another one in it is an error.
pub fn place(kind: &KindDef, meta: &mut ObjectMeta, namespace: Option<&str>) -> Result<(), ApiError> {
    let given = meta.namespace.as_deref().unwrap_or_default();
    let wanted = namespace.filter(|_| kind.resource.namespaced()).unwrap_or_default();
    if given.is_empty() {
        meta.namespace = Some(wanted.to_owned()).filter(|n| !n.is_empty());
        return Ok(());
    }
    if given != wanted {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
}

/// What upstream validates of metadata on create and on update.
pub fn validate(kind: &KindDef, meta: &ObjectMeta, errors: &mut Errors) {
    if let Some(base) = meta.generate_name.as_deref().filter(|b| !b.is_empty()) {
        // A prefix may end in what a name may not end in.
        let sample = format!("{}a", base.trim_end_matches('-'));
        if let Err(detail) = kind.ops.validate_name(&sample) {
            errors.invalid("metadata.generateName", base, detail);
        }
    }
    match meta.name.as_deref().unwrap_or_default() {
        "" => errors.required("metadata.name", "name or generateName is required"),
        name => {
            if let Err(detail) = path_segment(name).and_then(|()| kind.ops.validate_name(name)) {
                errors.invalid("metadata.name", name, detail);
            }
        }
    }
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    if kind.resource.namespaced() {
        if namespace.is_empty() {
            errors.required("metadata.namespace", "");
        } else if let Err(detail) = validation::dns_label(namespace) {
            errors.invalid("metadata.namespace", namespace, detail);
        }
    } else if !namespace.is_empty() {
        errors.forbidden("metadata.namespace", "not allowed on this type");
    }
    if meta.generation.is_some_and(|g| g < 0) {
        errors.invalid("metadata.generation", meta.generation, "must be greater than or equal to 0");
    }
    labels(meta, errors);
    annotations(meta, errors);
    owners(meta, errors);
    finalizers(meta, kind.built_in, errors);
}

fn path_segment(name: &str) -> Result<(), String> {
    match name {
        "." => Err("may not be '.'".into()),
        ".." => Err("may not be '..'".into()),
        _ => match name.chars().find(|c| matches!(c, '/' | '%')) {
            Some(c) => Err(format!("may not contain '{c}'")),
            None => Ok(()),
        },
    }
}

/// A label or annotation key: an optional DNS subdomain and a name.
pub fn qualified_name(key: &str) -> Result<(), String> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    if let Some(prefix) = prefix {
        if prefix.is_empty() {
            return Err("prefix part must be non-empty".into());
        }
        validation::dns_subdomain(prefix).map_err(|e| format!("prefix part {e}"))?;
    }
    if name.is_empty() {
        return Err("name part must be non-empty".into());
    }
    if name.len() > 63 {
        return Err("name part must be no more than 63 bytes".into());
    }
    if is_name_part(name) { Ok(()) } else { Err(QUALIFIED_NAME.into()) }
}

fn labels(meta: &ObjectMeta, errors: &mut Errors) {
    for (key, value) in meta.labels.iter().flatten() {
        if let Err(detail) = qualified_name(key) {
            errors.invalid("metadata.labels", key, detail);
        }
        if value.len() > 63 {
            errors.invalid("metadata.labels", value, "must be no more than 63 bytes");
        } else if !value.is_empty() && !is_name_part(value) {
            errors.invalid("metadata.labels", value, LABEL_VALUE);
        }
    }
}

fn annotations(meta: &ObjectMeta, errors: &mut Errors) {
    let mut size = 0;
    for (key, value) in meta.annotations.iter().flatten() {
        size += key.len() + value.len();
        if let Err(detail) = qualified_name(&key.to_lowercase()) {
            errors.invalid("metadata.annotations", key, detail);
        }
    }
    if size > ANNOTATIONS_BYTES_MAX {
        errors.too_long("metadata.annotations", ANNOTATIONS_BYTES_MAX);
    }
}

fn owners(meta: &ObjectMeta, errors: &mut Errors) {
    let mut controllers = 0;
    for (i, owner) in meta.owner_references.iter().flatten().enumerate() {
        let path = format!("metadata.ownerReferences[{i}]");
        let mut parts = owner.api_version.split('/');
        let fine = match (parts.next(), parts.next(), parts.next()) {
            (Some(version), None, _) => !version.is_empty(),
            (Some(_), Some(version), None) => !version.is_empty(),
            _ => false,
        };
        if owner.api_version.is_empty() {
            errors.required(format!("{path}.apiVersion"), "must not be empty");
        } else if !fine {
            errors.invalid(format!("{path}.apiVersion"), &owner.api_version, "version must not be empty");
        }
        for (field, value) in [("kind", &owner.kind), ("name", &owner.name), ("uid", &owner.uid)] {
            if value.is_empty() {
                errors.required(format!("{path}.{field}"), "must not be empty");
            }
        }
        controllers += usize::from(owner.controller == Some(true));
    }
    if controllers > 1 {
        errors.invalid(
            "metadata.ownerReferences",
            &meta.owner_references,
            "Only one reference can have Controller set to true",
        );
    }
}

/// `strict`: a name without a domain is one of the standard ones; elsewhere it is only warned of.
fn finalizers(meta: &ObjectMeta, strict: bool, errors: &mut Errors) {
    let mut orphan = false;
    let mut foreground = false;
    for finalizer in meta.finalizers.iter().flatten() {
        match qualified_name(finalizer) {
            Err(detail) => errors.invalid("metadata.finalizers", finalizer, detail),
            Ok(())
                if strict
                    && !finalizer.contains('/')
                    && !STANDARD_FINALIZERS.contains(&finalizer.as_str()) =>
            {
                errors.invalid(
                    "metadata.finalizers",
                    finalizer,
                    "name is neither a standard finalizer name nor is it fully qualified",
                )
            }
            Ok(()) => {}
        }
        orphan |= finalizer == super::delete::ORPHAN;
        foreground |= finalizer == super::delete::FOREGROUND;
    }
    if orphan && foreground {
        errors.invalid(
            "metadata.finalizers",
            &meta.finalizers,
            format!(
                "finalizer {} and {} cannot be both set",
                super::delete::ORPHAN,
                super::delete::FOREGROUND
            ),
        );
    }
}

const STANDARD_FINALIZERS: &[&str] = &["kubernetes", super::delete::ORPHAN, super::delete::FOREGROUND];

/// Fields the server keeps whatever a client sends: uid, creation, deletion and generation come from the old object.
pub fn inherit(new: &mut ObjectMeta, old: &ObjectMeta) {
    if new.uid.as_deref().unwrap_or_default().is_empty() {
        new.uid.clone_from(&old.uid);
    }
    if new.creation_timestamp.is_none() {
        new.creation_timestamp.clone_from(&old.creation_timestamp);
    }
    // A client that does not know of the deletion does not undo it.
    if new.deletion_timestamp.is_none() {
        new.deletion_timestamp.clone_from(&old.deletion_timestamp);
    }
    if new.deletion_grace_period_seconds.is_none() {
        new.deletion_grace_period_seconds = old.deletion_grace_period_seconds;
    }
    new.generation = old.generation;
    new.self_link = None;
}

/// What may not change.
pub fn validate_update(new: &ObjectMeta, old: &ObjectMeta, errors: &mut Errors) {
    const IMMUTABLE: &str = "field is immutable";
    let text = |v: &Option<String>| v.clone().unwrap_or_default();
    for (field, new, old) in [
        ("metadata.name", text(&new.name), text(&old.name)),
        ("metadata.namespace", text(&new.namespace), text(&old.namespace)),
        ("metadata.uid", text(&new.uid), text(&old.uid)),
    ] {
        if new != old {
            errors.invalid(field, new, IMMUTABLE);
        }
    }
    if new.creation_timestamp != old.creation_timestamp {
        errors.invalid("metadata.creationTimestamp", &new.creation_timestamp, IMMUTABLE);
    }
    if new.deletion_timestamp != old.deletion_timestamp {
        errors.invalid("metadata.deletionTimestamp", &new.deletion_timestamp, IMMUTABLE);
    }
    if new.deletion_grace_period_seconds != old.deletion_grace_period_seconds {
        errors.invalid("metadata.deletionGracePeriodSeconds", new.deletion_grace_period_seconds, IMMUTABLE);
    }
    if old.deletion_timestamp.is_some() {
        let known = old.finalizers.as_deref().unwrap_or_default();
        let added: Vec<&String> = new.finalizers.iter().flatten().filter(|f| !known.contains(f)).collect();
        if !added.is_empty() {
            errors.forbidden(
                "metadata.finalizers",
                &format!(
                    "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                    added.iter().map(|f| format!("{f:?}")).collect::<Vec<_>>().join(", ")
                ),
            );
        }
    }
}
