//! What both kinds of admission webhook configurations have in common: rules, how to call, what to do on failure.

use k8s_openapi::api::admissionregistration::v1::{
    MatchCondition, MutatingWebhook, NamedRuleWithOperations, RuleWithOperations, ServiceReference,
    ValidatingWebhook, WebhookClientConfig,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::json;

use super::admission_policy;
use crate::field_error::{Errors, Path};
use crate::validation;

pub(super) const FAILURE_POLICIES: &[&str] = &["Fail", "Ignore"];
pub(super) const MATCH_POLICIES: &[&str] = &["Equivalent", "Exact"];
pub(super) const REINVOCATION_POLICIES: &[&str] = &["IfNeeded", "Never"];
const SIDE_EFFECTS: &[&str] = &["None", "NoneOnDryRun"];
const OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const SCOPES: &[&str] = &["*", "Cluster", "Namespaced"];
const REVIEW_VERSIONS: &[&str] = &["v1", "v1beta1"];
const TIMEOUT_SECONDS: i32 = 10;
const TIMEOUT_SECONDS_MAX: i32 = 30;
const PORT: i32 = 443;

/// One webhook of either kind.
pub(super) struct Webhook<'a> {
    pub name: &'a str,
    rules: &'a [RuleWithOperations],
    failure_policy: Option<&'a str>,
    match_policy: Option<&'a str>,
    side_effects: &'a str,
    timeout_seconds: Option<i32>,
    namespace_selector: Option<&'a LabelSelector>,
    object_selector: Option<&'a LabelSelector>,
    client: &'a WebhookClientConfig,
    match_conditions: &'a [MatchCondition],
    review_versions: &'a [String],
    reinvocation_policy: Option<&'a str>,
}

impl<'a> From<&'a MutatingWebhook> for Webhook<'a> {
    fn from(hook: &'a MutatingWebhook) -> Self {
        Self {
            name: &hook.name,
            rules: hook.rules.as_deref().unwrap_or_default(),
            failure_policy: hook.failure_policy.as_deref(),
            match_policy: hook.match_policy.as_deref(),
            side_effects: &hook.side_effects,
            timeout_seconds: hook.timeout_seconds,
            namespace_selector: hook.namespace_selector.as_ref(),
            object_selector: hook.object_selector.as_ref(),
            client: &hook.client_config,
            match_conditions: hook.match_conditions.as_deref().unwrap_or_default(),
            review_versions: &hook.admission_review_versions,
            reinvocation_policy: hook.reinvocation_policy.as_deref(),
        }
    }
}

impl<'a> From<&'a ValidatingWebhook> for Webhook<'a> {
    fn from(hook: &'a ValidatingWebhook) -> Self {
        Self {
            name: &hook.name,
            rules: hook.rules.as_deref().unwrap_or_default(),
            failure_policy: hook.failure_policy.as_deref(),
            match_policy: hook.match_policy.as_deref(),
            side_effects: &hook.side_effects,
            timeout_seconds: hook.timeout_seconds,
            namespace_selector: hook.namespace_selector.as_ref(),
            object_selector: hook.object_selector.as_ref(),
            client: &hook.client_config,
            match_conditions: hook.match_conditions.as_deref().unwrap_or_default(),
            review_versions: &hook.admission_review_versions,
            reinvocation_policy: None,
        }
    }
}

/// The defaults of a webhook, of either kind.
macro_rules! webhook_defaults {
    ($hook:expr) => {{
        let hook = $hook;
        hook.failure_policy.get_or_insert_with(|| "Fail".into());
        hook.match_policy.get_or_insert_with(|| "Equivalent".into());
        hook.namespace_selector.get_or_insert_default();
        hook.object_selector.get_or_insert_default();
        hook.timeout_seconds.get_or_insert($crate::kinds::webhook::timeout_seconds());
        $crate::kinds::webhook::rule_defaults(hook.rules.as_deref_mut().unwrap_or_default());
        $crate::kinds::webhook::service_defaults(&mut hook.client_config);
    }};
}
pub(super) use webhook_defaults;

pub(super) const fn timeout_seconds() -> i32 {
    TIMEOUT_SECONDS
}

pub(super) fn rule_defaults(rules: &mut [RuleWithOperations]) {
    for rule in rules {
        rule.scope.get_or_insert_with(|| "*".into());
    }
}

pub(super) fn service_defaults(client: &mut WebhookClientConfig) {
    if let Some(service) = &mut client.service {
        service.port.get_or_insert(PORT);
    }
}

