//! What a pod's spec must say, for pods and for templates.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{HostAlias, PodDNSConfig, PodSecurityContext, PodSpec, PodTemplateSpec};

use super::{container, placement, resources, volumes};
use crate::field_error::{Errors, Path};
use crate::validation::{self, given};

const RESTART_POLICIES: &[&str] = &["Always", "OnFailure", "Never"];
const DNS_POLICIES: &[&str] = &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
const PREEMPTION_POLICIES: &[&str] = &["Never", "PreemptLowerPriority"];
const PROFILES: &[&str] = &["Localhost", "RuntimeDefault", "Unconfined"];
const NAMESERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;

/// The template of a controller's pods, and that the controller's pods restart.
pub(crate) fn template(template: &PodTemplateSpec, path: &Path<'_>, errors: &mut Errors) {
    let metadata = template.metadata.clone().unwrap_or_default();
    validation::labels(metadata.labels.as_ref(), &path.child("labels"), errors);
    validation::annotations(metadata.annotations.as_ref(), &path.child("annotations"), errors);
    let path = path.child("spec");
    let Some(spec) = &template.spec else { return errors.required(path.child("containers"), "") };
    validate(spec, &path, errors);
    if spec.ephemeral_containers.as_ref().is_some_and(|c| !c.is_empty()) {
        errors
            .forbidden(path.child("ephemeralContainers"), "ephemeral containers not allowed in pod template");
    }
}

pub(super) fn validate(spec: &PodSpec, path: &Path<'_>, errors: &mut Errors) {
    let volumes = spec.volumes.as_deref().unwrap_or_default();
    let mut pod = container::Pod {
        volumes: volumes::validate(volumes, &path.child("volumes"), errors),
        names: BTreeSet::new(),
        host_network: spec.host_network == Some(true),
        grace_seconds: spec.termination_grace_period_seconds,
    };
    container::containers(&spec.containers, &mut pod, &path.child("containers"), errors);
    let init = spec.init_containers.as_deref().unwrap_or_default();
    container::init_containers(init, &mut pod, &path.child("initContainers"), errors);
    let ephemeral = spec.ephemeral_containers.as_deref().unwrap_or_default();
    container::ephemeral(ephemeral, &mut pod, &path.child("ephemeralContainers"), errors);

    errors.one_of(path.child("restartPolicy"), spec.restart_policy.as_deref(), RESTART_POLICIES);
    errors.one_of(path.child("dnsPolicy"), spec.dns_policy.as_deref(), DNS_POLICIES);
    dns(spec.dns_config.as_ref(), spec.dns_policy.as_deref(), &path.child("dnsConfig"), errors);
    placement::validate(spec, path, errors);
    names(spec, path, errors);
    if let Some(seconds) = spec.active_deadline_seconds
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        errors.invalid(
            path.child("activeDeadlineSeconds"),
            seconds,
            "must be between 1 and 2147483647, inclusive",
        );
    }
    if let Some(policy) = &spec.preemption_policy
        && !PREEMPTION_POLICIES.contains(&policy.as_str())
    {
        errors.not_supported(path.child("preemptionPolicy"), policy, PREEMPTION_POLICIES);
    }
    for (i, gate) in spec.readiness_gates.iter().flatten().enumerate() {
        errors.check(
            path.child("readinessGates").index(i).child("conditionType"),
            &gate.condition_type,
            validation::qualified_name,
        );
    }
    let gates = spec.scheduling_gates.as_deref().unwrap_or_default();
    for (i, gate) in gates.iter().enumerate() {
        let at = path.child("schedulingGates");
        if gate.name.is_empty() {
            errors.required(at.index(i), "must not be empty");
        } else {
            errors.check(at.index(i), &gate.name, validation::qualified_name);
        }
        if gates[..i].contains(gate) {
            errors.duplicate(at.index(i), &gate.name);
        }
    }
    if let Some(resources) = &spec.resources {
        resources::validate(resources, &path.child("resources"), errors);
    }
    let overhead = path.child("overhead");
    for (name, quantity) in spec.overhead.iter().flatten() {
        resources::name(name, &overhead.key(name), errors);
        validation::quantity(quantity, &overhead.key(name), errors);
    }
    for (i, alias) in spec.host_aliases.iter().flatten().enumerate() {
        host_alias(alias, &path.child("hostAliases").index(i), errors);
    }
    if let Some(context) = &spec.security_context {
        security_context(context, spec.host_network == Some(true), &path.child("securityContext"), errors);
    }
    if spec.share_process_namespace == Some(true) && spec.host_pid == Some(true) {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.invalid(path.child("shareProcessNamespace"), true, detail);
    }
    if let Some(os) = &spec.os {
        errors.one_of(path.child("os").child("name"), Some(&os.name), &["linux", "windows"]);
    }
}

