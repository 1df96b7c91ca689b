//! What a definition may say, in upstream's words. What all versions say alike stands at the top of the spec there.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceColumnDefinition, CustomResourceConversion, CustomResourceDefinition,
    CustomResourceDefinitionNames, CustomResourceDefinitionVersion, CustomResourceSubresources,
    SelectableField,
};

use super::conditions::{Approval, approval_of, is_protected, is_true};
use super::open_api_schema::{self, Options};
use super::schema::Schema;
use super::structural;
use crate::field_error::Errors;
use crate::validation;

pub const APPROVAL_NEEDED: &str = "protected groups must have approval annotation \"api-approved.kubernetes.io\", see https://github.com/kubernetes/enhancements/pull/1111";
const APPROVED: &str = "metadata.annotations[api-approved.kubernetes.io]";
const SELECTABLE_MAX: usize = 8;
const WARNING_CHARS_MAX: usize = 256;
const COLUMN_TYPES: &str = "boolean,date,integer,number,string";
const COLUMN_FORMATS: &str = "byte,date,date-time,double,float,int32,int64,password";

/// Where versions say the same, upstream speaks of them once.
struct Places {
    schema: bool,
    subresources: bool,
    columns: bool,
    selectable: bool,
}

impl Places {
    fn of(versions: &[CustomResourceDefinitionVersion]) -> Self {
        fn alike<T: PartialEq>(
            versions: &[CustomResourceDefinitionVersion],
            part: impl Fn(&CustomResourceDefinitionVersion) -> Option<&T>,
        ) -> bool {
            let mut parts = versions.iter().map(part);
            let first = parts.next().flatten();
            first.is_some() && parts.all(|part| part == first)
        }
        Self {
            schema: alike(versions, |version| version.schema.as_ref()),
            subresources: alike(versions, |version| version.subresources.as_ref()),
            columns: alike(versions, |version| version.additional_printer_columns.as_ref()),
            selectable: alike(versions, |version| version.selectable_fields.as_ref()),
        }
    }
}

/// Why the schemas of a definition are not structural.
pub fn violations(definition: &CustomResourceDefinition) -> Vec<String> {
    let mut found = Vec::new();
    for (i, version) in definition.spec.versions.iter().enumerate() {
        let Some(props) = version.schema.as_ref().and_then(|s| s.open_api_v3_schema.as_ref()) else {
            continue;
        };
        let path = format!("spec.versions[{i}].schema.openAPIV3Schema");
        let causes = structural::check(&path, &Schema::of(props)).into_causes();
        found.extend(causes.into_iter().map(|cause| format!("{}: {}", cause.field, cause.message)));
    }
    found
}

/// `old`: the definition as it was, on updates.
pub fn check(new: &CustomResourceDefinition, old: Option<&CustomResourceDefinition>, errors: &mut Errors) {
    let spec = &new.spec;
    let name = new.metadata.name.as_deref().unwrap_or_default();
    if old.is_none() && !name.is_empty() && name != format!("{}.{}", spec.names.plural, spec.group) {
        errors.invalid("metadata.name", name, "must be spec.names.plural+\".\"+spec.group");
    }
    check_spec(new, old, errors);
    if let Some(old) = old {
        if is_true(old.status.as_ref(), "Established") {
            errors.immutable("spec.scope", &spec.scope, &old.spec.scope);
            errors.immutable("spec.names.kind", &spec.names.kind, &old.spec.names.kind);
        }
        errors.immutable("spec.group", &spec.group, &old.spec.group);
        errors.immutable("spec.names.plural", &spec.names.plural, &old.spec.names.plural);
    }
    check_status(new, errors);
    check_stored(new, errors);
    check_approval(new, old, errors);
    if spec.preserve_unknown_fields == Some(true)
        && old.is_none_or(|old| old.spec.preserve_unknown_fields != Some(true))
    {
        let detail = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        errors.invalid("spec.preserveUnknownFields", true, detail);
    }
}

