//! `pods/ephemeralcontainers`: containers that join a pod that runs, to debug it. They only come; none changes or goes.

use coracle_client::ApiError;
use k8s_openapi::api::core::v1::Pod;

use crate::field_error::Errors;
use crate::object::ApiObject;
use crate::verbs::modify::Detail;

pub static PART: Detail = Detail { name: "ephemeralcontainers", confine, validate };

fn confine(new: &dyn ApiObject, old: &dyn ApiObject) -> Result<Box<dyn ApiObject>, ApiError> {
    let (Some(new), Some(old)) = (new.as_any().downcast_ref::<Pod>(), old.as_any().downcast_ref::<Pod>())
    else {
        return Err(ApiError::internal("ephemeral containers of what is no Pod"));
    };
    let mut pod = old.clone();
    if let Some(spec) = &mut pod.spec {
        spec.ephemeral_containers = new.spec.as_ref().and_then(|s| s.ephemeral_containers.clone());
    }
    Ok(Box::new(pod))
}

fn validate(new: &dyn ApiObject, old: &dyn ApiObject, errors: &mut Errors) {
    let (Some(new), Some(old)) = (new.as_any().downcast_ref::<Pod>(), old.as_any().downcast_ref::<Pod>())
    else {
        return;
    };
    const MIRROR: &str = "kubernetes.io/config.mirror";
    if old.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(MIRROR)) {
        errors.forbidden("", "static pods do not support ephemeral containers");
    }
    let list = |pod: &Pod| pod.spec.as_ref().and_then(|s| s.ephemeral_containers.clone()).unwrap_or_default();
    let now = list(new);
    for before in list(old) {
        let name = &before.name;
        match now.iter().find(|c| c.name == *name) {
            None => errors.forbidden(
                "spec.ephemeralContainers",
                &format!("existing ephemeral containers {name:?} may not be removed\n"),
            ),
            Some(after) if *after != before => errors.forbidden(
                "spec.ephemeralContainers",
                &format!("existing ephemeral containers {name:?} may not be changed\n"),
            ),
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(hostname: &str, ephemeral: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"hostname": hostname,
            "containers": [{"name": "c", "image": "i"}], "ephemeralContainers": ephemeral}}))
        .unwrap()
    }

    #[test]
    fn they_only_come() {
        let one = json!([{"name": "d", "image": "i"}]);
        let two = json!([{"name": "d", "image": "i"}, {"name": "e", "image": "i"}]);
        for (old, new, want) in [
            (json!([]), one.clone(), None),
            (one.clone(), two, None),
            (one.clone(), json!([]), Some("existing ephemeral containers \"d\" may not be removed")),
            (
                one,
                json!([{"name": "d", "image": "j"}]),
                Some("existing ephemeral containers \"d\" may not be changed"),
            ),
        ] {
            let (old, new) = (pod("a", old), pod("b", new));
            let confined = confine(&new, &old).unwrap();
            let kept = confined.as_any().downcast_ref::<Pod>().unwrap().spec.clone().unwrap().hostname;
            assert_eq!(kept.as_deref(), Some("a"), "nothing else changes");
            let mut errors = Errors::default();
            validate(&*confined, &old, &mut errors);
            let text = errors.into_causes().first().map(|cause| cause.message.clone());
            match want {
                Some(want) => assert!(text.as_ref().is_some_and(|t| t.contains(want)), "{text:?}"),
                None => assert_eq!(text, None),
            }
        }
    }
}
