//! How lists and maps of the API's types merge: list types with their keys (server-side apply, OpenAPI) and patch
//! strategies (strategic merge patch), as upstream's field markers say.

/// `x-kubernetes-list-type`, for lists that are not atomic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List {
    Map(&'static [&'static str]),
    Set,
}

/// `x-kubernetes-patch-strategy` and its merge key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patch {
    /// Lists of objects by key; lists of scalars with an empty one.
    Merge(&'static str),
    /// The same, and the fields of an element that `$retainKeys` does not name go.
    MergeRetainKeys(&'static str),
    RetainKeys,
    Replace,
}

impl Patch {
    pub fn merge_key(self) -> Option<&'static str> {
        match self {
            Self::Merge(key) | Self::MergeRetainKeys(key) => Some(key),
            Self::RetainKeys | Self::Replace => None,
        }
    }

    /// As the OpenAPI extension writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Merge(_) => "merge",
            Self::MergeRetainKeys(_) => "merge,retainKeys",
            Self::RetainKeys => "retainKeys",
            Self::Replace => "replace",
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Strategy {
    pub list: Option<List>,
    pub patch: Option<Patch>,
}

/// The strategy of a field, by the type's OpenAPI name (`io.k8s.api.core.v1.PodSpec`). None: lists are atomic and
/// replaced, objects merge.
pub fn strategy(type_name: &str, field: &str) -> Option<Strategy> {
    let short = type_name.strip_prefix("io.k8s.")?;
    TABLE.iter().find(|row| row.0 == short && row.1 == field).map(|row| row.2)
}

const fn row(type_: &'static str, field: &'static str, list: Option<List>, patch: Option<Patch>) -> Row {
    Row(type_, field, Strategy { list, patch })
}

/// A list-map whose patches merge by the same key.
const fn keyed(type_: &'static str, field: &'static str, key: &'static [&'static str]) -> Row {
    row(type_, field, Some(List::Map(key)), Some(Patch::Merge(key[0])))
}

/// A list-map that patches replace.
const fn map(type_: &'static str, field: &'static str, keys: &'static [&'static str]) -> Row {
    row(type_, field, Some(List::Map(keys)), None)
}

const fn set(type_: &'static str, field: &'static str) -> Row {
    row(type_, field, Some(List::Set), None)
}

struct Row(&'static str, &'static str, Strategy);

const NAME: &[&str] = &["name"];
const TYPE: &[&str] = &["type"];

