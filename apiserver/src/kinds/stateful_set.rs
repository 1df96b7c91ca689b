//! StatefulSet: pods with names and claims that last.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{
    RollingUpdateStatefulSetStrategy, StatefulSet, StatefulSetSpec, StatefulSetStatus,
};
use k8s_openapi::api::core::v1::{PersistentVolumeClaimVolumeSource, PodTemplateSpec, Volume};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};

use super::{BuiltIn, Column, persistent_volume_claim as claim, pod, workload};
use crate::field_error::{Errors, Path};
use crate::{table, validation};

const RETENTION: &[&str] = &["Retain", "Delete"];
const FIXED: &str = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";

impl BuiltIn for StatefulSet {
    const SINGULAR: &'static str = "statefulset";
    const SHORT_NAMES: &'static [&'static str] = &["sts"];
    const CATEGORIES: &'static [&'static str] = &["all"];
    const HAS_STATUS: bool = true;
    const SUBRESOURCES: &'static [&'static str] = &["scale"];
    const HAS_GENERATION: bool = true;

    fn validate_name(name: &str) -> Result<(), String> {
        validation::dns_label(name)
    }

    fn set_defaults(&mut self) {
        let spec = &mut self.spec;
        pod::defaults::text(&mut spec.pod_management_policy, "OrderedReady");
        let strategy = spec.update_strategy.get_or_insert_default();
        if validation::given(&strategy.type_).is_none() {
            strategy.type_ = Some("RollingUpdate".into());
            strategy.rolling_update.get_or_insert_default();
        }
        if let (Some("RollingUpdate"), Some(rolling)) =
            (strategy.type_.as_deref(), &mut strategy.rolling_update)
        {
            rolling.partition.get_or_insert(0);
            rolling.max_unavailable.get_or_insert(IntOrString::Int(1));
        }
        let retention = spec.persistent_volume_claim_retention_policy.get_or_insert_default();
        pod::defaults::text(&mut retention.when_deleted, "Retain");
        pod::defaults::text(&mut retention.when_scaled, "Retain");
        spec.replicas.get_or_insert(1);
        // Upstream always writes this one, empty or not.
        spec.service_name.get_or_insert_default();
        spec.revision_history_limit.get_or_insert(10);
        for template in spec.volume_claim_templates.iter_mut().flatten() {
            claim::template_defaults(template);
        }
        pod::defaults::template(&mut spec.template);
    }

    fn prepare_create(&mut self) {
        self.status = Some(StatefulSetStatus { available_replicas: Some(0), ..StatefulSetStatus::default() });
    }

    fn validate(&self, errors: &mut Errors) {
        let path = Path::new("spec");
        let spec = &self.spec;
        let policy = spec.pod_management_policy.as_deref().unwrap_or_default();
        if !matches!(policy, "OrderedReady" | "Parallel") {
            let detail = "must be 'OrderedReady' or 'Parallel'";
            errors.invalid(path.child("podManagementPolicy"), policy, detail);
        }
        strategy(spec, &path.child("updateStrategy"), errors);
        if let Some(policy) = &spec.persistent_volume_claim_retention_policy {
            let path = path.child("persistentVolumeClaimRetentionPolicy");
            for (field, value) in [("whenDeleted", &policy.when_deleted), ("whenScaled", &policy.when_scaled)]
            {
                let value = value.as_deref().unwrap_or_default();
                if !RETENTION.contains(&value) {
                    errors.not_supported(path.child(field), value, RETENTION);
                }
            }
        }
        workload::replicas(path.child("replicas"), spec.replicas, errors);
        let seconds = spec.min_ready_seconds.unwrap_or_default();
        validation::non_negative(path.child("minReadySeconds"), seconds, errors);
        let start = spec.ordinals.as_ref().and_then(|o| o.start).unwrap_or_default();
        validation::non_negative(path.child("ordinals.start"), start, errors);
        workload::selector("statefulset", &spec.selector, &path.child("selector"), errors);
        let at = path.child("template");
        if !workload::absent(&spec.selector) {
            workload::matches_template(&spec.selector, &spec.template, &at, errors);
        }
        pod::spec::template(&as_run(spec), &at, errors);
        workload::restarts_for_ever("StatefulSet", &spec.template, &at, errors);
    }

    fn validate_create(&self, errors: &mut Errors) {
        let path = Path::new("spec");
        if let Some(name) = validation::given(&self.spec.service_name) {
            errors.check(path.child("serviceName"), name, validation::dns_label);
        }
        let templates = path.child("volumeClaimTemplates");
        for (i, template) in self.spec.volume_claim_templates.iter().flatten().enumerate() {
            let spec = template.spec.clone().unwrap_or_default();
            claim::validate_spec(&spec, &templates.index(i).child("spec"), errors);
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        let fixed = |spec: &StatefulSetSpec| {
            let claims = spec.volume_claim_templates.clone().filter(|list| !list.is_empty());
            (
                spec.pod_management_policy.clone(),
                spec.selector.clone(),
                spec.service_name.clone().unwrap_or_default(),
                claims,
            )
        };
        if fixed(&self.spec) != fixed(&old.spec) {
            errors.forbidden("spec", FIXED);
        }
    }

    fn validate_status_update(&self, old: &Self, errors: &mut Errors) {
        let status = self.status.clone().unwrap_or_default();
        workload::status_counts(
            status.replicas,
            &[
                ("readyReplicas", status.ready_replicas),
                ("currentReplicas", status.current_replicas),
                ("updatedReplicas", status.updated_replicas),
                ("availableReplicas", status.available_replicas),
            ],
            &["readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"],
            errors,
        );
        workload::observed(status.observed_generation, errors);
        workload::available_are_ready(
            status.available_replicas,
            status.ready_replicas,
            "status.readyReplicas",
            errors,
        );
        let old = old.status.as_ref().and_then(|s| s.collision_count);
        workload::collisions(status.collision_count, old, errors);
    }

    fn warnings(&self, old: Option<&Self>) -> Vec<String> {
        let before = old.map(|old| &old.spec.template);
        let mut warnings = pod::warnings::of_template(&self.spec.template, "spec.template", before);
        for (i, template) in self.spec.volume_claim_templates.iter().flatten().enumerate() {
            let path = format!("spec.volumeClaimTemplates[{i}]");
            warnings.extend(template.spec.iter().flat_map(|spec| claim::spec_warnings(spec, &path)));
        }
        if self.spec.revision_history_limit.is_some_and(|limit| limit < 0) {
            warnings.push("spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended".into());
        }
        warnings
    }

    fn columns() -> Vec<Column> {
        let mut middle =
            vec![table::narrow("Ready", "string", "How many pods are ready, of how many wanted.")];
        middle.extend_from_slice(workload::CONTAINERS);
        table::columns(&middle)
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let ready = self.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or_default();
        let wanted = self.spec.replicas.unwrap_or_default();
        table::wide_cells(
            &self.metadata,
            now,
            vec![json!(format!("{ready}/{wanted}"))],
            workload::containers(Some(&self.spec.template)),
        )
    }
}