fn check_spec(new: &CustomResourceDefinition, old: Option<&CustomResourceDefinition>, errors: &mut Errors) {
    let spec = &new.spec;
    if spec.group.is_empty() {
        errors.required("spec.group", "");
    } else if let Err(why) = validation::dns_subdomain(&spec.group) {
        errors.invalid("spec.group", &spec.group, why);
    } else if !spec.group.contains('.') {
        errors.invalid("spec.group", &spec.group, "should be a domain with at least one dot");
    }
    errors.one_of("spec.scope", Some(&spec.scope), &["Cluster", "Namespaced"]);
    for (i, version) in spec.versions.iter().enumerate() {
        if version.schema.as_ref().is_none_or(|schema| schema.open_api_v3_schema.is_none()) {
            errors.required(format!("spec.versions[{i}].schema.openAPIV3Schema"), "");
        }
    }
    let places = Places::of(&spec.versions);
    for (i, version) in spec.versions.iter().enumerate() {
        let path = format!("spec.versions[{i}]");
        if let Err(why) = validation::dns_1035_label(&version.name) {
            errors.invalid(format!("{path}.name"), &version.name, why);
        }
        check_version(version, &path, &places, old, errors);
    }
    let mut names: Vec<&str> = spec.versions.iter().map(|version| version.name.as_str()).collect();
    names.sort_unstable();
    if names.windows(2).any(|pair| pair.first() == pair.last()) {
        errors.invalid("spec.versions", &spec.versions, "must contain unique version names");
    }
    if spec.versions.iter().filter(|version| version.storage).count() != 1 {
        errors.invalid(
            "spec.versions",
            &spec.versions,
            "must have exactly one version marked as storage version",
        );
    }
    for (name, value) in [
        ("plural", Some(&spec.names.plural)),
        ("singular", spec.names.singular.as_ref()),
        ("kind", Some(&spec.names.kind)),
        ("listKind", spec.names.list_kind.as_ref()),
    ] {
        if value.is_none_or(|value| value.is_empty()) {
            errors.required(format!("spec.names.{name}"), "");
        }
    }
    check_names(&spec.names, "spec.names", errors);
    if let Some(first) = spec.versions.first() {
        check_common(first, &spec.versions, &places, old, errors);
    }
    if let Some(conversion) = &spec.conversion {
        check_conversion(conversion, old, errors);
    }
}

/// What stands in a version alone.
fn check_version(
    version: &CustomResourceDefinitionVersion,
    path: &str,
    places: &Places,
    old: Option<&CustomResourceDefinition>,
    errors: &mut Errors,
) {
    check_deprecation(version, path, errors);
    if !places.schema {
        check_schema(
            version,
            &format!("{path}.schema"),
            has_status(version.subresources.as_ref()),
            old,
            errors,
        );
    }
    if !places.subresources {
        check_subresources(version.subresources.as_ref(), &format!("{path}.subresources"), errors);
    }
    if !places.columns {
        check_columns(version, &format!("{path}.additionalPrinterColumns"), errors);
    }
    if !places.selectable {
        check_selectable(version, &format!("{path}.selectableFields"), errors);
    }
}

/// What all versions say.
fn check_common(
    first: &CustomResourceDefinitionVersion,
    all: &[CustomResourceDefinitionVersion],
    places: &Places,
    old: Option<&CustomResourceDefinition>,
    errors: &mut Errors,
) {
    if places.schema {
        let status = all.iter().any(|version| has_status(version.subresources.as_ref()));
        check_schema(first, "spec.validation", status, old, errors);
    }
    if places.subresources {
        check_subresources(first.subresources.as_ref(), "spec.subresources", errors);
    }
    if places.columns {
        check_columns(first, "spec.additionalPrinterColumns", errors);
    }
    if places.selectable {
        check_selectable(first, "spec.selectableFields", errors);
    }
}

fn has_status(subresources: Option<&CustomResourceSubresources>) -> bool {
    subresources.is_some_and(|subresources| subresources.status.is_some())
}

fn check_deprecation(version: &CustomResourceDefinitionVersion, path: &str, errors: &mut Errors) {
    let Some(text) = version.deprecation_warning.as_deref() else { return };
    let path = format!("{path}.deprecationWarning");
    if version.deprecated != Some(true) {
        return errors.invalid(path, text, "can only be set for deprecated versions");
    }
    if text.len() > WARNING_CHARS_MAX {
        errors.invalid(path.as_str(), text, format!("must be <= {WARNING_CHARS_MAX} characters long"));
    }
    if text.is_empty() {
        errors.invalid(path.as_str(), text, "must not be an empty string");
    }
    if let Some((at, _)) = text.char_indices().find(|(_, letter)| letter.is_control()) {
        let detail = format!(
            "must only contain printable UTF-8 characters; non-printable character found at index {at}"
        );
        errors.invalid(path, text, detail);
    }
}

