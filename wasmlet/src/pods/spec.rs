//! What the pod worker must remember of a pod's spec between wake-ups; the rest is decoded when it is needed.

use std::borrow::Cow;
use std::ops::Range;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, ContainerRestartRule, EphemeralContainer, Pod};

/// The default of `terminationGracePeriodSeconds`.
const GRACE_DEFAULT_SECONDS: i64 = 30;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// Init containers first, then the main ones, then ephemeral ones, each in the order of the pod.
    pub containers: Box<[ContainerView]>,
    pub init_count: usize,
    /// Where the ephemeral ones begin.
    pub main_end: usize,
    pub restart_policy: RestartPolicy,
    pub active_deadline_seconds: Option<i64>,
    pub grace_seconds: i64,
    pub readiness_gates: Box<[Box<str>]>,
    pub deletion: Option<Deletion>,
    pub generation: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deletion {
    pub grace_seconds: i64,
    /// When the grace ends: `metadata.deletionTimestamp`.
    pub deadline: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerView {
    pub name: Box<str>,
    pub image: Box<str>,
    pub restart: RestartPolicy,
    pub rules: Box<[RestartRule]>,
    /// An init container that goes on running beside the main ones.
    pub sidecar: bool,
    pub startup_probe: bool,
    pub readiness_probe: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RestartPolicy {
    #[default]
    Always,
    OnFailure,
    Never,
}

/// `restartPolicyRules`: exit codes that restart a container whatever its policy says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestartRule {
    pub not_in: bool,
    pub codes: Box<[i32]>,
}

impl RestartPolicy {
    fn parse(text: Option<&str>) -> Option<Self> {
        match text? {
            "Always" => Some(Self::Always),
            "OnFailure" => Some(Self::OnFailure),
            "Never" => Some(Self::Never),
            _ => None,
        }
    }
}

impl Spec {
    pub fn of(pod: &Pod) -> Self {
        let empty = k8s_openapi::api::core::v1::PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&empty);
        let meta = &pod.metadata;
        let restart_policy = RestartPolicy::parse(spec.restart_policy.as_deref()).unwrap_or_default();
        let grace_seconds = spec.termination_grace_period_seconds.unwrap_or(GRACE_DEFAULT_SECONDS).max(0);
        let init = spec.init_containers.as_deref().unwrap_or_default();
        let deletion = meta.deletion_timestamp.as_ref().map(|time| Deletion {
            grace_seconds: meta.deletion_grace_period_seconds.unwrap_or(grace_seconds).max(0),
            deadline: time.0,
        });
        Spec {
            containers: init
                .iter()
                .map(|c| ContainerView::of(c, true, restart_policy))
                .chain(spec.containers.iter().map(|c| ContainerView::of(c, false, restart_policy)))
                .chain(
                    spec.ephemeral_containers
                        .iter()
                        .flatten()
                        .map(|c| ContainerView::of(&plain(c), false, RestartPolicy::Never)),
                )
                .collect(),
            init_count: init.len(),
            main_end: init.len() + spec.containers.len(),
            restart_policy,
            active_deadline_seconds: spec.active_deadline_seconds,
            grace_seconds,
            readiness_gates: spec
                .readiness_gates
                .iter()
                .flatten()
                .map(|g| g.condition_type.as_str().into())
                .collect(),
            deletion,
            generation: meta.generation.unwrap_or(0),
        }
    }

    pub fn is_init(&self, index: usize) -> bool {
        index < self.init_count
    }

    pub fn is_ephemeral(&self, index: usize) -> bool {
        index >= self.main_end
    }

    /// The main containers.
    pub fn mains(&self) -> Range<usize> {
        self.init_count..self.main_end
    }

    /// `spec.containers{name}`: which container an event is about.
    pub fn field_path(&self, index: usize) -> String {
        let list = match (self.is_init(index), self.is_ephemeral(index)) {
            (true, _) => "initContainers",
            (_, true) => "ephemeralContainers",
            _ => "containers",
        };
        format!("spec.{list}{{{}}}", self.containers[index].name)
    }

    /// The container of the typed pod at our index.
    pub fn container_of<'a>(&self, pod: &'a Pod, index: usize) -> Option<Cow<'a, Container>> {
        let spec = pod.spec.as_ref()?;
        if let Some(ephemeral) = index.checked_sub(self.main_end) {
            return spec.ephemeral_containers.as_ref()?.get(ephemeral).map(|c| Cow::Owned(plain(c)));
        }
        match index.checked_sub(self.init_count) {
            Some(main) => spec.containers.get(main),
            None => spec.init_containers.as_ref()?.get(index),
        }
        .map(Cow::Borrowed)
    }
}