fn strategy(spec: &StatefulSetSpec, path: &Path<'_>, errors: &mut Errors) {
    let strategy = spec.update_strategy.clone().unwrap_or_default();
    match (strategy.type_.as_deref().unwrap_or_default(), &strategy.rolling_update) {
        ("", _) => errors.required(path, ""),
        ("OnDelete", Some(rolling)) => errors.invalid(
            path.child("rollingUpdate"),
            rolling,
            "only allowed for updateStrategy 'RollingUpdate'",
        ),
        ("RollingUpdate", Some(rolling)) => rolling_update(rolling, &path.child("rollingUpdate"), errors),
        ("OnDelete" | "RollingUpdate", None) => {}
        (other, _) => {
            errors.invalid(path, workload::Strategy::of(other), "must be 'RollingUpdate' or 'OnDelete'")
        }
    }
}

fn rolling_update(rolling: &RollingUpdateStatefulSetStrategy, path: &Path<'_>, errors: &mut Errors) {
    validation::non_negative(path.child("partition"), rolling.partition.unwrap_or_default(), errors);
    let Some(value) = &rolling.max_unavailable else { return };
    let at = path.child("maxUnavailable");
    workload::int_or_percent(value, &at, errors);
    if workload::amount(Some(value)) == 0 {
        errors.invalid(at, value, "cannot be 0");
    }
    workload::at_most_all(value, &at, errors);
}

