//! Service account tokens for projected volumes: requested from the API, bound to the pod, renewed in time.

use coracle_client::Client;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount, ServiceAccountTokenProjection};

use super::MountError;

const EXPIRATION_DEFAULT_SECONDS: i64 = 3600;
/// Even a long-lived token is renewed daily, as upstream.
const AGE_MAX: SignedDuration = SignedDuration::from_hours(24);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    pub value: String,
    pub renew_at: Timestamp,
}

/// When 80 % of the lifetime is over, or after a day.
fn renewal(now: Timestamp, expires: Timestamp) -> Timestamp {
    let lifetime = expires.duration_since(now);
    let wait = (lifetime * 4 / 5).min(AGE_MAX).max(SignedDuration::from_secs(1));
    now.checked_add(wait).unwrap_or(expires)
}

pub async fn request(
    client: &Client,
    pod: &Pod,
    projection: &ServiceAccountTokenProjection,
) -> Result<Token, MountError> {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let account = pod.spec.as_ref().and_then(|s| s.service_account_name.clone()).unwrap_or_default();
    let account = if account.is_empty() { "default".to_owned() } else { account };
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: projection.audience.clone().filter(|a| !a.is_empty()).map(|a| vec![a]),
            expiration_seconds: Some(projection.expiration_seconds.unwrap_or(EXPIRATION_DEFAULT_SECONDS)),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                name: pod.metadata.name.clone(),
                uid: pod.metadata.uid.clone(),
            }),
            ..TokenRequestSpec::default()
        }),
        ..TokenRequest::default()
    };
    let namespace = text(&pod.metadata.namespace);
    let failed = |source| MountError::Token { account: account.clone(), source };
    let answer = client
        .create_subresource::<ServiceAccount>(&namespace, &account, "token", &request)
        .await
        .map_err(&failed)?;
    let status = serde_json::from_slice::<TokenRequest>(&answer)
        .map_err(|error| failed(error.into()))?
        .status
        .unwrap_or_default();
    let (Some(value), Some(expires)) = (status.token, status.expiration_timestamp) else {
        return Err(failed(coracle_client::ApiError::internal("the token request has no status")));
    };
    Ok(Token { value, renew_at: renewal(Timestamp::now(), expires.0) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_renewed_early() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        for (lifetime, want) in [(3600, 2880), (600, 480), (365 * 86_400, 86_400), (0, 1)] {
            let renew = renewal(now, now + SignedDuration::from_secs(lifetime));
            assert_eq!(renew.duration_since(now).as_secs(), want, "{lifetime}");
        }
    }
}
