//! Nodes and pods for table tests.

use std::sync::Arc;

use coracle_client::Object;

use crate::pod::PodInfo;

/// A node with that much cpu, 16 GiB and room for 110 pods; `extra` is put after its metadata.
pub fn node(name: &str, cpu: &str, extra: &str) -> Arc<Object> {
    labelled_node(name, cpu, "", extra)
}

pub fn labelled_node(name: &str, cpu: &str, labels: &str, extra: &str) -> Arc<Object> {
    let json = format!(
        r#"{{"metadata":{{"name":"{name}","labels":{{"kubernetes.io/hostname":"{name}"{labels}}}}}{extra},"status":{{"allocatable":{{"cpu":"{cpu}","memory":"16Gi","pods":"110"}}}}}}"#
    );
    Object::parse(json.into(), &[]).unwrap()
}

/// A pod of the ReplicaSet `rs` with that spec.
pub fn pod(spec: &str) -> PodInfo {
    let json = format!(
        r#"{{"metadata":{{"name":"p","namespace":"ns","uid":"u","labels":{{"app":"web"}},"ownerReferences":[{{"uid":"rs","controller":true}}]}},"spec":{spec}}}"#
    );
    PodInfo::decode(&Object::parse(json.into(), &[]).unwrap()).unwrap()
}
