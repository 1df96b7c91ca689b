//! Which taints a pod's tolerations tolerate.

use k8s_openapi::api::core::v1::{Taint, Toleration};

pub const NO_SCHEDULE: &str = "NoSchedule";
pub const PREFER_NO_SCHEDULE: &str = "PreferNoSchedule";
pub const NO_EXECUTE: &str = "NoExecute";

/// As upstream's `Toleration.ToleratesTaint`: an empty effect or key (with Exists) matches all.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let given = |text: &Option<String>| text.as_deref().is_some_and(|t| !t.is_empty());
    if given(&toleration.effect) && toleration.effect.as_deref() != Some(&taint.effect) {
        return false;
    }
    if given(&toleration.key) && toleration.key.as_deref() != Some(&taint.key) {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or("") {
        "" | "Equal" => {
            given(&toleration.key)
                && toleration.value.as_deref().unwrap_or("") == taint.value.as_deref().unwrap_or("")
        }
        "Exists" => true,
        _ => false,
    }
}

/// The first taint of those effects that no toleration tolerates.
pub fn untolerated<'a>(
    taints: &'a [Taint],
    tolerations: &[Toleration],
    effects: &[&str],
) -> Option<&'a Taint> {
    taints
        .iter()
        .filter(|taint| effects.contains(&taint.effect.as_str()))
        .find(|taint| !tolerations.iter().any(|toleration| tolerates(toleration, taint)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn toleration_table() {
        let taint =
            Taint { key: "k".into(), value: Some("v".into()), effect: NO_SCHEDULE.into(), time_added: None };
        let t = |key: &str, operator: &str, value: &str, effect: &str| Toleration {
            key: Some(key.into()),
            operator: Some(operator.into()),
            value: Some(value.into()),
            effect: Some(effect.into()),
            toleration_seconds: None,
        };
        for (toleration, want) in [
            (t("k", "Equal", "v", NO_SCHEDULE), true),
            (t("k", "", "v", ""), true),
            (t("k", "Equal", "w", ""), false),
            (t("k", "Exists", "", ""), true),
            (t("", "Exists", "", ""), true),
            (t("", "Equal", "v", ""), false),
            (t("k", "Exists", "", NO_EXECUTE), false),
            (t("other", "Exists", "", ""), false),
        ] {
            assert_eq!(tolerates(&toleration, &taint), want, "{toleration:?}");
        }
        assert!(untolerated(std::slice::from_ref(&taint), &[], &[NO_EXECUTE]).is_none());
        assert!(untolerated(&[taint], &[], &[NO_SCHEDULE]).is_some());
    }
}