/// All webhooks of a configuration, no two of which are called the same.
pub(super) fn validate_all(hooks: &[Webhook<'_>], errors: &mut Errors) {
    let path = Path::new("webhooks");
    for (i, hook) in hooks.iter().enumerate() {
        let at = path.index(i);
        validate(hook, &at, errors);
        if !hook.name.is_empty() && hooks.iter().take(i).any(|h| h.name == hook.name) {
            errors.duplicate(at.child("name"), hook.name);
        }
    }
}

fn validate(hook: &Webhook<'_>, path: &Path<'_>, errors: &mut Errors) {
    name(hook.name, &path.child("name"), errors);
    for (i, rule) in hook.rules.iter().enumerate() {
        Rule::from(rule).validate(&path.child("rules").index(i), errors);
    }
    for (field, value, known) in [
        ("failurePolicy", hook.failure_policy, FAILURE_POLICIES),
        ("matchPolicy", hook.match_policy, MATCH_POLICIES),
        ("reinvocationPolicy", hook.reinvocation_policy, REINVOCATION_POLICIES),
    ] {
        if let Some(value) = value.filter(|v| !known.contains(v)) {
            errors.not_supported(path.child(field), value, known);
        }
    }
    match hook.side_effects {
        "" => {
            errors.required(path.child("sideEffects"), "must specify one of None, NoneOnDryRun");
        }
        value if !SIDE_EFFECTS.contains(&value) => {
            errors.not_supported(path.child("sideEffects"), value, SIDE_EFFECTS);
        }
        _ => {}
    }
    if let Some(seconds) = hook.timeout_seconds.filter(|s| !(1..=TIMEOUT_SECONDS_MAX).contains(s)) {
        let detail = "the timeout value must be between 1 and 30 seconds";
        errors.invalid(path.child("timeoutSeconds"), seconds, detail);
    }
    for (field, selector) in
        [("namespaceSelector", hook.namespace_selector), ("objectSelector", hook.object_selector)]
    {
        if let Some(selector) = selector {
            validation::label_selector(selector, &path.child(field), errors);
        }
    }
    client(hook.client, &path.child("clientConfig"), errors);
    admission_policy::match_conditions(
        hook.match_conditions,
        Default::default(),
        &path.child("matchConditions"),
        errors,
    );
    review_versions(hook.review_versions, &path.child("admissionReviewVersions"), errors);
}

/// A DNS name of at least three parts.
fn name(name: &str, path: &Path<'_>, errors: &mut Errors) {
    if name.is_empty() {
        errors.required(path, "");
    } else if let Err(detail) = validation::dns_subdomain(name) {
        errors.invalid(path, name, detail);
    } else if name.split('.').count() < 3 {
        errors.invalid(path, name, "should be a domain with at least three segments separated by dots");
    }
}

fn review_versions(versions: &[String], path: &Path<'_>, errors: &mut Errors) {
    let known = REVIEW_VERSIONS.join(", ");
    if versions.is_empty() {
        return errors.required(path, &format!("must specify one of {known}"));
    }
    for (i, version) in versions.iter().enumerate() {
        if versions.iter().take(i).any(|v| v == version) {
            errors.invalid(path.index(i), version, "duplicate version");
        } else {
            errors.check(path.index(i), version, validation::dns_1035_label);
        }
    }
    if !versions.iter().any(|v| REVIEW_VERSIONS.contains(&v.as_str())) {
        errors.invalid(path, versions, format!("must include at least one of {known}"));
    }
}

/// How to call a webhook: a URL or a service.
fn client(client: &WebhookClientConfig, path: &Path<'_>, errors: &mut Errors) {
    match (&client.url, &client.service) {
        (Some(url), None) => self::url(url, &path.child("url"), errors),
        (None, Some(service)) => self::service(service, &path.child("service"), errors),
        _ => errors.required(path, "exactly one of url or service is required"),
    }
}

/// Also for conversion webhooks of custom resources.
pub(crate) fn url(url: &str, path: &Path<'_>, errors: &mut Errors) {
    const FORM: &str = "; desired format: https://host[/path]";
    let (rest, fragment) = url.split_once('#').unwrap_or((url, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let is_scheme = |s: &str| {
        s.starts_with(|c: char| c.is_ascii_alphabetic())
            && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
    };
    let (scheme, rest) = match rest.split_once(':') {
        Some((scheme, rest)) if is_scheme(scheme) => (scheme.to_ascii_lowercase(), rest),
        _ => (String::new(), rest),
    };
    let authority = rest.strip_prefix("//").map(|r| r.split('/').next().unwrap_or_default());
    let (user, host) = match authority.unwrap_or_default().rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, authority.unwrap_or_default()),
    };
    if url.bytes().any(|b| b.is_ascii_control()) || host.contains(' ') {
        let why = format!("parse {url:?}: net/url: invalid control character in URL");
        return errors.required(path, &format!("url must be a valid URL: {why}{FORM}"));
    }
    if scheme != "https" {
        errors.invalid(path, &scheme, format!("'https' is the only allowed URL scheme{FORM}"));
    }
    if host.is_empty() {
        errors.invalid(path, host, format!("host must be specified{FORM}"));
    }
    if let Some(user) = user {
        errors.invalid(path, user, "user information is not permitted in the URL");
    }
    if !fragment.is_empty() {
        errors.invalid(path, fragment, "fragments are not permitted in the URL");
    }
    if !query.is_empty() {
        errors.invalid(path, query, "query parameters are not permitted in the URL");
    }
}

fn service(service: &ServiceReference, path: &Path<'_>, errors: &mut Errors) {
    // Upstream mixes the two up: where one is missing, it asks for the other.
    for (field, value) in [("name", &service.namespace), ("namespace", &service.name)] {
        if value.is_empty() {
            errors.required(path.child(field), "");
        }
    }
    let port = service.port.unwrap_or_default();
    if let Err(detail) = validation::port_number(port) {
        errors.invalid(path.child("port"), port, format!("port is not valid: {detail}"));
    }
    let text = service.path.as_deref().unwrap_or_default();
    let at = path.child("path");
    match text {
        "" | "/" => return,
        "//" => return errors.invalid(at, text, "segment[0] may not be empty"),
        _ => {}
    }
    if !text.starts_with('/') {
        errors.invalid(at, text, "must start with a '/'");
    }
    // Upstream leaves out the first letter, whatever it is.
    let rest: String = text.chars().skip(1).collect();
    for (i, step) in rest.strip_suffix('/').unwrap_or(&rest).split('/').enumerate() {
        if step.is_empty() {
            errors.invalid(at, text, format!("segment[{i}] may not be empty"));
        } else if let Err(detail) = validation::dns_subdomain(step) {
            errors.invalid(at, text, format!("segment[{i}]: {detail}"));
        }
    }
}

/// Which requests a webhook or policy is for.
pub(super) struct Rule<'a> {
    operations: &'a [String],
    groups: &'a [String],
    versions: &'a [String],
    resources: &'a [String],
    scope: Option<&'a str>,
}

