//! LimitRanger: pods get what the LimitRanges of their namespace give by default, and neither they nor claims may ask
//! for less or more than those allow.

use std::collections::BTreeMap;

use async_trait::async_trait;
use coracle_client::amounts::{self, Amounts, Side};
use coracle_client::quantity::Quantity;
use coracle_client::{ApiError, Resource};
use k8s_openapi::api::core::v1::{
    Container, LimitRange, LimitRangeItem, PersistentVolumeClaim, Pod, PodSpec,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Wire;

use super::{Attributes, Operation, Plugin};
use crate::object::ApiObject;
use crate::watch_cache::Filter;

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

pub struct LimitRanger;

#[async_trait]
impl Plugin for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }

    async fn admit(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&mut dyn ApiObject>,
    ) -> Result<(), ApiError> {
        if attributes.operation != Operation::Create || attributes.call.subresource.is_some() {
            return Ok(());
        }
        let Some(pod) = object.and_then(|o| o.as_any_mut().downcast_mut::<Pod>()) else { return Ok(()) };
        for range in ranges(attributes)? {
            set_defaults(pod, &range);
        }
        Ok(())
    }

    async fn validate(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&dyn ApiObject>,
    ) -> Result<(), ApiError> {
        if attributes.old.is_some_and(|old| old.meta().deletion_timestamp.is_some()) {
            return Ok(());
        }
        let Some(any) = object.map(ApiObject::as_any) else { return Ok(()) };
        let (call, operation) = (attributes.call, attributes.operation);
        let subresource = call.subresource.as_deref();
        let new_or_resized = matches!(
            (operation, subresource),
            (Operation::Create, None) | (Operation::Update, Some("resize"))
        );
        let mut faults = Vec::new();
        if let Some(pod) = any.downcast_ref::<Pod>().filter(|_| new_or_resized) {
            let spec = pod.spec.clone().unwrap_or_default();
            for range in ranges(attributes)? {
                items(&range).for_each(|item| of_pod(&spec, item, &mut faults));
                refuse(attributes, &faults)?;
            }
        } else if let Some(claim) = any.downcast_ref::<PersistentVolumeClaim>()
            && subresource.is_none()
            && operation != Operation::Delete
        {
            for range in ranges(attributes)? {
                items(&range).for_each(|item| of_claim(claim, item, &mut faults));
                refuse(attributes, &faults)?;
            }
        }
        Ok(())
    }
}

fn refuse(attributes: &Attributes<'_>, faults: &[String]) -> Result<(), ApiError> {
    let why = match faults {
        [] => return Ok(()),
        [one] => one.clone(),
        several => format!("[{}]", several.join(", ")),
    };
    Err(ApiError::forbidden(attributes.call.kind.resource(), attributes.call.name(), why))
}

fn ranges(attributes: &Attributes<'_>) -> Result<Vec<LimitRange>, ApiError> {
    let Some(namespace) = attributes.call.namespace.clone() else { return Ok(Vec::new()) };
    let kind = attributes.call.api.kind(&Resource::of::<LimitRange>())?;
    let filter = Filter { namespace: Some(namespace), ..Filter::default() };
    let listed = kind.cache.list(&filter, None, None, None, 0).map(|page| page.objects);
    listed.unwrap_or_default().iter().map(|object| Ok(object.decode()?)).collect()
}

fn items(range: &LimitRange) -> impl Iterator<Item = &LimitRangeItem> {
    range.spec.iter().flat_map(|spec| &spec.limits)
}

fn set_defaults(pod: &mut Pod, range: &LimitRange) {
    let (mut requests, mut limits) = (BTreeMap::new(), BTreeMap::new());
    for item in items(range).filter(|item| item.type_ == "Container") {
        requests.extend(item.default_request.iter().flatten().map(|(n, q)| (n.clone(), q.clone())));
        limits.extend(item.default.iter().flatten().map(|(n, q)| (n.clone(), q.clone())));
    }
    let Some(spec) = &mut pod.spec else { return };
    let mut notes = Vec::new();
    for (what, containers) in
        [("container", Some(&mut spec.containers)), ("init container", spec.init_containers.as_mut())]
    {
        for container in containers.into_iter().flatten() {
            let resources = container.resources.get_or_insert_default();
            for (side, list, defaults) in
                [("request", &mut resources.requests, &requests), ("limit", &mut resources.limits, &limits)]
            {
                let set = fill(list, defaults);
                if !set.is_empty() {
                    notes.push(format!("{} {side} for {what} {}", set.join(", "), container.name));
                }
            }
        }
    }
    if !notes.is_empty() {
        let note = format!("LimitRanger plugin set: {}", notes.join("; "));
        pod.metadata.annotations.get_or_insert_default().insert(ANNOTATION.into(), note);
    }
}

