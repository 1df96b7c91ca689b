//! Who may ask the node's server for what: the apiserver and masters everything, others what a SubjectAccessReview allows.

use std::collections::HashMap;
use std::time::Duration;

use coracle_client::Client;
use coracle_client::client::Written;
use http::Method;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::tls::Peer;

/// As the kubelet keeps what its webhook said.
const ALLOWED_FOR: Duration = Duration::from_secs(300);
const DENIED_FOR: Duration = Duration::from_secs(30);
const KEPT_MAX: usize = 1024;

/// What a request does to which part of `nodes/NAME`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Question {
    pub verb: &'static str,
    pub subresource: &'static str,
}

impl Question {
    /// The narrow question first; `nodes/proxy` covers everything.
    pub fn of(method: &Method, path: &str) -> Vec<Self> {
        let verb = match *method {
            Method::GET | Method::HEAD => "get",
            Method::DELETE => "delete",
            Method::PUT => "update",
            Method::PATCH => "patch",
            _ => "create",
        };
        let under =
            |prefix: &str| path.strip_prefix(prefix).is_some_and(|r| r.is_empty() || r.starts_with('/'));
        let narrow = [
            ("/stats", "stats"),
            ("/metrics", "metrics"),
            ("/logs", "log"),
            ("/spec", "spec"),
            ("/healthz", "healthz"),
            ("/configz", "configz"),
            ("/pods", "pods"),
            ("/runningpods", "pods"),
        ];
        let narrow = narrow.iter().find(|(prefix, _)| under(prefix)).map(|(_, name)| *name);
        narrow.into_iter().chain(["proxy"]).map(|subresource| Question { verb, subresource }).collect()
    }
}

type Asked = (String, Vec<String>, Question);

#[derive(Default)]
pub struct Authorizer {
    known: Mutex<HashMap<Asked, (bool, Instant)>>,
}

impl Authorizer {
    pub async fn allows(&self, client: &Client, node: &str, peer: &Peer, questions: &[Question]) -> bool {
        for question in questions {
            if self.one(client, node, peer, *question).await {
                return true;
            }
        }
        false
    }

    async fn one(&self, client: &Client, node: &str, peer: &Peer, question: Question) -> bool {
        let key = (peer.user.clone(), peer.groups.clone(), question);
        let now = Instant::now();
        if let Some((allowed, until)) = self.known.lock().get(&key).copied()
            && now < until
        {
            return allowed;
        }
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(peer.user.clone()),
                groups: Some([peer.groups.as_slice(), &["system:authenticated".to_owned()]].concat()),
                resource_attributes: Some(ResourceAttributes {
                    verb: Some(question.verb.into()),
                    version: Some("v1".into()),
                    resource: Some("nodes".into()),
                    subresource: Some(question.subresource.into()),
                    name: Some(node.to_owned()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let answered: Result<Written<SubjectAccessReview>, _> = client.create(&review).await;
        let answered = answered.and_then(|written| written.decode());
        let allowed = match answered {
            Ok(review) => review.status.is_some_and(|status| status.allowed),
            Err(error) => {
                tracing::warn!(user = %peer.user, %error, "asking whether a client may enter");
                return false;
            }
        };
        let mut known = self.known.lock();
        if known.len() >= KEPT_MAX {
            known.retain(|_, (_, until)| now < *until);
            if known.len() >= KEPT_MAX {
                known.clear();
            }
        }
        known.insert(key, (allowed, now + if allowed { ALLOWED_FOR } else { DENIED_FOR }));
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions() {
        for (method, path, want) in [
            (Method::GET, "/metrics", vec![("get", "metrics"), ("get", "proxy")]),
            (Method::GET, "/stats/summary", vec![("get", "stats"), ("get", "proxy")]),
            (Method::POST, "/exec/ns/p/c", vec![("create", "proxy")]),
            (Method::GET, "/containerLogs/ns/p/c", vec![("get", "proxy")]),
            (Method::GET, "/podsandmore", vec![("get", "proxy")]),
        ] {
            let got: Vec<_> = Question::of(&method, path).iter().map(|q| (q.verb, q.subresource)).collect();
            assert_eq!(got, want, "{method} {path}");
        }
    }
}
