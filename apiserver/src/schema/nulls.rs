//! Which fields Go writes as `null` where they are not set: times that its types hold as they are and not behind a pointer,
//! lists and texts without `omitempty`.

/// Fields of a struct that are `null` where they are not set. `api_version` is the document's.
pub fn always_there(api_version: &str, name: &str) -> &'static [&'static str] {
    match name {
        "APIServiceCondition"
        | "CustomResourceDefinitionCondition"
        | "DaemonSetCondition"
        | "FlowSchemaCondition"
        | "HorizontalPodAutoscalerCondition"
        | "NamespaceCondition"
        | "PriorityLevelConfigurationCondition"
        | "ReplicaSetCondition"
        | "ReplicationControllerCondition"
        | "StatefulSetCondition" => &["lastTransitionTime"],
        "CertificateSigningRequestCondition" | "DeploymentCondition" => {
            &["lastTransitionTime", "lastUpdateTime"]
        }
        "JobCondition" | "PersistentVolumeClaimCondition" | "PodCondition" => {
            &["lastProbeTime", "lastTransitionTime"]
        }
        "NodeCondition" => &["lastHeartbeatTime", "lastTransitionTime"],
        "ContainerStateRunning" => &["startedAt"],
        "ContainerStateTerminated" => &["finishedAt", "startedAt"],
        "VolumeError" => &["time"],
        "Event" if api_version == "v1" => &["eventTime", "firstTimestamp", "lastTimestamp"],
        "Event" => &["deprecatedFirstTimestamp", "deprecatedLastTimestamp", "eventTime"],
        "EventSeries" => &["lastObservedTime"],
        "CustomResourceDefinitionStatus" => &["conditions", "storedVersions"],
        "HorizontalPodAutoscalerStatus" if api_version == "autoscaling/v2" => &["currentMetrics"],
        "TypedLocalObjectReference" | "TypedObjectReference" => &["apiGroup"],
        "AzureFilePersistentVolumeSource" => &["secretNamespace"],
        "ProjectedVolumeSource" => &["sources"],
        "ContainerImage" => &["names"],
        "EndpointSlice" => &["ports"],
        "AllocatedDeviceStatus" => &["conditions"],
        "CapacityRequestPolicy" => &["default"],
        "CSINodeDriver" => &["topologyKeys"],
        "ClusterRole" | "Role" => &["rules"],
        _ => &[],
    }
}

/// Whether a field, unset, is `null`; the type by its OpenAPI name (`io.k8s.api.core.v1.PodCondition`).
pub fn is_null_when_unset(type_name: &str, field: &str) -> bool {
    let Some((package, name)) = type_name.rsplit_once('.') else { return false };
    let api_version = match package {
        "io.k8s.api.autoscaling.v2" => "autoscaling/v2",
        "io.k8s.api.core.v1" => "v1",
        other => other,
    };
    always_there(api_version, name).contains(&field)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::types;

    /// Fields of all served types that the table names.
    const FIELDS: usize = 48;

    #[test]
    fn what_is_always_there_is_a_field() {
        let types = types();
        let mut named = 0;
        for (name, object) in types.objects() {
            named += object.fields().iter().filter(|field| is_null_when_unset(name, &field.name)).count();
            for api_version in ["v1", "autoscaling/v2", ""] {
                let (_, last) = name.rsplit_once('.').unwrap();
                assert!(always_there(api_version, last).len() <= u32::BITS as usize);
            }
        }
        assert_eq!(
            named, FIELDS,
            "a name in the table is no type's or no field's, or a version more is served"
        );
    }
}
