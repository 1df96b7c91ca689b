//! The resources that controllers without a kind of their own work on: the namespace controller and the garbage collector.

use coracle_client::{Client, ListOptions, Resource};
use k8s_openapi::api::{
    admissionregistration::v1 as admission, apps::v1 as apps, autoscaling::v2 as autoscaling,
    batch::v1 as batch, certificates::v1 as certificates, coordination::v1 as coordination, core::v1 as core,
    discovery::v1 as discovery, flowcontrol::v1 as flowcontrol, networking::v1 as networking,
    node::v1 as node, policy::v1 as policy, rbac::v1 as rbac, resource::v1 as resource,
    scheduling::v1 as scheduling, storage::v1 as storage,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use tracing::debug;

/// Every built-in resource that upstream persists, whether this API serves it yet or not.
pub fn known() -> Vec<Resource> {
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

/// Those of them that the API serves. A failure other than "not found" counts as served: it will be retried.
pub async fn served(client: &Client) -> Vec<Resource> {
    let mut served = Vec::new();
    for resource in known() {
        let one =
            ListOptions { limit: Some(1), resource_version: Some("0".into()), ..ListOptions::default() };
        match client.list_objects(&resource, "", one).await {
            Err(error) if error.is_not_found() => debug!(%resource, "not served"),
            _ => served.push(resource),
        }
    }
    served
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_resource_is_listed_once() {
        let mut names: Vec<String> = known().iter().map(Resource::qualified).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), known().len());
    }
}