fn names(spec: &PodSpec, path: &Path<'_>, errors: &mut Errors) {
    type Check = fn(&str) -> Result<(), String>;
    let checks: [(&str, &Option<String>, Check); 7] = [
        ("serviceAccountName", &spec.service_account_name, validation::dns_subdomain),
        ("nodeName", &spec.node_name, validation::dns_subdomain),
        ("hostname", &spec.hostname, validation::dns_label),
        ("subdomain", &spec.subdomain, validation::dns_label),
        ("priorityClassName", &spec.priority_class_name, validation::dns_subdomain),
        ("runtimeClassName", &spec.runtime_class_name, validation::dns_subdomain),
        ("schedulerName", &spec.scheduler_name, validation::qualified_name),
    ];
    for (field, name, check) in checks {
        if let Some(name) = given(name) {
            errors.check(path.child(field), name, check);
        }
    }
    for (i, secret) in spec.image_pull_secrets.iter().flatten().enumerate() {
        if secret.name.is_empty() {
            errors.required(path.child("imagePullSecrets").index(i).child("name"), "");
        }
    }
}

fn dns(config: Option<&PodDNSConfig>, policy: Option<&str>, path: &Path<'_>, errors: &mut Errors) {
    let nameservers = config.and_then(|c| c.nameservers.as_deref()).unwrap_or_default();
    if policy == Some("None") {
        if config.is_none() {
            return errors.required(path, "must provide `dnsConfig` when `dnsPolicy` is None");
        }
        if nameservers.is_empty() {
            let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            return errors.required(path.child("nameservers"), detail);
        }
    }
    let Some(config) = config else { return };
    if nameservers.len() > NAMESERVERS_MAX {
        let detail = format!("must not have more than {NAMESERVERS_MAX} nameservers");
        errors.invalid(path.child("nameservers"), nameservers, detail);
    }
    for (i, server) in nameservers.iter().enumerate() {
        errors.check(path.child("nameservers").index(i), server, validation::ip);
    }
    let searches = config.searches.as_deref().unwrap_or_default();
    if searches.len() > SEARCHES_MAX {
        errors.invalid(
            path.child("searches"),
            searches,
            format!("must not have more than {SEARCHES_MAX} search paths"),
        );
    }
    for (i, search) in searches.iter().enumerate() {
        let relative = search.strip_suffix('.').unwrap_or(search);
        if search != "."
            && let Err(detail) = validation::dns_subdomain(&relative.replace('_', "a"))
        {
            errors.invalid(path.child("searches").index(i), search, detail);
        }
    }
    for (i, option) in config.options.iter().flatten().enumerate() {
        if given(&option.name).is_none() {
            errors.required(path.child("options").index(i), "must not be empty");
        }
    }
}

fn host_alias(alias: &HostAlias, path: &Path<'_>, errors: &mut Errors) {
    errors.check(path.child("ip"), &alias.ip, validation::ip);
    for (i, name) in alias.hostnames.iter().flatten().enumerate() {
        errors.check(path.child("hostnames").index(i), name, validation::dns_subdomain);
    }
}

fn security_context(context: &PodSecurityContext, host_network: bool, path: &Path<'_>, errors: &mut Errors) {
    for (field, id) in [
        ("fsGroup", context.fs_group),
        ("runAsUser", context.run_as_user),
        ("runAsGroup", context.run_as_group),
    ] {
        self::id(id, &path.child(field), errors);
    }
    for (i, group) in context.supplemental_groups.iter().flatten().enumerate() {
        id(Some(*group), &path.child("supplementalGroups").index(i), errors);
    }
    let sysctls = context.sysctls.as_deref().unwrap_or_default();
    for (i, sysctl) in sysctls.iter().enumerate() {
        let at = path.child("sysctls");
        let at = at.index(i);
        if sysctl.name.is_empty() {
            errors.required(at.child("name"), "");
        } else if sysctls[..i].iter().any(|s| s.name == sysctl.name) {
            errors.duplicate(at.child("name"), &sysctl.name);
        }
        if host_network && sysctl.name.starts_with("net.") {
            errors.invalid(at.child("name"), &sysctl.name, "may not be specified when 'hostNetwork' is true");
        }
    }
    if let Some(policy) = &context.fs_group_change_policy
        && !matches!(policy.as_str(), "Always" | "OnRootMismatch")
    {
        errors.not_supported(path.child("fsGroupChangePolicy"), policy, &["Always", "OnRootMismatch"]);
    }
    if let Some(policy) = &context.supplemental_groups_policy
        && !matches!(policy.as_str(), "Merge" | "Strict")
    {
        errors.not_supported(path.child("supplementalGroupsPolicy"), policy, &["Merge", "Strict"]);
    }
    if let Some(seccomp) = &context.seccomp_profile {
        profile(&seccomp.type_, seccomp.localhost_profile.as_deref(), &path.child("seccompProfile"), errors);
    }
    if let Some(armor) = &context.app_armor_profile {
        profile(&armor.type_, armor.localhost_profile.as_deref(), &path.child("appArmorProfile"), errors);
    }
}