impl<'a> From<&'a RuleWithOperations> for Rule<'a> {
    fn from(rule: &'a RuleWithOperations) -> Self {
        Self {
            operations: rule.operations.as_deref().unwrap_or_default(),
            groups: rule.api_groups.as_deref().unwrap_or_default(),
            versions: rule.api_versions.as_deref().unwrap_or_default(),
            resources: rule.resources.as_deref().unwrap_or_default(),
            scope: rule.scope.as_deref(),
        }
    }
}

impl<'a> From<&'a NamedRuleWithOperations> for Rule<'a> {
    fn from(rule: &'a NamedRuleWithOperations) -> Self {
        Self {
            operations: rule.operations.as_deref().unwrap_or_default(),
            groups: rule.api_groups.as_deref().unwrap_or_default(),
            versions: rule.api_versions.as_deref().unwrap_or_default(),
            resources: rule.resources.as_deref().unwrap_or_default(),
            scope: rule.scope.as_deref(),
        }
    }
}

impl Rule<'_> {
    pub(super) fn validate(&self, path: &Path<'_>, errors: &mut Errors) {
        for (field, values, what) in [
            ("operations", self.operations, "operations"),
            ("apiGroups", self.groups, "API groups"),
            ("apiVersions", self.versions, "API versions"),
        ] {
            let at = path.child(field);
            if values.is_empty() {
                errors.required(at, "");
            }
            if values.len() > 1 && values.iter().any(|v| v == "*") {
                errors.invalid(at, values, format!("if '*' is present, must not specify other {what}"));
            }
            for (i, value) in values.iter().enumerate() {
                if field == "operations" && !OPERATIONS.contains(&value.as_str()) {
                    errors.not_supported(at.index(i), value, OPERATIONS);
                } else if field == "apiVersions" && value.is_empty() {
                    errors.required(at.index(i), "");
                }
            }
        }
        resources(self.resources, &path.child("resources"), errors);
        if let Some(scope) = self.scope.filter(|s| !SCOPES.contains(s)) {
            errors.not_supported(path.child("scope"), scope, SCOPES);
        }
    }
}

/// `pods`, `pods/log`, `pods/*`, `*/scale`, `*`, `*/*`: none that another covers.
fn resources(resources: &[String], path: &Path<'_>, errors: &mut Errors) {
    if resources.is_empty() {
        errors.required(path, "");
    }
    let mut bare = false;
    for (i, resource) in resources.iter().enumerate() {
        let at = path.index(i);
        let Some((name, sub)) = resource.split_once('/') else {
            if resource.is_empty() {
                errors.required(at, "");
            } else {
                // As upstream, the last one decides.
                bare = resource != "*";
            }
            continue;
        };
        let before = |wanted: String| resources.iter().take(i).any(|r| *r == wanted);
        if before(format!("{name}/*")) {
            let detail = format!("if '{name}/*' is present, must not specify {resource}");
            errors.invalid(at, resource, detail);
        }
        if before(format!("*/{sub}")) {
            errors.invalid(at, resource, format!("if '*/{sub}' is present, must not specify {resource}"));
        }
    }
    let has = |wanted: &str| resources.iter().any(|r| r == wanted);
    if resources.len() > 1 && has("*/*") {
        errors.invalid(path, json!(resources), "if '*/*' is present, must not specify other resources");
    }
    if has("*") && bare {
        let detail = "if '*' is present, must not specify other resources without subresources";
        errors.invalid(path, json!(resources), detail);
    }
}

#[cfg(test)]
#[path = "webhook_tests.rs"]
mod tests;
