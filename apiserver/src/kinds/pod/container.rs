//! Containers of every sort: their names, images, ports, mounts, probes and rights.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, EphemeralContainer, SecurityContext, Volume, VolumeDevice, VolumeMount,
};

use super::{env, probe, resources};
use crate::field_error::{Errors, Path};
use crate::validation::{self, given};

pub(super) const PULL_POLICIES: &[&str] = &["Always", "IfNotPresent", "Never"];
const MESSAGE_POLICIES: &[&str] = &["FallbackToLogsOnError", "File"];
const PROPAGATIONS: &[&str] = &["Bidirectional", "HostToContainer", "None"];

/// What the containers of one pod share.
pub(super) struct Pod<'a> {
    pub volumes: BTreeMap<&'a str, &'a Volume>,
    pub names: BTreeSet<String>,
    pub host_network: bool,
    pub grace_seconds: Option<i64>,
}

pub(super) fn containers(containers: &[Container], pod: &mut Pod<'_>, path: &Path<'_>, errors: &mut Errors) {
    if containers.is_empty() {
        return errors.required(path, "");
    }
    for (i, container) in containers.iter().enumerate() {
        let at = path.index(i);
        name(&container.name, &at, errors);
        common(container, pod, &at, errors);
        unique(&container.name, pod, &at, errors);
        probes(container, pod, &at, errors);
        if container.restart_policy.is_some() && container.restart_policy_rules.is_none() {
            restart_policy(container, &["Always", "Never", "OnFailure"], &at, errors);
        }
    }
    host_ports(containers, path, errors);
}

pub(super) fn init_containers(
    containers: &[Container],
    pod: &mut Pod<'_>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    for (i, container) in containers.iter().enumerate() {
        let at = path.index(i);
        name(&container.name, &at, errors);
        common(container, pod, &at, errors);
        restart_policy(container, &["Always", "Never", "OnFailure"], &at, errors);
        // One without a name takes none.
        if !container.name.is_empty() || pod.names.contains("") {
            unique(&container.name, pod, &at, errors);
        }
        if container.restart_policy.as_deref() == Some("Always") {
            probes(container, pod, &at, errors);
            continue;
        }
        for (field, set) in [
            ("lifecycle", container.lifecycle.is_some()),
            ("livenessProbe", container.liveness_probe.is_some()),
            ("readinessProbe", container.readiness_probe.is_some()),
            ("startupProbe", container.startup_probe.is_some()),
        ] {
            if set {
                errors.forbidden(
                    at.child(field),
                    "may not be set for init containers without restartPolicy=Always",
                );
            }
        }
    }
}

pub(super) fn ephemeral(
    list: &[EphemeralContainer],
    pod: &mut Pod<'_>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let targets = pod.names.clone();
    for (i, container) in list.iter().enumerate() {
        let at = path.index(i);
        let plain = plain(container);
        name(&container.name, &at, errors);
        common(&plain, pod, &at, errors);
        unique(&container.name, pod, &at, errors);
        if let Some(target) = given(&container.target_container_name)
            && !targets.contains(target)
        {
            errors.not_found(at.child("targetContainerName"), target);
        }
        for (field, set) in [
            ("ports", container.ports.as_ref().is_some_and(|p| !p.is_empty())),
            ("livenessProbe", container.liveness_probe.is_some()),
            ("readinessProbe", container.readiness_probe.is_some()),
            ("startupProbe", container.startup_probe.is_some()),
            ("lifecycle", container.lifecycle.is_some()),
            ("resources", container.resources.as_ref().is_some_and(|r| *r != Default::default())),
            ("restartPolicy", container.restart_policy.is_some()),
            ("resizePolicy", container.resize_policy.is_some()),
        ] {
            if set {
                errors.forbidden(at.child(field), "cannot be set for an Ephemeral Container");
            }
        }
        for (i, mount) in container.volume_mounts.iter().flatten().enumerate() {
            for (field, set) in
                [("subPath", given(&mount.sub_path)), ("subPathExpr", given(&mount.sub_path_expr))]
            {
                if set.is_some() {
                    let at = at.child("volumeMounts");
                    errors.forbidden(at.index(i).child(field), "cannot be set for an Ephemeral Container");
                }
            }
        }
    }
}

/// What an ephemeral container has in common with the others.
fn plain(container: &EphemeralContainer) -> Container {
    Container {
        name: container.name.clone(),
        image: container.image.clone(),
        image_pull_policy: container.image_pull_policy.clone(),
        env: container.env.clone(),
        env_from: container.env_from.clone(),
        security_context: container.security_context.clone(),
        termination_message_policy: container.termination_message_policy.clone(),
        volume_devices: container.volume_devices.clone(),
        volume_mounts: container.volume_mounts.clone(),
        ..Container::default()
    }
}