/// What an ephemeral container has in common with the others; the rest it may not have.
fn plain(container: &EphemeralContainer) -> Container {
    let c = container.clone();
    Container {
        name: c.name,
        image: c.image,
        image_pull_policy: c.image_pull_policy,
        command: c.command,
        args: c.args,
        working_dir: c.working_dir,
        env: c.env,
        env_from: c.env_from,
        volume_mounts: c.volume_mounts,
        volume_devices: c.volume_devices,
        security_context: c.security_context,
        termination_message_path: c.termination_message_path,
        termination_message_policy: c.termination_message_policy,
        stdin: c.stdin,
        stdin_once: c.stdin_once,
        tty: c.tty,
        ..Container::default()
    }
}

impl ContainerView {
    fn of(container: &Container, init: bool, pod_policy: RestartPolicy) -> Self {
        let own = RestartPolicy::parse(container.restart_policy.as_deref());
        // A failing init container of a pod that is always restarted is tried again; a finished one is not.
        let inherited = match (init, pod_policy) {
            (true, RestartPolicy::Always) => RestartPolicy::OnFailure,
            (_, policy) => policy,
        };
        ContainerView {
            name: container.name.as_str().into(),
            image: container.image.as_deref().unwrap_or_default().into(),
            restart: own.unwrap_or(inherited),
            rules: container.restart_policy_rules.iter().flatten().filter_map(rule).collect(),
            sidecar: init && own == Some(RestartPolicy::Always),
            startup_probe: container.startup_probe.is_some(),
            readiness_probe: container.readiness_probe.is_some(),
        }
    }

    pub fn restarts_after(&self, code: i32) -> bool {
        if self.rules.iter().any(|rule| rule.codes.contains(&code) != rule.not_in) {
            return true;
        }
        match self.restart {
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => code != 0,
            RestartPolicy::Never => false,
        }
    }
}

fn rule(rule: &ContainerRestartRule) -> Option<RestartRule> {
    let codes = rule.exit_codes.as_ref().filter(|_| rule.action == "Restart")?;
    let not_in = match codes.operator.as_str() {
        "In" => false,
        "NotIn" => true,
        _ => return None,
    };
    Some(RestartRule { not_in, codes: codes.values.clone().unwrap_or_default().into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    pub fn spec(json: serde_json::Value) -> Spec {
        Spec::of(&serde_json::from_value(serde_json::json!({"spec": json})).unwrap())
    }

    #[test]
    fn restart_decisions() {
        for (policy, own, rules, init, code, want) in [
            ("Always", None, "", false, 0, true),
            ("Always", None, "", true, 0, false),
            ("Always", None, "", true, 1, true),
            ("OnFailure", None, "", false, 0, false),
            ("OnFailure", None, "", false, 3, true),
            ("Never", None, "", false, 3, false),
            ("Never", Some("Always"), "", true, 0, true),
            ("Always", Some("Never"), "", false, 1, false),
            ("Never", Some("Never"), "In", false, 42, true),
            ("Never", Some("Never"), "In", false, 41, false),
            ("Never", Some("Never"), "NotIn", false, 41, true),
            ("Never", Some("Never"), "NotIn", false, 42, false),
        ] {
            let mut container = serde_json::json!({"name": "c"});
            if let Some(own) = own {
                container["restartPolicy"] = own.into();
            }
            if !rules.is_empty() {
                container["restartPolicyRules"] = serde_json::json!([{"action": "Restart", "exitCodes": {"operator": rules, "values": [42]}}]);
            }
            let list = if init { "initContainers" } else { "containers" };
            let mut pod = serde_json::json!({"restartPolicy": policy, "containers": []});
            pod[list] = serde_json::json!([container]);
            let spec = spec(pod);
            assert_eq!(
                spec.containers[0].restarts_after(code),
                want,
                "{policy} {own:?} {rules} init={init} {code}"
            );
        }
    }
}