/// The template as its pods will have it: with a volume for each claim, and the names that the controller gives.
fn as_run(spec: &StatefulSetSpec) -> PodTemplateSpec {
    let mut template = spec.template.clone();
    let Some(pods) = &mut template.spec else { return template };
    pods.hostname = None;
    pods.subdomain = None;
    let claims: Vec<String> = spec
        .volume_claim_templates
        .iter()
        .flatten()
        .map(|claim| claim.metadata.name.clone().unwrap_or_default())
        .collect();
    let own = pods.volumes.take().unwrap_or_default();
    let mut volumes: Vec<Volume> = Vec::with_capacity(own.len() + claims.len());
    for name in &claims {
        if volumes.iter().all(|v| v.name != *name) {
            let source = PersistentVolumeClaimVolumeSource { claim_name: name.clone(), ..Default::default() };
            volumes.push(Volume {
                name: name.clone(),
                persistent_volume_claim: Some(source),
                ..Volume::default()
            });
        }
    }
    volumes.extend(own.into_iter().filter(|v| !claims.contains(&v.name)));
    pods.volumes = Some(volumes).filter(|v| !v.is_empty());
    template
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing::{self, defaulted};

    use super::*;

    fn set() -> Value {
        json!({"metadata": {"name": "s"}, "spec": {"selector": {"matchLabels": {"app": "x"}}, "serviceName": "x",
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "1Gi"}}}}],
            "template": {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "c", "image": "i:1",
                "volumeMounts": [{"name": "data", "mountPath": "/data"}]}]}}}})
    }

    fn with(field: &str, value: Value) -> Value {
        let mut set = set();
        set["spec"][field] = value;
        set
    }

    #[test]
    fn defaults() {
        let spec = serde_json::to_value(defaulted::<StatefulSet>(set()).spec).unwrap();
        assert_eq!(spec["podManagementPolicy"], "OrderedReady");
        assert_eq!(
            spec["updateStrategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0, "maxUnavailable": 1}})
        );
        assert_eq!(
            spec["persistentVolumeClaimRetentionPolicy"],
            json!({"whenDeleted": "Retain", "whenScaled": "Retain"})
        );
        assert_eq!((&spec["replicas"], &spec["revisionHistoryLimit"]), (&json!(1), &json!(10)));
        assert_eq!(
            spec["volumeClaimTemplates"][0],
            json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"},
                "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}},
                    "volumeMode": "Filesystem"}, "status": {"phase": "Pending"}})
        );
    }

    #[test]
    fn one_bad_set_per_rule() {
        let rolling =
            |value: Value| with("updateStrategy", json!({"type": "RollingUpdate", "rollingUpdate": value}));
        testing::valid::<StatefulSet>(&[set(), with("updateStrategy", json!({"type": "OnDelete"}))]);
        testing::invalid::<StatefulSet>(&[
            (
                with("podManagementPolicy", json!("X")),
                "spec.podManagementPolicy",
                "Invalid value: \"X\": must be 'OrderedReady' or 'Parallel'",
            ),
            (
                with("updateStrategy", json!({"type": "X"})),
                "spec.updateStrategy",
                "Invalid value: {\"Type\":\"X\",\"RollingUpdate\":null}: must be 'RollingUpdate' or 'OnDelete'",
            ),
            (
                with("updateStrategy", json!({"type": "OnDelete", "rollingUpdate": {"partition": 1}})),
                "spec.updateStrategy.rollingUpdate",
                "Invalid value: {\"partition\":1}: only allowed for updateStrategy 'RollingUpdate'",
            ),
            (
                rolling(json!({"partition": -1})),
                "spec.updateStrategy.rollingUpdate.partition",
                "Invalid value: -1: must be greater than or equal to 0",
            ),
            (
                rolling(json!({"maxUnavailable": 0})),
                "spec.updateStrategy.rollingUpdate.maxUnavailable",
                "Invalid value: 0: cannot be 0",
            ),
            (
                with("persistentVolumeClaimRetentionPolicy", json!({"whenDeleted": "X"})),
                "spec.persistentVolumeClaimRetentionPolicy.whenDeleted",
                "Unsupported value: \"X\": supported values: \"Retain\", \"Delete\"",
            ),
            (
                with("replicas", json!(-1)),
                "spec.replicas",
                "Invalid value: -1: must be greater than or equal to 0",
            ),
            (
                with("ordinals", json!({"start": -1})),
                "spec.ordinals.start",
                "Invalid value: -1: must be greater than or equal to 0",
            ),
            (
                with("selector", json!({"matchLabels": {}})),
                "spec.selector",
                "Invalid value: {}: empty selector is invalid for statefulset",
            ),
            (with("selector", json!({})), "spec.selector", "Required value"),
            (
                with("volumeClaimTemplates", json!([])),
                "spec.template.spec.containers[0].volumeMounts[0].name",
                "Not found: \"data\"",
            ),
        ]);
    }

    #[test]
    fn new_sets_are_looked_at_more_closely() {
        for (field, value, want) in [
            ("serviceName", json!("a.b"), "spec.serviceName"),
            (
                "volumeClaimTemplates",
                json!([{"metadata": {"name": "data"}, "spec": {"resources": {"requests": {"storage": "1"}}}}]),
                "spec.volumeClaimTemplates[0].spec.accessModes",
            ),
        ] {
            let mut errors = Errors::default();
            defaulted::<StatefulSet>(with(field, value)).validate_create(&mut errors);
            assert_eq!(errors.into_causes()[0].field, want);
        }
    }

    #[test]
    fn most_of_it_stays() {
        testing::updates::<StatefulSet>(&[
            (set(), with("replicas", json!(5)), "", ""),
            (set(), with("minReadySeconds", json!(5)), "", ""),
            (set(), with("serviceName", json!("y")), "spec", &format!("Forbidden: {FIXED}")),
            (set(), with("podManagementPolicy", json!("Parallel")), "spec", "Forbidden: updates to"),
        ]);
    }

    #[test]
    fn columns() {
        let mut set = with("replicas", json!(3));
        set["status"] = json!({"replicas": 3, "readyReplicas": 2});
        assert_eq!(testing::cells::<StatefulSet>(set), ["s", "2/3", "<unknown>", "c", "i:1"]);
    }
}