fn check_schema(
    version: &CustomResourceDefinitionVersion,
    path: &str,
    status: bool,
    old: Option<&CustomResourceDefinition>,
    errors: &mut Errors,
) {
    let Some(props) = version.schema.as_ref().and_then(|schema| schema.open_api_v3_schema.as_ref()) else {
        return;
    };
    let unchanged = old.is_some_and(|old| {
        let before = old.spec.versions.iter().find(|before| before.name == version.name);
        before.is_some_and(|before| before.schema == version.schema)
    });
    open_api_schema::check(props, &format!("{path}.openAPIV3Schema"), Options { status, unchanged }, errors);
}

fn check_subresources(subresources: Option<&CustomResourceSubresources>, path: &str, errors: &mut Errors) {
    let Some(scale) = subresources.and_then(|subresources| subresources.scale.as_ref()) else { return };
    let mut check = |name: &str, value: &str, prefixes: &[&str], where_: &str| {
        let field = format!("{path}.scale.{name}");
        if value.is_empty() {
            errors.required(field, "");
        } else if !value.starts_with('.') {
            errors.invalid(field, value, "must be a simple json path starting with .");
        } else if !prefixes.iter().any(|prefix| value.starts_with(prefix)) {
            errors.invalid(field, value, format!("should be a json path under {where_}"));
        }
    };
    check("specReplicasPath", &scale.spec_replicas_path, &[".spec."], ".spec");
    check("statusReplicasPath", &scale.status_replicas_path, &[".status."], ".status");
    if let Some(selector) = scale.label_selector_path.as_deref().filter(|path| !path.is_empty()) {
        check("labelSelectorPath", selector, &[".spec.", ".status."], "either .spec or .status");
    }
}

fn check_columns(version: &CustomResourceDefinitionVersion, path: &str, errors: &mut Errors) {
    for (i, column) in version.additional_printer_columns.iter().flatten().enumerate() {
        check_column(column, &format!("{path}[{i}]"), errors);
    }
}

fn check_column(column: &CustomResourceColumnDefinition, path: &str, errors: &mut Errors) {
    if column.name.is_empty() {
        errors.required(format!("{path}.name"), "");
    }
    let known = |list: &str, value: &str| list.split(',').any(|known| known == value);
    if column.type_.is_empty() {
        errors.required(format!("{path}.type"), &format!("must be one of {COLUMN_TYPES}"));
    } else if !known(COLUMN_TYPES, &column.type_) {
        errors.invalid(format!("{path}.type"), &column.type_, format!("must be one of {COLUMN_TYPES}"));
    }
    if let Some(format) = column.format.as_deref().filter(|f| !f.is_empty() && !known(COLUMN_FORMATS, f)) {
        errors.invalid(format!("{path}.format"), format, format!("must be one of {COLUMN_FORMATS}"));
    }
    if column.json_path.is_empty() {
        errors.required(format!("{path}.JSONPath"), "");
    } else if !column.json_path.starts_with('.') {
        let detail = "must be a simple json path starting with .";
        errors.invalid(format!("{path}.JSONPath"), &column.json_path, detail);
    }
}