fn name(name: &str, path: &Path<'_>, errors: &mut Errors) {
    let path = path.child("name");
    if name.is_empty() {
        errors.required(path, "");
    } else if let Err(detail) = validation::dns_label(name) {
        errors.invalid(path, name, detail);
    }
}

/// No other container that was looked at before may have the name.
fn unique(name: &str, pod: &mut Pod<'_>, path: &Path<'_>, errors: &mut Errors) {
    if !pod.names.insert(name.to_owned()) {
        errors.duplicate(path.child("name"), name);
    }
}

fn common(container: &Container, pod: &Pod<'_>, path: &Path<'_>, errors: &mut Errors) {
    match container.image.as_deref().unwrap_or_default() {
        "" => errors.required(path.child("image"), ""),
        image if image.trim() != image => {
            errors.invalid(path.child("image"), image, "must not have leading or trailing whitespace");
        }
        _ => {}
    }
    errors.one_of(path.child("imagePullPolicy"), container.image_pull_policy.as_deref(), PULL_POLICIES);
    errors.one_of(
        path.child("terminationMessagePolicy"),
        container.termination_message_policy.as_deref(),
        MESSAGE_POLICIES,
    );
    let port_list = container.ports.as_deref().unwrap_or_default();
    ports(port_list, pod.host_network, &path.child("ports"), errors);
    env::validate(container.env.as_deref().unwrap_or_default(), &path.child("env"), errors);
    env::validate_from(container.env_from.as_deref().unwrap_or_default(), &path.child("envFrom"), errors);
    let devices = container.volume_devices.as_deref().unwrap_or_default();
    mounts(
        container.volume_mounts.as_deref().unwrap_or_default(),
        devices,
        pod,
        &path.child("volumeMounts"),
        errors,
    );
    volume_devices(devices, pod, &path.child("volumeDevices"), errors);
    if let Some(resources) = &container.resources {
        resources::validate(resources, &path.child("resources"), errors);
    }
    if let Some(context) = &container.security_context {
        security_context(context, &path.child("securityContext"), errors);
    }
}

fn restart_policy(container: &Container, supported: &[&str], path: &Path<'_>, errors: &mut Errors) {
    if let Some(policy) = &container.restart_policy
        && !supported.contains(&policy.as_str())
    {
        errors.not_supported(path.child("restartPolicy"), policy, supported);
    }
}

fn probes(container: &Container, pod: &Pod<'_>, path: &Path<'_>, errors: &mut Errors) {
    if let Some(probe) = &container.liveness_probe {
        probe::liveness(probe, pod.grace_seconds, &path.child("livenessProbe"), errors);
    }
    if let Some(probe) = &container.startup_probe {
        probe::liveness(probe, pod.grace_seconds, &path.child("startupProbe"), errors);
    }
    if let Some(probe) = &container.readiness_probe {
        probe::readiness(probe, &path.child("readinessProbe"), errors);
    }
    if let Some(lifecycle) = &container.lifecycle {
        probe::lifecycle(lifecycle, pod.grace_seconds, &path.child("lifecycle"), errors);
    }
}

fn ports(ports: &[ContainerPort], host_network: bool, path: &Path<'_>, errors: &mut Errors) {
    for (i, port) in ports.iter().enumerate() {
        let at = path.index(i);
        if let Some(name) = given(&port.name) {
            errors.check(at.child("name"), name, validation::port_name);
            if ports[..i].iter().any(|p| p.name == port.name) {
                errors.duplicate(at.child("name"), name);
            }
        }
        if port.container_port == 0 {
            errors.required(at.child("containerPort"), "");
        } else if let Err(detail) = validation::port_number(port.container_port) {
            errors.invalid(at.child("containerPort"), port.container_port, detail);
        }
        if let Some(host_port) = port.host_port.filter(|p| *p != 0) {
            if let Err(detail) = validation::port_number(host_port) {
                errors.invalid(at.child("hostPort"), host_port, detail);
            }
            if host_network && host_port != port.container_port {
                errors.invalid(
                    at.child("hostPort"),
                    host_port,
                    "must match `containerPort` when `hostNetwork` is true",
                );
            }
        }
        errors.one_of(at.child("protocol"), port.protocol.as_deref(), crate::kinds::PROTOCOLS);
        if let Some(ip) = given(&port.host_ip) {
            errors.check(at.child("hostIP"), ip, validation::ip);
        }
    }
}

/// Two containers of a pod cannot have the same port of the host.
fn host_ports(containers: &[Container], path: &Path<'_>, errors: &mut Errors) {
    let mut taken = BTreeSet::new();
    for (i, container) in containers.iter().enumerate() {
        let at = path.index(i);
        let at = at.child("ports");
        for (j, port) in container.ports.iter().flatten().enumerate() {
            let Some(number) = port.host_port.filter(|p| *p != 0) else { continue };
            let protocol = port.protocol.as_deref().unwrap_or_default();
            let ip = port.host_ip.as_deref().unwrap_or_default();
            if !taken.insert((protocol, ip, number)) {
                errors.duplicate(at.index(j).child("hostPort"), format!("{protocol}/{ip}/{number}"));
            }
        }
    }
}

