//! DefaultTolerationSeconds: a pod stays five minutes on a node that is not ready or not reachable.

use async_trait::async_trait;
use coracle_client::ApiError;
use k8s_openapi::api::core::v1::{Pod, Toleration};

use super::{Attributes, Operation, Plugin};
use crate::object::ApiObject;

const SECONDS: i64 = 300;
const TAINTS: &[&str] = &["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

pub struct DefaultTolerationSeconds;

#[async_trait]
impl Plugin for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }

    async fn admit(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&mut dyn ApiObject>,
    ) -> Result<(), ApiError> {
        if matches!(attributes.operation, Operation::Create | Operation::Update)
            && let Some(pod) = object.and_then(|o| o.as_any_mut().downcast_mut::<Pod>())
        {
            tolerate(pod.spec.get_or_insert_default().tolerations.get_or_insert_default());
        }
        Ok(())
    }
}

fn tolerate(tolerations: &mut Vec<Toleration>) {
    for taint in TAINTS {
        let named = |t: &Toleration| {
            let key = t.key.as_deref().unwrap_or_default();
            let effect = t.effect.as_deref().unwrap_or_default();
            (key == *taint || key.is_empty()) && matches!(effect, "NoExecute" | "")
        };
        if !tolerations.iter().any(named) {
            tolerations.push(Toleration {
                key: Some((*taint).into()),
                operator: Some("Exists".into()),
                effect: Some("NoExecute".into()),
                toleration_seconds: Some(SECONDS),
                ..Toleration::default()
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_not_tolerated_already() {
        let toleration = |key: &str, effect: &str| Toleration {
            key: Some(key.to_owned()).filter(|k| !k.is_empty()),
            operator: Some("Exists".into()),
            effect: Some(effect.to_owned()).filter(|e| !e.is_empty()),
            ..Toleration::default()
        };
        for (present, want) in [
            (vec![], 2),
            (vec![toleration("", "")], 1),
            (vec![toleration("", "NoExecute")], 1),
            (vec![toleration("", "NoSchedule")], 3),
            (vec![toleration(TAINTS[0], "NoExecute")], 2),
            (vec![toleration(TAINTS[0], "NoSchedule")], 3),
            (vec![toleration(TAINTS[0], ""), toleration(TAINTS[1], "NoExecute")], 2),
        ] {
            let mut tolerations = present.clone();
            tolerate(&mut tolerations);
            assert_eq!(tolerations.len(), want, "{present:?}");
            let added = &tolerations[present.len()..];
            assert!(added.iter().all(|t| t.toleration_seconds == Some(300)));
        }
    }
}