fn check_selectable(version: &CustomResourceDefinitionVersion, path: &str, errors: &mut Errors) {
    let fields: &[SelectableField] = version.selectable_fields.as_deref().unwrap_or_default();
    let props = version.schema.as_ref().and_then(|schema| schema.open_api_v3_schema.as_ref());
    let schema = props.map(Schema::of).unwrap_or_default();
    let mut seen: Vec<&str> = Vec::new();
    for (i, field) in fields.iter().enumerate() {
        let at = format!("{path}[{i}].jsonPath");
        let text = field.json_path.as_str();
        if text.is_empty() {
            errors.required(at, "");
            continue;
        }
        let found = match found(&schema, text) {
            Ok(found) => found,
            Err(why) => {
                errors.invalid(at, text, format!("is an invalid path: {why}"));
                continue;
            }
        };
        if text == ".metadata" || text.starts_with(".metadata.") {
            errors.invalid(at.as_str(), text, "must not point to fields in metadata");
        }
        if !matches!(found.type_.as_str(), "string" | "boolean" | "integer") {
            let detail = "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.";
            errors.invalid(at.as_str(), text, detail);
        }
        if seen.contains(&text) {
            errors.duplicate(at, text);
        } else {
            seen.push(text);
        }
    }
    if seen.len() > SELECTABLE_MAX {
        errors.too_many(path, seen.len(), SELECTABLE_MAX);
    }
}

/// The schema that a path of members leads to.
fn found<'s>(schema: &'s Schema, path: &str) -> Result<&'s Schema, String> {
    let Some(names) = path.strip_prefix('.') else {
        return Err(
            "expected [ or . but got: ".to_owned() + path.split(['.', '[']).next().unwrap_or_default()
        );
    };
    if path.contains('[') {
        return Err("expected [ or . but got: [".to_owned());
    }
    let mut at = schema;
    for name in names.split('.') {
        at = at.properties.get(name).ok_or_else(|| format!("does not refer to a valid field: {name}"))?;
    }
    Ok(at)
}

fn check_conversion(
    conversion: &CustomResourceConversion,
    old: Option<&CustomResourceDefinition>,
    errors: &mut Errors,
) {
    const PATH: &str = "spec.conversion";
    errors.one_of(format!("{PATH}.strategy"), Some(&conversion.strategy), &["None", "Webhook"]);
    if conversion.strategy != "Webhook" {
        if conversion.webhook.is_some() {
            let detail = "should not be set when strategy is not set to Webhook";
            errors.forbidden(format!("{PATH}.webhookClientConfig"), detail);
        }
        return;
    }
    let Some(webhook) = &conversion.webhook else {
        let detail = "required when strategy is set to Webhook";
        errors.required(format!("{PATH}.webhookClientConfig"), detail);
        errors.required(format!("{PATH}.conversionReviewVersions"), "");
        return;
    };
    let config = format!("{PATH}.webhookClientConfig");
    match &webhook.client_config {
        None => errors.required(config, "required when strategy is set to Webhook"),
        Some(client) => match (&client.url, &client.service) {
            (Some(_), Some(_)) | (None, None) => {
                errors.required(config, "exactly one of url or service is required");
            }
            (Some(url), None) => check_url(url, &format!("{config}.url"), errors),
            (None, Some(service)) => {
                let path = format!("{config}.service");
                for (name, value) in [("name", &service.name), ("namespace", &service.namespace)] {
                    if value.is_empty() {
                        errors.required(format!("{path}.{name}"), &format!("service {name} is required"));
                    }
                }
                if let Some(at) = service.path.as_deref().filter(|at| !at.starts_with('/')) {
                    errors.invalid(format!("{path}.path"), at, "must start with a '/'");
                }
                if let Some(port) = service.port
                    && let Err(why) = validation::port_number(port)
                {
                    errors.invalid(format!("{path}.port"), port, format!("port is not valid: {why}"));
                }
            }
        },
    }
    check_reviews(&webhook.conversion_review_versions, old, errors);
}

fn check_reviews(versions: &[String], old: Option<&CustomResourceDefinition>, errors: &mut Errors) {
    const PATH: &str = "spec.conversion.conversionReviewVersions";
    const KNOWN: &[&str] = &["v1", "v1beta1"];
    let recognized = |versions: &[String]| versions.iter().any(|version| KNOWN.contains(&version.as_str()));
    if versions.is_empty() {
        return errors.required(PATH, "");
    }
    for (i, version) in versions.iter().enumerate() {
        if versions.iter().take(i).any(|before| before == version) {
            errors.invalid(format!("{PATH}[{i}]"), version, "duplicate version");
        } else if let Err(why) = validation::dns_1035_label(version) {
            errors.invalid(format!("{PATH}[{i}]"), version, why);
        }
    }
    let before = old.and_then(|old| old.spec.conversion.as_ref()?.webhook.as_ref());
    let demanded = before
        .is_none_or(|b| b.conversion_review_versions.is_empty() || recognized(&b.conversion_review_versions));
    if demanded && !recognized(versions) {
        errors.invalid(PATH, versions, "must include at least one of v1, v1beta1");
    }
}