/// The names that were missing.
fn fill(list: &mut Option<BTreeMap<String, Wire>>, defaults: &BTreeMap<String, Wire>) -> Vec<String> {
    let mut set = Vec::new();
    for (name, amount) in defaults {
        let list = list.get_or_insert_default();
        if !list.contains_key(name) {
            list.insert(name.clone(), amount.clone());
            set.push(name.clone());
        }
    }
    set
}

fn of_pod(spec: &PodSpec, item: &LimitRangeItem, faults: &mut Vec<String>) {
    match item.type_.as_str() {
        "Container" => {
            let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
            for container in containers {
                let side = |side: Side| of_container(container, side);
                within(item, &side(Side::Requests), &side(Side::Limits), faults);
            }
        }
        "Pod" => {
            let (requests, limits) =
                (amounts::of_pod(spec, Side::Requests), amounts::of_pod(spec, Side::Limits));
            within(item, &requests, &limits, faults);
        }
        _ => {}
    }
}

fn of_container(container: &Container, side: Side) -> Amounts {
    amounts::of_containers(std::slice::from_ref(container), &[], side)
}

fn within(item: &LimitRangeItem, requests: &Amounts, limits: &Amounts, faults: &mut Vec<String>) {
    let per = &item.type_;
    for (name, min) in amounts::of(item.min.as_ref()) {
        let start = format!("minimum {name} usage per {per} is {min}");
        match (requests.get(&name), limits.get(&name)) {
            (None, _) => faults.push(format!("{start}.  No request is specified")),
            (Some(request), _) if *request < min => faults.push(format!("{start}, but request is {request}")),
            (_, Some(limit)) if *limit < min => faults.push(format!("{start}, but limit is {limit}")),
            _ => {}
        }
    }
    for (name, max) in amounts::of(item.max.as_ref()) {
        let start = format!("maximum {name} usage per {per} is {max}");
        match (requests.get(&name), limits.get(&name)) {
            (_, None) => faults.push(format!("{start}.  No limit is specified")),
            (_, Some(limit)) if *limit > max => faults.push(format!("{start}, but limit is {limit}")),
            (Some(request), _) if *request > max => faults.push(format!("{start}, but request is {request}")),
            _ => {}
        }
    }
    for (name, ratio) in amounts::of(item.max_limit_request_ratio.as_ref()) {
        let start = format!("{name} max limit to request ratio per {per} is {ratio}");
        let given = |list: &Amounts| list.get(&name).copied().filter(|amount| !amount.is_zero());
        match (given(requests), given(limits)) {
            (None, _) => faults.push(format!("{start}, but no request is specified or request is 0")),
            (_, None) => faults.push(format!("{start}, but no limit is specified or limit is 0")),
            (Some(request), Some(limit)) => {
                let found = units(limit) / units(request);
                if found > units(ratio) {
                    faults.push(format!("{start}, but provided ratio is {found:.6}"));
                }
            }
        }
    }
}

fn units(amount: Quantity) -> f64 {
    amount.milli_value() as f64 / 1000.0
}

