//! What the fake API serves: the built-in resources, and those whose definitions it holds.

use std::sync::Arc;

use k8s_openapi::api::{
    admissionregistration::v1 as admission, apps::v1 as apps, autoscaling::v2 as autoscaling,
    batch::v1 as batch, certificates::v1 as certificates, coordination::v1 as coordination, core::v1 as core,
    discovery::v1 as discovery, flowcontrol::v1 as flowcontrol, networking::v1 as networking,
    node::v1 as node, policy::v1 as policy, rbac::v1 as rbac, resource::v1 as resource,
    scheduling::v1 as scheduling, storage::v1 as storage,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use serde_json::Value;

use crate::discovery::{Discovered, ServedResource};
use crate::object::Object;
use crate::resource::Resource;

const VERBS: [&str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// The built-in resources that upstream persists.
fn known() -> Vec<Resource> {
    macro_rules! of {
        ($($kind:path,)*) => { vec![$(Resource::of::<$kind>()),*] };
    }
    of![
        core::Pod,
        core::ConfigMap,
        core::Endpoints,
        core::Event,
        core::LimitRange,
        core::Namespace,
        core::Node,
        core::PersistentVolume,
        core::PersistentVolumeClaim,
        core::PodTemplate,
        core::ReplicationController,
        core::ResourceQuota,
        core::Secret,
        core::Service,
        core::ServiceAccount,
        admission::MutatingAdmissionPolicy,
        admission::MutatingAdmissionPolicyBinding,
        admission::MutatingWebhookConfiguration,
        admission::ValidatingAdmissionPolicy,
        admission::ValidatingAdmissionPolicyBinding,
        admission::ValidatingWebhookConfiguration,
        apps::ControllerRevision,
        apps::DaemonSet,
        apps::Deployment,
        apps::ReplicaSet,
        apps::StatefulSet,
        autoscaling::HorizontalPodAutoscaler,
        batch::CronJob,
        batch::Job,
        certificates::CertificateSigningRequest,
        coordination::Lease,
        discovery::EndpointSlice,
        flowcontrol::FlowSchema,
        flowcontrol::PriorityLevelConfiguration,
        networking::Ingress,
        networking::IPAddress,
        networking::IngressClass,
        networking::NetworkPolicy,
        networking::ServiceCIDR,
        node::RuntimeClass,
        policy::PodDisruptionBudget,
        rbac::ClusterRole,
        rbac::ClusterRoleBinding,
        rbac::Role,
        rbac::RoleBinding,
        resource::DeviceClass,
        resource::ResourceClaim,
        resource::ResourceClaimTemplate,
        resource::ResourceSlice,
        scheduling::PriorityClass,
        storage::CSIDriver,
        storage::CSINode,
        storage::CSIStorageCapacity,
        storage::StorageClass,
        storage::VolumeAttachment,
        storage::VolumeAttributesClass,
        CustomResourceDefinition,
        APIService,
    ]
}

pub(crate) fn served(definitions: &[Arc<Object>]) -> Discovered {
    let custom = definitions.iter().filter_map(|definition| {
        let definition: Value = definition.decode().ok()?;
        let established =
            definition["status"]["conditions"].as_array()?.iter().any(|c| c["status"] == "True");
        let spec = &definition["spec"];
        let version = spec["versions"].as_array()?.iter().find(|v| v["served"] == true)?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        established.then(|| {
            Resource::new(
                &text(&spec["group"]),
                &text(&version["name"]),
                &text(&spec["names"]["plural"]),
                &text(&spec["names"]["kind"]),
                spec["scope"] == "Namespaced",
            )
        })
    });
    let verbs: Vec<String> = VERBS.iter().map(|v| (*v).to_owned()).collect();
    let all = known().into_iter().chain(custom);
    Discovered {
        resources: all.map(|resource| ServedResource { resource, verbs: verbs.clone() }).collect(),
        stale: Vec::new(),
    }
}