/// A user or group number.
pub(super) fn id(id: Option<i64>, path: &Path<'_>, errors: &mut Errors) {
    if let Some(id) = id.filter(|id| !(0..=i64::from(i32::MAX)).contains(id)) {
        errors.invalid(path, id, "must be between 0 and 2147483647, inclusive");
    }
}

/// A seccomp or AppArmor profile: one of three, of which `Localhost` names a file.
pub(super) fn profile(type_: &str, local: Option<&str>, path: &Path<'_>, errors: &mut Errors) {
    errors.one_of(path.child("type"), Some(type_), PROFILES);
    let local = local.filter(|l| !l.is_empty());
    if type_ == "Localhost" {
        match local {
            None => errors.required(path.child("localhostProfile"), "must be set when type is Localhost"),
            Some(file) => {
                errors.check(path.child("localhostProfile"), file, validation::local_descending_path)
            }
        }
    } else if let Some(file) = local {
        errors.invalid(path.child("localhostProfile"), file, "can only be set when type is Localhost");
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::{Value, json};

    use crate::kinds::testing;

    fn with(field: &str, value: Value) -> Value {
        let mut spec = json!({"containers": [{"name": "c", "image": "i"}]});
        spec[field] = value;
        json!({"spec": spec})
    }

    #[test]
    fn one_bad_spec_per_rule() {
        testing::invalid::<Pod>(&[
            (
                with("restartPolicy", json!("X")),
                "spec.restartPolicy",
                "Unsupported value: \"X\": supported values: \"Always\", \"OnFailure\", \"Never\"",
            ),
            (with("dnsPolicy", json!("X")), "spec.dnsPolicy", "Unsupported value: \"X\""),
            (with("dnsPolicy", json!("None")), "spec.dnsConfig", "Required value: must provide `dnsConfig`"),
            (
                with("dnsConfig", json!({"nameservers": ["x"]})),
                "spec.dnsConfig.nameservers[0]",
                "Invalid value: \"x\"",
            ),
            (
                with("activeDeadlineSeconds", json!(0)),
                "spec.activeDeadlineSeconds",
                "Invalid value: 0: must be between 1",
            ),
            (
                with("hostname", json!("a.b")),
                "spec.hostname",
                "Invalid value: \"a.b\": a lowercase RFC 1123 label",
            ),
            (with("nodeName", json!("A")), "spec.nodeName", "Invalid value: \"A\""),
            (
                with("hostAliases", json!([{"ip": "x"}])),
                "spec.hostAliases[0].ip",
                "Invalid value: \"x\": must be a valid IP",
            ),
            (with("imagePullSecrets", json!([{}])), "spec.imagePullSecrets[0].name", "Required value"),
            (
                with("securityContext", json!({"fsGroup": -1})),
                "spec.securityContext.fsGroup",
                "Invalid value: -1",
            ),
            (with("preemptionPolicy", json!("X")), "spec.preemptionPolicy", "Unsupported value: \"X\""),
            (with("os", json!({"name": "plan9"})), "spec.os.name", "Unsupported value: \"plan9\""),
            (
                with("schedulingGates", json!([{"name": "a"}, {"name": "a"}])),
                "spec.schedulingGates[1]",
                "Duplicate value: \"a\"",
            ),
            (
                with("readinessGates", json!([{"conditionType": "a b"}])),
                "spec.readinessGates[0].conditionType",
                "Invalid value: \"a b\"",
            ),
        ]);
    }
}