fn mounts(
    mounts: &[VolumeMount],
    devices: &[VolumeDevice],
    pod: &Pod<'_>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    for (i, mount) in mounts.iter().enumerate() {
        let at = path.index(i);
        if mount.name.is_empty() {
            errors.required(at.child("name"), "");
        } else if !pod.volumes.contains_key(mount.name.as_str()) {
            errors.not_found(at.child("name"), &mount.name);
        }
        if mount.mount_path.is_empty() {
            errors.required(at.child("mountPath"), "");
        } else if mounts[..i].iter().any(|m| m.mount_path == mount.mount_path) {
            errors.invalid(at.child("mountPath"), &mount.mount_path, "must be unique");
        }
        if devices.iter().any(|d| d.name == mount.name) {
            errors.invalid(at.child("name"), &mount.name, "must not already exist in volumeDevices");
        }
        match (given(&mount.sub_path), given(&mount.sub_path_expr)) {
            (Some(_), Some(expr)) => {
                errors.invalid(
                    at.child("subPathExpr"),
                    expr,
                    "subPathExpr and subPath are mutually exclusive",
                );
            }
            (Some(path), None) => errors.check(at.child("subPath"), path, validation::local_descending_path),
            (None, Some(path)) => {
                errors.check(at.child("subPathExpr"), path, validation::local_descending_path)
            }
            (None, None) => {}
        }
        if let Some(propagation) = &mount.mount_propagation
            && !PROPAGATIONS.contains(&propagation.as_str())
        {
            errors.not_supported(at.child("mountPropagation"), propagation, PROPAGATIONS);
        }
        if let Some(recursive) = mount.recursive_read_only.as_deref() {
            match recursive {
                "Disabled" => {}
                "Enabled" | "IfPossible" if mount.read_only != Some(true) => {
                    let detail = format!("may only be specified when readOnly is true, not {recursive}");
                    errors.forbidden(at.child("recursiveReadOnly"), &detail);
                }
                "Enabled" | "IfPossible" => {}
                other => {
                    errors.not_supported(
                        at.child("recursiveReadOnly"),
                        other,
                        &["Disabled", "Enabled", "IfPossible"],
                    );
                }
            }
        }
    }
}

fn volume_devices(devices: &[VolumeDevice], pod: &Pod<'_>, path: &Path<'_>, errors: &mut Errors) {
    for (i, device) in devices.iter().enumerate() {
        let at = path.index(i);
        match pod.volumes.get(device.name.as_str()) {
            _ if device.name.is_empty() => errors.required(at.child("name"), ""),
            None => errors.not_found(at.child("name"), &device.name),
            Some(v) if v.persistent_volume_claim.is_none() && v.ephemeral.is_none() => {
                let detail =
                    "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                errors.invalid(at.child("name"), &device.name, detail);
            }
            Some(_) => {}
        }
        if device.device_path.is_empty() {
            errors.required(at.child("devicePath"), "");
        } else if devices[..i].iter().any(|d| d.device_path == device.device_path) {
            errors.invalid(at.child("devicePath"), &device.device_path, "must be unique");
        }
    }
}

fn security_context(context: &SecurityContext, path: &Path<'_>, errors: &mut Errors) {
    for (field, id) in [("runAsUser", context.run_as_user), ("runAsGroup", context.run_as_group)] {
        super::spec::id(id, &path.child(field), errors);
    }
    if context.allow_privilege_escalation == Some(false) {
        if context.privileged == Some(true) {
            errors.invalid(
                path,
                context,
                "cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
            );
        }
        let added = context.capabilities.iter().flat_map(|c| c.add.iter().flatten());
        if added.into_iter().any(|c| c == "CAP_SYS_ADMIN") {
            let detail =
                "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.invalid(path, context, detail);
        }
    }
    if let Some(mount) = &context.proc_mount
        && !matches!(mount.as_str(), "Default" | "Unmasked")
    {
        errors.not_supported(path.child("procMount"), mount, &["Default", "Unmasked"]);
    }
    if let Some(profile) = &context.seccomp_profile {
        let local = profile.localhost_profile.as_deref();
        super::spec::profile(&profile.type_, local, &path.child("seccompProfile"), errors);
    }
    if let Some(profile) = &context.app_armor_profile {
        let local = profile.localhost_profile.as_deref();
        super::spec::profile(&profile.type_, local, &path.child("appArmorProfile"), errors);
    }
}

#[cfg(test)]
#[path = "container_tests.rs"]
mod tests;