const TABLE: &[Row] = &[
    // metadata
    row("apimachinery.pkg.apis.meta.v1.ObjectMeta", "finalizers", Some(List::Set), Some(Patch::Merge(""))),
    keyed("apimachinery.pkg.apis.meta.v1.ObjectMeta", "ownerReferences", &["uid"]),
    // pods
    keyed("api.core.v1.PodSpec", "containers", NAME),
    keyed("api.core.v1.PodSpec", "ephemeralContainers", NAME),
    map("api.core.v1.PodSpec", "evictionResponders", NAME),
    keyed("api.core.v1.PodSpec", "hostAliases", &["ip"]),
    keyed("api.core.v1.PodSpec", "imagePullSecrets", NAME),
    keyed("api.core.v1.PodSpec", "initContainers", NAME),
    row("api.core.v1.PodSpec", "resourceClaims", Some(List::Map(NAME)), Some(Patch::MergeRetainKeys("name"))),
    keyed("api.core.v1.PodSpec", "schedulingGates", NAME),
    keyed("api.core.v1.PodSpec", "topologySpreadConstraints", &["topologyKey", "whenUnsatisfiable"]),
    row("api.core.v1.PodSpec", "volumes", Some(List::Map(NAME)), Some(Patch::MergeRetainKeys("name"))),
    keyed("api.core.v1.PodStatus", "conditions", TYPE),
    row("api.core.v1.PodStatus", "hostIPs", None, Some(Patch::Merge("ip"))),
    map("api.core.v1.PodStatus", "nodeAllocatableResourceClaimStatuses", &["resourceClaimName"]),
    keyed("api.core.v1.PodStatus", "podIPs", &["ip"]),
    row(
        "api.core.v1.PodStatus",
        "resourceClaimStatuses",
        Some(List::Map(NAME)),
        Some(Patch::MergeRetainKeys("name")),
    ),
    map("api.core.v1.PodStatus", "volumeHealth", NAME),
    map("api.core.v1.PodVolumeHealth", "healthConditions", &["status"]),
    map("api.core.v1.VolumeHealthStatus", "healthConditions", &["status"]),
    keyed("api.core.v1.Container", "env", NAME),
    keyed("api.core.v1.Container", "ports", &["containerPort", "protocol"]),
    keyed("api.core.v1.Container", "volumeDevices", &["devicePath"]),
    keyed("api.core.v1.Container", "volumeMounts", &["mountPath"]),
    keyed("api.core.v1.EphemeralContainer", "env", NAME),
    keyed("api.core.v1.EphemeralContainer", "ports", &["containerPort", "protocol"]),
    keyed("api.core.v1.EphemeralContainer", "volumeDevices", &["devicePath"]),
    keyed("api.core.v1.EphemeralContainer", "volumeMounts", &["mountPath"]),
    set("api.core.v1.ContainerRestartRuleOnExitCodes", "values"),
    keyed("api.core.v1.ContainerStatus", "allocatedResourcesStatus", NAME),
    keyed("api.core.v1.ContainerStatus", "volumeMounts", &["mountPath"]),
    map("api.core.v1.ResourceRequirements", "claims", NAME),
    map("api.core.v1.ResourceStatus", "resources", &["resourceID"]),
    set("api.core.v1.NodeAllocatableResourceClaimStatus", "containers"),
    map("api.core.v1.NodeAllocatableResourceClaimStatus", "mapping", NAME),
    map("api.core.v1.NodeAllocatableResourceClaimStatus", "overhead", NAME),
    set("api.core.v1.VolumeMount", "bindMountOptions"),
    // the rest of core
    keyed("api.core.v1.ComponentStatus", "conditions", TYPE),
    keyed("api.core.v1.NamespaceStatus", "conditions", TYPE),
    set("api.core.v1.NodePodPreemptionPolicy", "disableResizePreemption"),
    row("api.core.v1.NodeSpec", "podCIDRs", Some(List::Set), Some(Patch::Merge(""))),
    keyed("api.core.v1.NodeStatus", "addresses", TYPE),
    keyed("api.core.v1.NodeStatus", "conditions", TYPE),
    keyed("api.core.v1.PersistentVolumeClaimStatus", "conditions", TYPE),
    keyed("api.core.v1.ReplicationControllerStatus", "conditions", TYPE),
    keyed("api.core.v1.ServiceAccount", "secrets", NAME),
    keyed("api.core.v1.ServiceSpec", "ports", &["port", "protocol"]),
    keyed("api.core.v1.ServiceStatus", "conditions", TYPE),
    // apps, batch, autoscaling, policy
    keyed("api.apps.v1.DaemonSetStatus", "conditions", TYPE),
    row("api.apps.v1.DeploymentSpec", "strategy", None, Some(Patch::RetainKeys)),
    keyed("api.apps.v1.DeploymentStatus", "conditions", TYPE),
    keyed("api.apps.v1.ReplicaSetStatus", "conditions", TYPE),
    keyed("api.apps.v1.StatefulSetStatus", "conditions", TYPE),
    map("api.batch.v1.JobSchedulingConfiguration", "resourceClaims", NAME),
    keyed("api.batch.v1.JobStatus", "conditions", TYPE),
    set("api.batch.v1.PodFailurePolicyOnExitCodesRequirement", "values"),
    set("api.batch.v1.UncountedTerminatedPods", "failed"),
    set("api.batch.v1.UncountedTerminatedPods", "succeeded"),
    keyed("api.autoscaling.v2.HorizontalPodAutoscalerStatus", "conditions", TYPE),
    row("api.policy.v1.PodDisruptionBudgetSpec", "selector", None, Some(Patch::Replace)),
    keyed("api.policy.v1.PodDisruptionBudgetStatus", "conditions", TYPE),
    // the other groups
    keyed("api.admissionregistration.v1.MutatingAdmissionPolicySpec", "matchConditions", NAME),
    keyed("api.admissionregistration.v1.MutatingWebhook", "matchConditions", NAME),
    keyed("api.admissionregistration.v1.MutatingWebhookConfiguration", "webhooks", NAME),
    set("api.admissionregistration.v1.ValidatingAdmissionPolicyBindingSpec", "validationActions"),
    keyed("api.admissionregistration.v1.ValidatingAdmissionPolicySpec", "matchConditions", NAME),
    keyed("api.admissionregistration.v1.ValidatingAdmissionPolicySpec", "variables", NAME),
    map("api.admissionregistration.v1.ValidatingAdmissionPolicyStatus", "conditions", TYPE),
    keyed("api.admissionregistration.v1.ValidatingWebhook", "matchConditions", NAME),
    keyed("api.admissionregistration.v1.ValidatingWebhookConfiguration", "webhooks", NAME),
    map("api.certificates.v1.CertificateSigningRequestStatus", "conditions", TYPE),
    map("api.certificates.v1.PodCertificateRequestStatus", "conditions", TYPE),
    set("api.discovery.v1.Endpoint", "addresses"),
    keyed("api.flowcontrol.v1.FlowSchemaStatus", "conditions", TYPE),
    keyed("api.flowcontrol.v1.PriorityLevelConfigurationStatus", "conditions", TYPE),
    set("api.flowcontrol.v1.NonResourcePolicyRule", "nonResourceURLs"),
    set("api.flowcontrol.v1.NonResourcePolicyRule", "verbs"),
    set("api.flowcontrol.v1.ResourcePolicyRule", "apiGroups"),
    set("api.flowcontrol.v1.ResourcePolicyRule", "namespaces"),
    set("api.flowcontrol.v1.ResourcePolicyRule", "resources"),
    set("api.flowcontrol.v1.ResourcePolicyRule", "verbs"),
    keyed("api.networking.v1.ServiceCIDRStatus", "conditions", TYPE),
    map("api.resource.v1.AllocatedDeviceStatus", "conditions", TYPE),
    map("api.resource.v1.DeviceTaintRuleStatus", "conditions", TYPE),
    set("api.resource.v1.DeviceRequestAllocationResult", "skipNodeOperations"),
    map("api.resource.v1.ResourceClaimStatus", "devices", &["driver", "device", "pool", "shareID"]),
    row(
        "api.resource.v1.ResourceClaimStatus",
        "reservedFor",
        Some(List::Map(&["uid"])),
        Some(Patch::Merge("uid")),
    ),
    set("api.resource.v1.ResourceSliceSpec", "skipNodeOperations"),
    set("api.storage.v1.CSIDriverSpec", "volumeLifecycleModes"),
    keyed("api.storage.v1.CSINodeSpec", "drivers", NAME),
    map("api.storage.v1.CSINodeStatus", "storageHealth", NAME),
    map("api.storagemigration.v1.StorageVersionMigrationStatus", "conditions", TYPE),
    map(
        "apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinitionStatus",
        "conditions",
        TYPE,
    ),
    row(
        "apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps",
        "x-kubernetes-validations",
        Some(List::Map(&["rule"])),
        Some(Patch::Merge("rule")),
    ),
    keyed("kube-aggregator.pkg.apis.apiregistration.v1.APIServiceStatus", "conditions", TYPE),
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::schema::{Shape, types};

    #[test]
    fn rows_are_unique() {
        let mut seen = HashSet::new();
        for row in TABLE {
            assert!(seen.insert((row.0, row.1)), "{} {}", row.0, row.1);
        }
    }

    #[test]
    fn rows_name_fields_that_exist() {
        let types = types();
        for Row(type_, field, strategy) in TABLE {
            // Types of kinds that are not served yet are not known.
            let Some(object) = types.named(&format!("io.k8s.{type_}")) else { continue };
            let field = object.field(field).unwrap_or_else(|| panic!("{type_} has no {field}"));
            let keys: Vec<&str> = match (strategy.list, strategy.patch) {
                (Some(List::Map(keys)), _) => keys.to_vec(),
                (_, Some(Patch::Merge(key))) if !key.is_empty() => vec![key],
                _ => continue,
            };
            let Shape::List(item) = &field.shape else { panic!("{type_} {} is no list", field.name) };
            let Shape::Object(item) = &**item else { panic!("{type_} {}: no objects", field.name) };
            for key in keys {
                assert!(
                    types.get(*item).unwrap().field(key).is_some(),
                    "{type_} {} has no key {key}",
                    field.name
                );
            }
        }
    }
}
