//! VolumeBinding: a pod goes where its volumes are, or where volumes can be had for its claims.

use crate::cache::{Cache, NodeInfo};
use crate::framework::{ClusterEvent, CycleState, Plugin, Rejection};
use crate::pod::PodInfo;

pub struct VolumeBinding;

impl Plugin for VolumeBinding {
    fn name(&self) -> &'static str {
        "VolumeBinding"
    }

    fn pre_filter(&self, pod: &PodInfo, cache: &Cache, state: &mut CycleState) -> Result<(), Rejection> {
        if !pod.load.claims.is_empty() {
            state.volumes = Some(cache.volumes.ask(pod)?);
        }
        Ok(())
    }

    fn filter(&self, _pod: &PodInfo, node: &NodeInfo, state: &CycleState) -> Result<(), Rejection> {
        state.volumes.as_ref().map_or(Ok(()), |asked| asked.on(node).map(drop))
    }

    fn helps(&self, event: ClusterEvent) -> bool {
        match event {
            ClusterEvent::Node(change) => change.added || change.labels,
            ClusterEvent::Claim | ClusterEvent::Volume | ClusterEvent::StorageClass => true,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use coracle_client::Key;
    use coracle_client::persistent_volumes::{BIND_COMPLETED, ClaimInfo, SELECTED_NODE, VolumeInfo};
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{node, pod};
    use crate::volumes::{ClassInfo, Decision};

    const POD: &str = r#"{"containers":[{"name":"c"}],"volumes":[{"name":"v","persistentVolumeClaim":{"claimName":"data"}}]}"#;

    fn cache() -> Cache {
        let mut cache = Cache::default();
        for name in ["a", "b"] {
            cache.set_node(&node(name, "4", "")).unwrap();
        }
        for (name, mode, provisioner) in [
            ("now", "Immediate", "x.dev/p"),
            ("later", "WaitForFirstConsumer", "x.dev/p"),
            ("manual", "WaitForFirstConsumer", "kubernetes.io/no-provisioner"),
        ] {
            let class =
                json!({"metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": mode});
            cache.volumes.set_class(name, Some(ClassInfo::of(&serde_json::from_value(class).unwrap())));
        }
        cache
    }

    fn claim(cache: &mut Cache, name: &str, meta: Value, spec: Value) {
        let mut all =
            json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
        all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let mut value = json!({"metadata": {"name": name, "namespace": "ns", "uid": name}, "spec": all});
        value["metadata"].as_object_mut().unwrap().extend(meta.as_object().unwrap().clone());
        let info = ClaimInfo::of(&serde_json::from_value(value).unwrap());
        cache.volumes.set_claim(info.key.clone(), Some(info));
    }

    fn volume(cache: &mut Cache, name: &str, class: &str, host: &str) {
        let value = json!({"metadata": {"name": name}, "status": {"phase": "Available"}, "spec": {
            "storageClassName": class, "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": [host]}]}]}}}});
        let info = VolumeInfo::of(&serde_json::from_value(value).unwrap());
        cache.volumes.set_volume(name, Some(info));
    }

    /// Why not, of the pod or of each node; or what is decided for each node.
    fn judged(cache: &Cache, pod: &PodInfo) -> Vec<String> {
        let mut state = CycleState::default();
        if let Err(rejection) = VolumeBinding.pre_filter(pod, cache, &mut state) {
            return vec![rejection.reasons.join("; ")];
        }
        let asked = state.volumes.unwrap_or_default();
        let judge = |node: &NodeInfo| match asked.on(node) {
            Ok(decision) if decision.is_empty() => "fits".to_owned(),
            Ok(Decision { given, made }) => {
                let given = given.iter().map(|(claim, volume)| format!("{}={volume}", claim.name));
                let made = made.iter().map(|claim| format!("{}=new", claim.name));
                given.chain(made).collect::<Vec<_>>().join(",")
            }
            Err(rejection) => rejection.reasons.join("; "),
        };
        cache.nodes().map(judge).collect()
    }

    #[test]
    fn claims_that_are_not_ready_reject_the_pod() {
        let mut cache = cache();
        let pod = pod(POD);
        assert_eq!(judged(&cache, &pod), ["persistentvolumeclaim \"data\" not found"]);
        claim(&mut cache, "data", json!({}), json!({"storageClassName": "now"}));
        assert_eq!(judged(&cache, &pod), ["pod has unbound immediate PersistentVolumeClaims"]);
        claim(&mut cache, "data", json!({}), json!({}));
        assert_eq!(judged(&cache, &pod), ["pod has unbound immediate PersistentVolumeClaims"]);
        claim(&mut cache, "data", json!({"deletionTimestamp": "2026-01-01T00:00:00Z"}), json!({}));
        assert_eq!(judged(&cache, &pod), ["persistentvolumeclaim \"data\" is being deleted"]);
    }

    #[test]
    fn ephemeral_claims_are_the_pods_own() {
        let mut cache = cache();
        let pod = pod(r#"{"containers":[],"volumes":[{"name":"v","ephemeral":{}}]}"#);
        assert_eq!(
            judged(&cache, &pod),
            ["waiting for ephemeral volume controller to create the persistentvolumeclaim \"p-v\""]
        );
        claim(&mut cache, "p-v", json!({}), json!({"storageClassName": "later"}));
        assert_eq!(judged(&cache, &pod), ["PVC ns/p-v was not created for pod ns/p (pod is not owner)"]);
        let owner = json!({"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": true}]});
        claim(&mut cache, "p-v", owner, json!({"storageClassName": "later"}));
        assert_eq!(judged(&cache, &pod), ["p-v=new", "p-v=new"]);
    }

    #[test]
    fn bound_claims_say_where() {
        let mut cache = cache();
        let pod = pod(POD);
        claim(
            &mut cache,
            "data",
            json!({"annotations": {BIND_COMPLETED: "yes"}}),
            json!({"volumeName": "v"}),
        );
        let gone = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)";
        assert_eq!(judged(&cache, &pod), [gone, gone]);
        volume(&mut cache, "v", "", "b");
        assert_eq!(judged(&cache, &pod), ["node(s) didn't match PersistentVolume's node affinity", "fits"]);
    }

    #[test]
    fn claims_that_wait_get_what_a_node_has() {
        let mut cache = cache();
        let pod = pod(POD);
        let nothing = "node(s) didn't find available persistent volumes to bind";
        claim(&mut cache, "data", json!({}), json!({"storageClassName": "manual"}));
        assert_eq!(judged(&cache, &pod), [nothing, nothing]);
        volume(&mut cache, "v", "manual", "a");
        assert_eq!(judged(&cache, &pod), ["data=v", nothing]);
        let decision = Decision { given: vec![(Key::new("ns", "other"), "v".into())], made: Vec::new() };
        cache.volumes.assume(&decision, "a");
        assert_eq!(judged(&cache, &pod), [nothing, nothing], "it is being given to another");
        cache.volumes.forget(&decision);
        claim(&mut cache, "data", json!({}), json!({"storageClassName": "later"}));
        assert_eq!(judged(&cache, &pod), ["data=new", "data=new"]);
        cache.volumes.assume(&Decision { given: Vec::new(), made: vec![Key::new("ns", "data")] }, "b");
        assert_eq!(judged(&cache, &pod), [nothing, "data=new"], "a pod before it chose");
        claim(
            &mut cache,
            "data",
            json!({"annotations": {SELECTED_NODE: "a"}}),
            json!({"storageClassName": "later"}),
        );
        cache.volumes.forget(&Decision { given: Vec::new(), made: vec![Key::new("ns", "data")] });
        assert_eq!(judged(&cache, &pod), ["data=new", nothing]);
    }

    #[test]
    fn two_claims_do_not_get_one_volume() {
        let mut cache = cache();
        let pod = pod(r#"{"containers":[],"volumes":[
            {"name":"v","persistentVolumeClaim":{"claimName":"one"}},{"name":"w","persistentVolumeClaim":{"claimName":"two"}}]}"#);
        for name in ["one", "two"] {
            claim(&mut cache, name, json!({}), json!({"storageClassName": "manual"}));
        }
        volume(&mut cache, "v1", "manual", "a");
        let nothing = "node(s) didn't find available persistent volumes to bind";
        assert_eq!(judged(&cache, &pod), [nothing, nothing]);
        volume(&mut cache, "v2", "manual", "a");
        assert_eq!(judged(&cache, &pod), ["one=v1,two=v2", nothing]);
    }

    #[test]
    fn pods_without_claims_are_not_looked_at() {
        assert_eq!(judged(&cache(), &pod(r#"{"containers":[]}"#)), ["fits", "fits"]);
    }
}