fn check_url(url: &str, path: &str, errors: &mut Errors) {
    const FORM: &str = "; desired format: https://host[/path]";
    let Some(rest) = url.strip_prefix("https://") else {
        let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
        return errors.invalid(
            path,
            url,
            format!("'https' is the only allowed URL scheme{FORM}").replace("{scheme}", scheme),
        );
    };
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if host.is_empty() {
        errors.invalid(path, url, format!("host must be specified{FORM}"));
    }
    for (mark, what) in [('@', "user information"), ('#', "fragments"), ('?', "query parameters")] {
        if (mark == '@' && host.contains('@')) || (mark != '@' && rest.contains(mark)) {
            errors.invalid(path, url, format!("{what} are not permitted in the URL"));
        }
    }
}

fn check_names(names: &CustomResourceDefinitionNames, path: &str, errors: &mut Errors) {
    const MIXED: &str = "may have mixed case, but should otherwise match: ";
    let mut label = |name: String, value: &str, mixed: bool| {
        let text = if mixed { value.to_lowercase() } else { value.to_owned() };
        if !value.is_empty()
            && let Err(why) = validation::dns_1035_label(&text)
        {
            errors.invalid(name, value, if mixed { format!("{MIXED}{why}") } else { why });
        }
    };
    let list_kind = names.list_kind.as_deref().unwrap_or_default();
    label(format!("{path}.plural"), &names.plural, false);
    label(format!("{path}.singular"), names.singular.as_deref().unwrap_or_default(), false);
    label(format!("{path}.kind"), &names.kind, true);
    label(format!("{path}.listKind"), list_kind, true);
    for (i, name) in names.short_names.iter().flatten().enumerate() {
        label(format!("{path}.shortNames[{i}]"), name, false);
    }
    for (i, name) in names.categories.iter().flatten().enumerate() {
        label(format!("{path}.categories[{i}]"), name, false);
    }
    if !names.kind.is_empty() && names.kind == list_kind {
        errors.invalid(format!("{path}.listKind"), list_kind, "kind and listKind may not be the same");
    }
}

pub fn check_status(new: &CustomResourceDefinition, errors: &mut Errors) {
    if let Some(names) = new.status.as_ref().and_then(|status| status.accepted_names.as_ref()) {
        check_names(names, "status.acceptedNames", errors);
    }
}

fn check_stored(new: &CustomResourceDefinition, errors: &mut Errors) {
    const PATH: &str = "status.storedVersions";
    let stored = new.status.as_ref().and_then(|status| status.stored_versions.clone()).unwrap_or_default();
    if stored.is_empty() {
        return errors.invalid(PATH, &stored, "must have at least one stored version");
    }
    for version in new.spec.versions.iter().filter(|v| v.storage && !stored.contains(&v.name)) {
        errors.invalid(PATH, &stored, format!("must have the storage version {}", version.name));
    }
    for (i, name) in stored.iter().enumerate() {
        if !new.spec.versions.iter().any(|version| version.name == *name) {
            let detail = format!(
                "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {name} and removes {name} from status.storedVersions"
            );
            errors.invalid(format!("{PATH}[{i}]"), name, detail);
        }
    }
}

fn check_approval(
    new: &CustomResourceDefinition,
    old: Option<&CustomResourceDefinition>,
    errors: &mut Errors,
) {
    if !is_protected(&new.spec.group) {
        return;
    }
    let state = approval_of(new);
    // Whoever changes something else is not asked for an approval.
    if old.is_some_and(|old| std::mem::discriminant(&approval_of(old)) == std::mem::discriminant(&state)) {
        return;
    }
    match state {
        Approval::Missing => errors.required(APPROVED, APPROVAL_NEEDED),
        Approval::Invalid(why) => {
            let given = new.metadata.annotations.as_ref().and_then(|a| a.get("api-approved.kubernetes.io"));
            errors.invalid(APPROVED, given, why);
        }
        Approval::Bypassed(_) | Approval::Approved(_) => {}
    }
}