fn of_claim(claim: &PersistentVolumeClaim, item: &LimitRangeItem, faults: &mut Vec<String>) {
    if item.type_ != "PersistentVolumeClaim" {
        return;
    }
    let resources = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    let requests = amounts::of(resources.and_then(|r| r.requests.as_ref()));
    let bounds = LimitRangeItem { max: None, max_limit_request_ratio: None, ..item.clone() };
    within(&bounds, &requests, &Amounts::new(), faults);
    for (name, max) in amounts::of(item.max.as_ref()) {
        let start = format!("maximum {name} usage per {} is {max}", item.type_);
        match requests.get(&name) {
            None => faults.push(format!("{start}.  No request is specified")),
            Some(request) if *request > max => faults.push(format!("{start}, but request is {request}")),
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn range(item: Value) -> LimitRange {
        serde_json::from_value(json!({"metadata": {"name": "l"}, "spec": {"limits": [item]}})).unwrap()
    }

    fn pod(resources: Value) -> Pod {
        serde_json::from_value(
            json!({"metadata": {}, "spec": {"containers": [{"name": "c", "resources": resources}]}}),
        )
        .unwrap()
    }

    #[test]
    fn containers_get_defaults_and_it_is_noted() {
        let mut pod = pod(json!({"limits": {"memory": "1Gi"}}));
        let range = range(
            json!({"type": "Container", "default": {"cpu": "1", "memory": "2Gi"}, "defaultRequest": {"cpu": "500m"}}),
        );
        set_defaults(&mut pod, &range);
        let container = &pod.spec.as_ref().unwrap().containers[0];
        assert_eq!(
            serde_json::to_value(&container.resources).unwrap(),
            json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}})
        );
        assert_eq!(
            pod.metadata.annotations.unwrap()[ANNOTATION],
            "LimitRanger plugin set: cpu request for container c; cpu limit for container c"
        );
    }

    #[test]
    fn one_refusal_per_rule() {
        let container = |bound: Value| {
            let mut item = bound;
            item["type"] = json!("Container");
            item
        };
        for (item, resources, want) in [
            (container(json!({"min": {"cpu": "1"}})), json!({"requests": {"cpu": "1"}}), None),
            (
                container(json!({"min": {"cpu": "1"}})),
                json!({}),
                Some("minimum cpu usage per Container is 1.  No request is specified"),
            ),
            (
                container(json!({"min": {"cpu": "1"}})),
                json!({"requests": {"cpu": "500m"}}),
                Some("minimum cpu usage per Container is 1, but request is 500m"),
            ),
            (
                container(json!({"max": {"cpu": "1"}})),
                json!({"requests": {"cpu": "1"}}),
                Some("maximum cpu usage per Container is 1.  No limit is specified"),
            ),
            (
                container(json!({"max": {"cpu": "1"}})),
                json!({"limits": {"cpu": "2"}}),
                Some("maximum cpu usage per Container is 1, but limit is 2"),
            ),
            (
                container(json!({"maxLimitRequestRatio": {"cpu": "2"}})),
                json!({"requests": {"cpu": "1"}, "limits": {"cpu": "3"}}),
                Some("cpu max limit to request ratio per Container is 2, but provided ratio is 3.000000"),
            ),
            (
                container(json!({"maxLimitRequestRatio": {"cpu": "2"}})),
                json!({"limits": {"cpu": "3"}}),
                Some(
                    "cpu max limit to request ratio per Container is 2, but no request is specified or request is 0",
                ),
            ),
            (
                json!({"type": "Pod", "max": {"memory": "1Gi"}}),
                json!({"limits": {"memory": "2Gi"}}),
                Some("maximum memory usage per Pod is 1Gi, but limit is 2Gi"),
            ),
        ] {
            let mut faults = Vec::new();
            of_pod(&pod(resources).spec.unwrap(), &items(&range(item)).next().unwrap().clone(), &mut faults);
            assert_eq!(faults.first().map(String::as_str), want);
        }
    }

    #[test]
    fn claims_have_bounds_too() {
        let item =
            json!({"type": "PersistentVolumeClaim", "min": {"storage": "1Gi"}, "max": {"storage": "2Gi"}});
        for (size, want) in [
            ("1Gi", None),
            ("512Mi", Some("minimum storage usage per PersistentVolumeClaim is 1Gi, but request is 512Mi")),
            ("3Gi", Some("maximum storage usage per PersistentVolumeClaim is 2Gi, but request is 3Gi")),
        ] {
            let claim: PersistentVolumeClaim = serde_json::from_value(
                json!({"metadata": {}, "spec": {"resources": {"requests": {"storage": size}}}}),
            )
            .unwrap();
            let mut faults = Vec::new();
            of_claim(&claim, &items(&range(item.clone())).next().unwrap().clone(), &mut faults);
            assert_eq!(faults.first().map(String::as_str), want);
        }
    }
}
