//! Structs that upstream's types embed and JSON does not show; Go's decoder names them in its errors.

/// What stands between a struct and one of its fields as JSON has them, outermost first.
pub fn path(owner: &str, field: &str) -> &'static [&'static str] {
    match (owner, field) {
        ("Volume", field) if field != "name" => &["VolumeSource"],
        ("PersistentVolumeSpec", field) if !VOLUME_SPEC.contains(&field) => &["PersistentVolumeSource"],
        (
            "ConfigMapEnvSource"
            | "ConfigMapKeySelector"
            | "ConfigMapProjection"
            | "ConfigMapVolumeSource"
            | "SecretEnvSource"
            | "SecretKeySelector"
            | "SecretProjection",
            "name",
        ) => &["LocalObjectReference"],
        ("Probe", "exec" | "grpc" | "httpGet" | "tcpSocket") => &["ProbeHandler"],
        ("EphemeralContainer", field) if field != "targetContainerName" => &["EphemeralContainerCommon"],
        ("IngressRule", "http") => &["IngressRuleValue"],
        (
            "DeviceAllocationConfiguration" | "DeviceClaimConfiguration" | "DeviceClassConfiguration",
            "opaque",
        ) => &["DeviceConfiguration"],
        ("NamedRuleWithOperations", "operations") => &["RuleWithOperations"],
        ("NamedRuleWithOperations", field) if RULE.contains(&field) => &["RuleWithOperations", "Rule"],
        ("RuleWithOperations", field) if RULE.contains(&field) => &["Rule"],
        _ => &[],
    }
}

/// What a PersistentVolumeSpec has beside its source.
const VOLUME_SPEC: &[&str] = &[
    "accessModes",
    "capacity",
    "claimRef",
    "mountOptions",
    "nodeAffinity",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeAttributesClassName",
    "volumeMode",
];

const RULE: &[&str] = &["apiGroups", "apiVersions", "resources", "scope"];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::types;

    #[test]
    fn every_struct_that_embeds_is_a_type() {
        let names: Vec<&str> = types().objects().filter_map(|(name, _)| name.rsplit('.').next()).collect();
        for (owner, field, want) in [
            ("Volume", "hostPath", &["VolumeSource"][..]),
            ("Volume", "name", &[]),
            ("PersistentVolumeSpec", "local", &["PersistentVolumeSource"]),
            ("PersistentVolumeSpec", "capacity", &[]),
            ("ConfigMapEnvSource", "name", &["LocalObjectReference"]),
            ("ConfigMapEnvSource", "optional", &[]),
            ("ConfigMapKeySelector", "name", &["LocalObjectReference"]),
            ("ConfigMapProjection", "name", &["LocalObjectReference"]),
            ("ConfigMapVolumeSource", "name", &["LocalObjectReference"]),
            ("SecretEnvSource", "name", &["LocalObjectReference"]),
            ("SecretKeySelector", "name", &["LocalObjectReference"]),
            ("SecretProjection", "name", &["LocalObjectReference"]),
            // The volume of a secret calls it secretName.
            ("SecretVolumeSource", "secretName", &[]),
            ("Probe", "httpGet", &["ProbeHandler"]),
            ("Probe", "periodSeconds", &[]),
            ("EphemeralContainer", "image", &["EphemeralContainerCommon"]),
            ("EphemeralContainer", "targetContainerName", &[]),
            ("IngressRule", "http", &["IngressRuleValue"]),
            ("DeviceClaimConfiguration", "opaque", &["DeviceConfiguration"]),
            ("NamedRuleWithOperations", "operations", &["RuleWithOperations"]),
            ("NamedRuleWithOperations", "scope", &["RuleWithOperations", "Rule"]),
            ("NamedRuleWithOperations", "resourceNames", &[]),
            ("RuleWithOperations", "apiGroups", &["Rule"]),
            ("RuleWithOperations", "operations", &[]),
        ] {
            assert_eq!(path(owner, field), want, "{owner}.{field}");
            assert!(names.contains(&owner), "no type is called {owner}");
        }
    }
}
