//! What a pod gets when its author says nothing; templates get the same, but for what upstream keeps to real pods.

use std::collections::BTreeMap;

use coracle_client::amounts::{Side, of_containers};
use k8s_openapi::api::core::v1::{
    Container, ContainerPort, EnvVar, EphemeralContainer, HTTPGetAction, Lifecycle, Pod, PodSpec,
    PodTemplateSpec, Probe, ResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Wire;

use super::volumes;
use crate::validation::given;

const TERMINATION_MESSAGE_PATH: &str = "/dev/termination-log";

pub(crate) fn text(field: &mut Option<String>, default: &str) {
    if given(field).is_none() {
        *field = Some(default.to_owned());
    }
}

pub(crate) fn number<N: Default + PartialEq>(field: &mut Option<N>, default: N) {
    if field.as_ref().is_none_or(|n| *n == N::default()) {
        *field = Some(default);
    }
}

/// A pod template, as deployments, replica sets and jobs carry it.
pub(crate) fn template(template: &mut PodTemplateSpec) {
    template.metadata.get_or_insert_default();
    spec(template.spec.get_or_insert_default());
}

pub(super) fn pod(pod: &mut Pod) {
    let spec_of_pod = pod.spec.get_or_insert_default();
    for container in spec_of_pod.containers.iter_mut().chain(spec_of_pod.init_containers.iter_mut().flatten())
    {
        requests_from_limits(container.resources.get_or_insert_default());
    }
    pod_level_requests(spec_of_pod);
    spec_of_pod.enable_service_links.get_or_insert(true);
    if spec_of_pod.host_network == Some(true) {
        let containers =
            spec_of_pod.containers.iter_mut().chain(spec_of_pod.init_containers.iter_mut().flatten());
        for port in containers.flat_map(|c| c.ports.iter_mut().flatten()) {
            number(&mut port.host_port, port.container_port);
        }
    }
    spec(spec_of_pod);
}

fn spec(spec: &mut PodSpec) {
    text(&mut spec.dns_policy, "ClusterFirst");
    text(&mut spec.restart_policy, "Always");
    text(&mut spec.scheduler_name, "default-scheduler");
    spec.termination_grace_period_seconds.get_or_insert(30);
    spec.security_context.get_or_insert_default();
    // The older name of the field shows what the newer one says.
    if given(&spec.service_account_name).is_none() {
        spec.service_account_name = given(&spec.service_account).map(str::to_owned);
    }
    spec.service_account = spec.service_account_name.clone();
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        self::container(container);
    }
    for container in spec.ephemeral_containers.iter_mut().flatten() {
        ephemeral(container);
    }
    for volume in spec.volumes.iter_mut().flatten() {
        volumes::set_defaults(volume);
    }
}

fn container(container: &mut Container) {
    image_pull_policy(&mut container.image_pull_policy, container.image.as_deref());
    text(&mut container.termination_message_path, TERMINATION_MESSAGE_PATH);
    text(&mut container.termination_message_policy, "File");
    container.resources.get_or_insert_default();
    ports(container.ports.as_deref_mut());
    env(container.env.as_deref_mut());
    for p in [&mut container.liveness_probe, &mut container.readiness_probe, &mut container.startup_probe] {
        probe(p.as_mut());
    }
    lifecycle(container.lifecycle.as_mut());
}

fn ephemeral(container: &mut EphemeralContainer) {
    image_pull_policy(&mut container.image_pull_policy, container.image.as_deref());
    text(&mut container.termination_message_path, TERMINATION_MESSAGE_PATH);
    text(&mut container.termination_message_policy, "File");
    container.resources.get_or_insert_default();
    ports(container.ports.as_deref_mut());
    env(container.env.as_deref_mut());
    for p in [&mut container.liveness_probe, &mut container.readiness_probe, &mut container.startup_probe] {
        probe(p.as_mut());
    }
    lifecycle(container.lifecycle.as_mut());
}

/// `Always` for images whose content may change under the same name.
pub(super) fn image_pull_policy(policy: &mut Option<String>, image: Option<&str>) {
    let image = image.unwrap_or_default();
    let digest = image.contains('@');
    let last = image.rsplit('/').next().unwrap_or_default();
    let tag = last.split_once(':').map(|(_, tag)| tag);
    let moving = !digest && matches!(tag, None | Some("" | "latest"));
    text(policy, if moving { "Always" } else { "IfNotPresent" });
}

fn ports(ports: Option<&mut [ContainerPort]>) {
    for port in ports.into_iter().flatten() {
        text(&mut port.protocol, "TCP");
    }
}

fn env(env: Option<&mut [EnvVar]>) {
    for source in env.into_iter().flatten().filter_map(|e| e.value_from.as_mut()) {
        if let Some(field) = &mut source.field_ref {
            text(&mut field.api_version, "v1");
        }
        if let Some(resource) = &mut source.resource_field_ref {
            resource.divisor.get_or_insert_with(|| Wire("0".into()));
        }
        if let Some(file) = &mut source.file_key_ref {
            file.optional.get_or_insert(false);
        }
    }
}

