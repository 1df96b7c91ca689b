//! The list of built-in kinds. A kind is one file here that implements [`BuiltIn`] and one line in [`all`].

mod address_formats;
mod admission_policy;
pub mod api_service;
mod certificate_signing_request;
mod cluster_role;
mod cluster_role_binding;
mod cluster_trust_bundle;
mod component_status;
mod config_map;
mod controller_revision;
mod cron_job;
mod csi_driver;
mod csi_node;
mod csi_storage_capacity;
mod custom_resource_definition;
mod daemon_set;
mod definition;
mod deployment;
mod device;
mod device_class;
mod device_taint_rule;
mod endpoint_slice;
mod endpoints;
mod event;
mod event_v1;
pub mod flow_control_objects;
mod flow_schema;
mod horizontal_pod_autoscaler;
mod ingress;
mod ingress_class;
mod ip_address;
mod job;
mod lease;
mod limit_range;
mod mutating_admission_policy;
mod mutating_admission_policy_binding;
mod mutating_webhook_configuration;
mod namespace;
mod network_policy;
mod node;
pub mod node_metrics;
mod persistent_volume;
mod persistent_volume_claim;
mod pod;
mod pod_certificate_request;
mod pod_disruption_budget;
pub mod pod_metrics;
mod pod_template;
pub mod priority_class;
mod priority_level_configuration;
mod rbac;
mod replica_set;
mod replication_controller;
pub(crate) mod resource_names;
mod resource_claim;
mod resource_claim_template;
mod resource_quota;
mod resource_slice;
mod role;
mod role_binding;
mod runtime_class;
mod secret;
mod tls_pair;
mod service;
mod service_account;
mod service_cidr;
mod stateful_set;
mod storage_class;
mod storage_version;
mod storage_version_migration;
#[cfg(test)]
mod testing;
mod validating_admission_policy;
mod validating_admission_policy_binding;
mod validating_webhook_configuration;
mod volume_attachment;
mod volume_attributes_class;
mod webhook;
mod workload;

pub use certificate_signing_request::{prepare_approval, set_requester};
pub use definition::{Decoded, KindDef, Operations};
pub use ingress_class::is_default as is_default_ingress_class;
pub use pod::references;
pub(crate) use pod::resources::qos_class;
pub use service::{
    AddressRange, RangeError, Reservation, ServiceAllocator, Surroundings, addresses as service_addresses,
    node_ports as service_ports, owner as service_owner,
};
pub use service_cidr::cidrs as service_cidrs;
pub use storage_class::is_default as is_default_storage_class;

use std::borrow::Cow;
use std::time::Duration;

use coracle_client::Resource;
use coracle_client::client::Kind;
use jiff::Timestamp;
use serde_json::Value;

use crate::field_error::Errors;
use crate::object::ApiObject;

