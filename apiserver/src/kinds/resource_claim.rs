//! ResourceClaim: asks for devices, and says which it got and who uses them. What it asks for never changes.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::resource::v1::{
    AllocatedDeviceStatus, AllocationResult, ResourceClaim, ResourceClaimStatus,
};
use serde_json::{Value, json};

use super::device::{self, RequestNames};
use super::{BuiltIn, Column};
use crate::field_error::{Errors, Path};
use crate::validation::given;
use crate::{table, validation};

const RESERVED_MAX: usize = 256;
const RESULTS_MAX: usize = 32;
const CONDITIONS_MAX: usize = 8;
const IPS_MAX: usize = 16;
const INTERFACE_NAME_MAX_BYTES: usize = 256;
const HARDWARE_ADDRESS_MAX_BYTES: usize = 128;
const SOURCES: &[&str] = &["FromClaim", "FromClass"];

impl BuiltIn for ResourceClaim {
    const SINGULAR: &'static str = "resourceclaim";
    const RETURNS_DELETED: bool = true;
    const HAS_STATUS: bool = true;

    fn set_defaults(&mut self) {
        device::claim_defaults(self.spec.get_or_insert_default().devices.get_or_insert_default());
        self.status.get_or_insert_default();
    }

    fn prepare_create(&mut self) {
        self.status = Some(ResourceClaimStatus::default());
    }

    /// What was allocated to nobody in particular any more is free.
    fn prepare_status_update(&mut self, old: &Self) {
        let allocated = |claim: &Self| claim.status.as_ref().is_some_and(|s| s.allocation.is_some());
        if allocated(old) && !allocated(self) {
            let status = self.status.get_or_insert_default();
            if status.reserved_for.as_ref().is_none_or(Vec::is_empty) {
                status.devices = None;
            }
        }
    }