fn probe(probe: Option<&mut Probe>) {
    let Some(probe) = probe else { return };
    number(&mut probe.timeout_seconds, 1);
    number(&mut probe.period_seconds, 10);
    number(&mut probe.success_threshold, 1);
    number(&mut probe.failure_threshold, 3);
    http_get(probe.http_get.as_mut());
    if let Some(grpc) = &mut probe.grpc {
        grpc.service.get_or_insert_default();
    }
}

fn http_get(action: Option<&mut HTTPGetAction>) {
    let Some(action) = action else { return };
    text(&mut action.path, "/");
    text(&mut action.scheme, "HTTP");
}

fn lifecycle(lifecycle: Option<&mut Lifecycle>) {
    let Some(lifecycle) = lifecycle else { return };
    for handler in [&mut lifecycle.post_start, &mut lifecycle.pre_stop].into_iter().flatten() {
        http_get(handler.http_get.as_mut());
    }
}

/// What may be used at most is asked for, where nothing else is said.
fn requests_from_limits(resources: &mut ResourceRequirements) {
    let Some(limits) = &resources.limits else { return };
    let requests = resources.requests.get_or_insert_with(BTreeMap::new);
    for (name, limit) in limits {
        requests.entry(name.clone()).or_insert_with(|| limit.clone());
    }
}

/// Resources of the pod as a whole: requests come from its containers' where they name any, else from its limits.
fn pod_level_requests(spec: &mut PodSpec) {
    let totals =
        of_containers(&spec.containers, spec.init_containers.as_deref().unwrap_or_default(), Side::Requests);
    let Some(resources) = &mut spec.resources else { return };
    let Some(limits) = &resources.limits else { return };
    let requests = resources.requests.get_or_insert_with(BTreeMap::new);
    for (name, limit) in limits {
        let total = totals.get(name).map_or_else(|| limit.clone(), |total| total.to_wire());
        requests.entry(name.clone()).or_insert(total);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::kinds::testing::defaulted;

    use super::*;

    fn spec_of(spec: Value) -> Value {
        serde_json::to_value(defaulted::<Pod>(json!({"spec": spec})).spec).unwrap()
    }

    #[test]
    fn a_bare_pod_gets_everything() {
        assert_eq!(
            spec_of(json!({"containers": [{"name": "c", "image": "i"}]})),
            json!({"containers": [{"name": "c", "image": "i", "imagePullPolicy": "Always", "resources": {},
                    "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}],
                "dnsPolicy": "ClusterFirst", "enableServiceLinks": true, "restartPolicy": "Always",
                "schedulerName": "default-scheduler", "securityContext": {}, "terminationGracePeriodSeconds": 30})
        );
    }

    #[test]
    fn pull_policy_by_tag() {
        for (image, want) in [
            ("a", "Always"),
            ("a:latest", "Always"),
            ("a:1", "IfNotPresent"),
            ("localhost:5000/a", "Always"),
            ("localhost:5000/a:2", "IfNotPresent"),
            ("a@sha256:00", "IfNotPresent"),
            ("a:latest@sha256:00", "IfNotPresent"),
        ] {
            let mut policy = None;
            image_pull_policy(&mut policy, Some(image));
            assert_eq!(policy.as_deref(), Some(want), "{image}");
        }
    }

    #[test]
    fn parts_of_containers() {
        let container = |container: Value| {
            let mut container = container;
            container["name"] = json!("c");
            spec_of(json!({"containers": [container]}))["containers"][0].clone()
        };
        assert_eq!(
            container(
                json!({"resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "100m"}}})
            )["resources"],
            json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "100m", "memory": "1Gi"}})
        );
        assert_eq!(
            container(json!({"livenessProbe": {"httpGet": {"port": 80}}}))["livenessProbe"],
            json!({"httpGet": {"path": "/", "port": 80, "scheme": "HTTP"}, "timeoutSeconds": 1, "periodSeconds": 10,
                "successThreshold": 1, "failureThreshold": 3})
        );
        assert_eq!(
            container(json!({"ports": [{"containerPort": 80}]}))["ports"],
            json!([{"containerPort": 80, "protocol": "TCP"}])
        );
        assert_eq!(
            container(
                json!({"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]})
            )["env"][0],
            json!({"name": "A", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}})
        );
    }

    #[test]
    fn the_host_network_opens_host_ports_of_pods_but_not_of_templates() {
        let spec =
            json!({"hostNetwork": true, "containers": [{"name": "c", "ports": [{"containerPort": 80}]}]});
        assert_eq!(spec_of(spec.clone())["containers"][0]["ports"][0]["hostPort"], 80);
        let mut of_template: PodTemplateSpec = serde_json::from_value(json!({"spec": spec})).unwrap();
        template(&mut of_template);
        assert_eq!(of_template.spec.unwrap().containers[0].ports.as_ref().unwrap()[0].host_port, None);
    }

    #[test]
    fn the_service_account_has_two_names() {
        for field in ["serviceAccount", "serviceAccountName"] {
            let mut spec = json!({"containers": []});
            spec[field] = json!("robot");
            let spec = spec_of(spec);
            assert_eq!(
                (&spec["serviceAccount"], &spec["serviceAccountName"]),
                (&json!("robot"), &json!("robot"))
            );
        }
    }
}