/// Every built-in kind that is always served, in the order discovery lists them.
pub fn all() -> Vec<KindDef> {
    use k8s_openapi::api::{
        admissionregistration, apps, certificates, coordination, core, discovery, events, flowcontrol,
        networking, node, rbac, resource, scheduling, storage, storagemigration,
    };
    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions as extensions;
    use k8s_openapi::kube_aggregator::pkg::apis::apiregistration as kube_aggregator;
    vec![
        KindDef::of::<core::v1::ComponentStatus>(),
        KindDef::of::<core::v1::ConfigMap>(),
        KindDef::of::<core::v1::Endpoints>(),
        KindDef::of::<core::v1::Event>(),
        KindDef::of::<core::v1::LimitRange>(),
        KindDef::of::<core::v1::Namespace>(),
        KindDef::of::<core::v1::Node>(),
        KindDef::of::<core::v1::PersistentVolume>(),
        KindDef::of::<core::v1::PersistentVolumeClaim>(),
        KindDef::of::<core::v1::Pod>(),
        KindDef::of::<core::v1::PodTemplate>(),
        KindDef::of::<core::v1::ReplicationController>(),
        KindDef::of::<core::v1::ResourceQuota>(),
        KindDef::of::<core::v1::Secret>(),
        KindDef::of::<core::v1::Service>(),
        KindDef::of::<core::v1::ServiceAccount>(),
        KindDef::of::<apps::v1::ControllerRevision>(),
        KindDef::of::<apps::v1::DaemonSet>(),
        KindDef::of::<admissionregistration::v1::MutatingAdmissionPolicy>(),
        KindDef::of::<admissionregistration::v1::MutatingAdmissionPolicyBinding>(),
        KindDef::of::<admissionregistration::v1::MutatingWebhookConfiguration>(),
        KindDef::of::<admissionregistration::v1::ValidatingAdmissionPolicy>(),
        KindDef::of::<admissionregistration::v1::ValidatingAdmissionPolicyBinding>(),
        KindDef::of::<admissionregistration::v1::ValidatingWebhookConfiguration>(),
        KindDef::of::<apps::v1::Deployment>(),
        KindDef::of::<apps::v1::ReplicaSet>(),
        KindDef::of::<apps::v1::StatefulSet>(),
        KindDef::of::<k8s_openapi::api::autoscaling::v1::HorizontalPodAutoscaler>(),
        KindDef::of::<k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler>(),
        KindDef::of::<k8s_openapi::api::batch::v1::CronJob>(),
        KindDef::of::<k8s_openapi::api::batch::v1::Job>(),
        KindDef::of::<k8s_openapi::api::policy::v1::PodDisruptionBudget>(),
        KindDef::of::<extensions::v1::CustomResourceDefinition>(),
        KindDef::of::<certificates::v1::CertificateSigningRequest>(),
        KindDef::of::<certificates::v1::ClusterTrustBundle>(),
        KindDef::of::<certificates::v1::PodCertificateRequest>(),
        KindDef::of::<coordination::v1::Lease>(),
        KindDef::of::<discovery::v1::EndpointSlice>(),
        KindDef::of::<events::v1::Event>(),
        KindDef::of::<flowcontrol::v1::FlowSchema>(),
        KindDef::of::<flowcontrol::v1::PriorityLevelConfiguration>(),
        KindDef::of::<networking::v1::Ingress>(),
        KindDef::of::<networking::v1::IngressClass>(),
        KindDef::of::<networking::v1::IPAddress>(),
        KindDef::of::<networking::v1::NetworkPolicy>(),
        KindDef::of::<networking::v1::ServiceCIDR>(),
        KindDef::of::<node::v1::RuntimeClass>(),
        KindDef::of::<rbac::v1::ClusterRole>(),
        KindDef::of::<rbac::v1::ClusterRoleBinding>(),
        KindDef::of::<rbac::v1::Role>(),
        KindDef::of::<rbac::v1::RoleBinding>(),
        KindDef::of::<resource::v1::DeviceClass>(),
        KindDef::of::<resource::v1::DeviceTaintRule>(),
        KindDef::of::<resource::v1::ResourceClaim>(),
        KindDef::of::<resource::v1::ResourceClaimTemplate>(),
        KindDef::of::<resource::v1::ResourceSlice>(),
        KindDef::of::<scheduling::v1::PriorityClass>(),
        KindDef::of::<kube_aggregator::v1::APIService>(),
        KindDef::of::<storage::v1::CSIDriver>(),
        KindDef::of::<storage::v1::CSINode>(),
        KindDef::of::<storage::v1::CSIStorageCapacity>(),
        KindDef::of::<storage::v1::StorageClass>(),
        KindDef::of::<storage::v1::VolumeAttachment>(),
        KindDef::of::<storage::v1::VolumeAttributesClass>(),
        KindDef::of::<storagemigration::v1::StorageVersionMigration>(),
        KindDef::of::<node_metrics::NodeMetrics>(),
        KindDef::of::<pod_metrics::PodMetrics>(),
    ]
}

/// Those that are served only where they are asked for (`--runtime-config`): what upstream calls alpha.
pub fn off_by_default() -> Vec<KindDef> {
    vec![KindDef::of::<k8s_openapi::api::apiserverinternal::v1alpha1::StorageVersion>()]
}

/// What ports may speak.
const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];

/// One printer column of a Table.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Column {
    pub name: Cow<'static, str>,
    /// `string`, `integer`, `date`, …
    #[serde(rename = "type")]
    pub type_: Cow<'static, str>,
    /// `name` for the first column, else empty.
    pub format: Cow<'static, str>,
    pub description: Cow<'static, str>,
    /// 0 is always shown, 1 with `-o wide`.
    pub priority: i32,
}

