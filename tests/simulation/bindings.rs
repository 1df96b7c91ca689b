//! Whether claims and volumes, once they have found one another, stay together.

use std::collections::BTreeMap;

use serde_json::Value;

#[derive(Default)]
pub struct Bindings {
    /// Uid of a claim to the volume it names.
    claims: BTreeMap<String, String>,
    /// Uid of a volume to the uid of the claim it is for.
    volumes: BTreeMap<String, String>,
}

impl Bindings {
    /// Takes in a write. Some: one was bound twice.
    pub fn see(&mut self, key: &str, object: &Value) -> Option<String> {
        let (known, other) = if key.contains("/persistentvolumeclaims/") {
            (&mut self.claims, &object["spec"]["volumeName"])
        } else if key.contains("/persistentvolumes/") {
            (&mut self.volumes, &object["spec"]["claimRef"]["uid"])
        } else {
            return None;
        };
        let other = other.as_str().filter(|other| !other.is_empty())?;
        let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
        let first = known.entry(uid.to_owned()).or_insert_with(|| other.to_owned());
        (*first != other).then(|| format!("{key} was bound to {first}, then to {other}"))
    }
}

/// Everything of claims and volumes that is not as it should be at rest.
pub fn faults(claims: &[Value], volumes: &[Value], pods: &[Value]) -> Vec<String> {
    let mut faults = Vec::new();
    let name = |object: &Value| {
        let meta = &object["metadata"];
        format!(
            "{}/{}",
            meta["namespace"].as_str().unwrap_or_default(),
            meta["name"].as_str().unwrap_or_default()
        )
    };
    for volume in volumes {
        let (meta, reference) = (&volume["metadata"], &volume["spec"]["claimRef"]);
        let claim = claims.iter().find(|claim| claim["metadata"]["uid"] == reference["uid"]);
        let together = claim.is_some_and(|claim| claim["spec"]["volumeName"] == meta["name"]);
        if !together || volume["status"]["phase"] != "Bound" {
            let (phase, of) = (&volume["status"]["phase"], reference["name"].as_str().unwrap_or_default());
            faults.push(format!(
                "volume {} of claim {of} is {phase}, and an orphan: {}",
                name(volume),
                !together
            ));
        }
    }
    for claim in claims {
        let meta = &claim["metadata"];
        let named = &claim["spec"]["volumeName"];
        let volume = volumes.iter().find(|volume| volume["metadata"]["name"] == *named);
        let bound = volume.is_some_and(|volume| volume["spec"]["claimRef"]["uid"] == meta["uid"])
            && claim["status"]["phase"] == "Bound";
        let used = pods.iter().any(|pod| {
            let volumes = pod["spec"]["volumes"].as_array().map_or(&[][..], Vec::as_slice);
            pod["metadata"]["namespace"] == meta["namespace"]
                && volumes.iter().any(|v| v["persistentVolumeClaim"]["claimName"] == meta["name"])
        });
        // Of a pod that went before it had a node: it waits for the next one.
        let waits = named.is_null() && claim["status"]["phase"] == "Pending" && !used;
        if !bound && !waits {
            faults.push(format!("claim {} is {} with volume {named}", name(claim), claim["status"]["phase"]));
        }
    }
    faults
}