    fn validate(&self, errors: &mut Errors) {
        let path = Path::new("spec");
        if let Some(devices) = self.spec.as_ref().and_then(|s| s.devices.as_ref()) {
            device::claim(devices, &path.child("devices"), errors);
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        errors.immutable("spec", &self.spec, &old.spec);
    }

    fn validate_status_update(&self, old: &Self, errors: &mut Errors) {
        let names = RequestNames::of(self.spec.as_ref().and_then(|s| s.devices.as_ref()));
        let (new, before) = (self.status.clone().unwrap_or_default(), old.status.clone().unwrap_or_default());
        let path = Path::new("status");
        let deleted = self.metadata.deletion_timestamp.is_some();
        validate_reserved(&new, &before, deleted, &path.child("reservedFor"), errors);
        let devices = new.devices.as_deref().unwrap_or_default();
        let allocated = allocated_devices(new.allocation.as_ref());
        let at = path.child("devices");
        for (i, device) in devices.iter().enumerate() {
            validate_device(device, &allocated, &at.index(i), errors);
        }
        device::distinct(devices.iter().map(device_id), &at, errors);
        let at = path.child("allocation");
        match (&new.allocation, &before.allocation) {
            (Some(allocation), Some(before)) => errors.immutable(at, allocation, before),
            (Some(allocation), None) => validate_allocation(allocation, &names, &at, errors),
            (None, _) => {}
        }
    }

    fn columns() -> Vec<Column> {
        table::columns(&[table::narrow("State", "string", "pending, allocated, reserved, deleted.")])
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let status = self.status.clone().unwrap_or_default();
        let deleted = self.metadata.deletion_timestamp.is_some();
        let reserved = status.reserved_for.is_some_and(|r| !r.is_empty());
        let mut states = Vec::new();
        if deleted {
            states.push("deleted");
        }
        match status.allocation {
            None if !deleted => states.push("pending"),
            None => {}
            Some(_) => {
                states.push("allocated");
                states.extend(reserved.then_some("reserved"));
            }
        }
        table::cells(&self.metadata, now, vec![json!(states.join(","))])
    }
}

/// `driver/pool/device`, and the share where it is shared.
fn device_id(device: &AllocatedDeviceStatus) -> String {
    id(&device.driver, &device.pool, &device.device, device.share_id.as_deref())
}

fn id(driver: &str, pool: &str, device: &str, share: Option<&str>) -> String {
    let share = share.map(|s| format!("/{s}")).unwrap_or_default();
    format!("{driver}/{pool}/{device}{share}")
}

fn allocated_devices(allocation: Option<&AllocationResult>) -> BTreeSet<String> {
    let devices = allocation.and_then(|a| a.devices.as_ref());
    let results = devices.into_iter().flat_map(|d| d.results.iter().flatten());
    results.map(|r| id(&r.driver, &r.pool, &r.device, r.share_id.as_deref())).collect()
}

fn validate_reserved(
    new: &ResourceClaimStatus,
    old: &ResourceClaimStatus,
    deleted: bool,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let reserved = new.reserved_for.as_deref().unwrap_or_default();
    if device::bounded(reserved.len(), RESERVED_MAX, path, errors) {
        for (i, user) in reserved.iter().enumerate() {
            let at = path.index(i);
            for (field, value) in [("resource", &user.resource), ("name", &user.name), ("uid", &user.uid)] {
                if value.is_empty() {
                    errors.required(at.child(field), "");
                }
            }
        }
        device::distinct(reserved.iter().map(|user| user.uid.as_str()), path, errors);
    }
    if reserved.is_empty() {
        return;
    }
    let before = old.reserved_for.as_deref().unwrap_or_default();
    if new.allocation.is_none() {
        errors.forbidden(path, "may not be specified when `allocated` is not set");
    } else if deleted && reserved.iter().any(|user| !before.contains(user)) {
        let detail =
            "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set";
        errors.forbidden(path, detail);
    }
}

fn names(driver: &str, pool: &str, device: &str, path: &Path<'_>, errors: &mut Errors) {
    device::driver_name(driver, &path.child("driver"), errors);
    device::pool_name(pool, &path.child("pool"), errors);
    errors.check(path.child("device"), device, validation::dns_label);
}

fn validate_device(
    device: &AllocatedDeviceStatus,
    allocated: &BTreeSet<String>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    names(&device.driver, &device.pool, &device.device, path, errors);
    let id = device_id(device);
    if !allocated.contains(&id) {
        errors.invalid(path, id, "must be an allocated device in the claim");
    }
    let conditions = device.conditions.as_deref().unwrap_or_default();
    let at = path.child("conditions");
    device::bounded(conditions.len(), CONDITIONS_MAX, &at, errors);
    validation::conditions(conditions, &at, errors);
    if let Some(data) = device.data.as_ref().filter(|data| !data.0.is_null()) {
        device::raw_extension(data, &path.child("data"), errors);
    }
    let Some(network) = &device.network_data else { return };
    let at = path.child("networkData");
    for (field, value, most) in [
        ("interfaceName", &network.interface_name, INTERFACE_NAME_MAX_BYTES),
        ("hardwareAddress", &network.hardware_address, HARDWARE_ADDRESS_MAX_BYTES),
    ] {
        if given(value).is_some_and(|value| value.len() > most) {
            errors.too_long(at.child(field), most);
        }
    }
    let ips = network.ips.as_deref().unwrap_or_default();
    let at = at.child("ips");
    if device::bounded(ips.len(), IPS_MAX, &at, errors) {
        for (i, ip) in ips.iter().enumerate() {
            errors.check(at.index(i), ip, super::address_formats::interface_address);
        }
        device::distinct(ips, &at, errors);
    }
}

fn validate_allocation(
    allocation: &AllocationResult,
    requests: &RequestNames<'_>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let Some(devices) = &allocation.devices else { return };
    let path = path.child("devices");
    let results = devices.results.as_deref().unwrap_or_default();
    let at = path.child("results");
    if device::bounded(results.len(), RESULTS_MAX, &at, errors) {
        for (i, result) in results.iter().enumerate() {
            let at = at.index(i);
            requests.check(&result.request, &at.child("request"), errors);
            names(&result.driver, &result.pool, &result.device, &at, errors);
        }
    }
    let config = devices.config.as_deref().unwrap_or_default();
    let at = path.child("config");
    // Those of the class and those of the claim.
    if device::bounded(config.len(), 2 * device::CONFIG_MAX, &at, errors) {
        for (i, config) in config.iter().enumerate() {
            let at = at.index(i);
            errors.one_of(at.child("source"), Some(&config.source), SOURCES);
            requests.check_all(config.requests.as_ref(), &at.child("requests"), errors);
            device::opaque(config.opaque.as_ref(), &at, errors);
        }
    }
}