/// What makes a `k8s-openapi` type a resource of this server. All functions are pure.
pub trait BuiltIn: Kind + Clone {
    const SINGULAR: &'static str;
    const SHORT_NAMES: &'static [&'static str] = &[];
    const CATEGORIES: &'static [&'static str] = &[];
    /// Has a `status` subresource: writes to the main resource leave status alone and the other way round.
    const HAS_STATUS: bool = false;
    /// The fields that nobody comes to own by a write to the main resource, beside the status where there is one.
    const MAIN_RESETS: &'static [&'static [&'static str]] = &[];
    /// The fields that nobody comes to own by a write to the status.
    const STATUS_RESETS: &'static [&'static [&'static str]] = &[&["spec"]];
    /// The names of the further subresources (`scale`, `binding`, `log`, …); code is found in `subresources/` by name.
    const SUBRESOURCES: &'static [&'static str] = &[];
    /// The spec counts: `metadata.generation` grows when anything outside metadata and status changes.
    const HAS_GENERATION: bool = false;
    /// PUT on a name that does not exist creates.
    const CREATE_ON_UPDATE: bool = false;
    /// PUT without resourceVersion overwrites.
    const UNCONDITIONAL_UPDATE: bool = true;
    /// Stored objects vanish after this long (events).
    const TTL: Option<Duration> = None;
    /// Grace period in seconds that a delete without one gets (pods: from the spec). None: deleted at once.
    fn deletion_grace_seconds(&self) -> Option<i64> {
        None
    }
    /// A delete that removed the object answers with it, not with a Status.
    const RETURNS_DELETED: bool = false;
    /// Nobody stores its objects: they are made when they are asked for, and can only be read.
    const COMPUTED: bool = false;
    /// What clients that use it are warned of.
    const DEPRECATION: Option<&'static str> = None;
    /// Several can be deleted at once.
    const DELETES_COLLECTION: bool = true;
    /// Sets what the client left out, as upstream's defaulting. Runs on every decode of a body and of a patch result.
    fn set_defaults(&mut self) {}
    /// Upstream's PrepareForCreate: drops what clients may not set (status), normalises.
    fn prepare_create(&mut self) {}
    /// Upstream's PrepareForUpdate of the main resource; `HAS_STATUS` kinds keep the old status without being told.
    fn prepare_update(&mut self, _old: &Self) {}
    /// Upstream's PrepareForUpdate of `status`: spec and metadata come from `old`; done for `HAS_STATUS` kinds by the
    /// verb (everything but status and the metadata upstream lets through is taken from `old`); more can be done here.
    fn prepare_status_update(&mut self, _old: &Self) {}
    /// Called when a delete first marks the object (namespaces become Terminating).
    fn prepare_deletion(&mut self) {}
    /// Something beyond `metadata.finalizers` holds a deleted object back (a namespace's `spec.finalizers`).
    fn held_back(&self) -> bool {
        false
    }
    /// This kind is another form of a stored one; see [`Alias`].
    fn alias() -> Option<Alias> {
        None
    }
    /// Name validation; the default is a DNS subdomain.
    fn validate_name(name: &str) -> Result<(), String> {
        crate::validation::dns_subdomain(name)
    }
    /// Everything but metadata, which the verb validates.
    fn validate(&self, errors: &mut Errors);
    /// What only a new object must not say; `validate` runs beside it.
    fn validate_create(&self, _errors: &mut Errors) {}
    /// Immutability and transitions; `validate` runs beside it.
    fn validate_update(&self, _old: &Self, _errors: &mut Errors) {}
    fn validate_status_update(&self, _old: &Self, _errors: &mut Errors) {}
    /// What it owns stays when it is deleted, unless the client says otherwise.
    const ORPHANS_BY_DEFAULT: bool = false;
    /// What a client is told that deletes it without saying what is to become of what it owns.
    const DELETION_WARNING: Option<&'static str> = None;
    /// What is odd about a valid object, for the client to be told with the answer. `old`: none on create.
    fn warnings(&self, _old: Option<&Self>) -> Vec<String> {
        Vec::new()
    }
    /// Table columns; the default is Name and Age.
    fn columns() -> Vec<Column> {
        crate::table::name_and_age_columns()
    }
    /// Table cells, as many as there are columns.
    fn cells(&self, now: Timestamp) -> Vec<Value> {
        crate::table::name_and_age_cells(self.metadata(), now)
    }
}

/// A kind that is not stored, but shows the objects of another resource in its own form (`events.k8s.io/v1` over the
/// core group's events). Requests in its form are converted to the stored kind after decoding and defaulting, and from
/// then on the stored kind's definition rules (validation, TTL, storage key, watch cache); a patch is applied to the
/// converted form; answers, list items and watch events are converted on their way out.
pub struct Alias {
    /// The resource whose objects are stored.
    pub stored: Resource,
    /// This kind's object as the stored kind's.
    pub to_stored: fn(&dyn ApiObject) -> Option<Box<dyn ApiObject>>,
    /// The stored kind's object as this kind's.
    pub from_stored: fn(&dyn ApiObject) -> Option<Box<dyn ApiObject>>,
    /// Field selector paths of this kind and the stored kind's paths that answer them.
    pub fields: &'static [(&'static str, &'static str)],
}

#[cfg(test)]
#[path = "list_tests.rs"]
mod tests;
