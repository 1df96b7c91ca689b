//! Conversion by a webhook: a ConversionReview over HTTPS, to a URL or to a service in the cluster.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use axum::body::Body;
use coracle_client::ApiError;
use http::{Request, header};
use http_body_util::{BodyExt, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    ServiceReference, WebhookConversion,
};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::document::CustomObject;
use crate::api::Api;
use crate::watch_cache::{Filter, key_of};

/// As upstream.
const TIMEOUT: Duration = Duration::from_secs(30);
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
const HTTPS: u16 = 443;
/// Review versions that this server speaks, the best first.
const REVIEWS: &[&str] = &["v1", "v1beta1"];

pub struct Webhook {
    said: WebhookConversion,
    /// The API owns the kinds that own this.
    api: Weak<Api>,
}

/// Where to connect, as whom the server must show itself, and the path.
struct Target {
    addresses: Vec<SocketAddr>,
    name: String,
    host: String,
    path: String,
}

impl Webhook {
    pub fn new(said: &WebhookConversion, api: &Arc<Api>) -> Self {
        Self { said: said.clone(), api: Arc::downgrade(api) }
    }

    /// The objects in `api_version`, in the same order.
    pub async fn convert(
        &self,
        objects: Vec<CustomObject>,
        api_version: &str,
    ) -> Result<Vec<CustomObject>, ApiError> {
        let Some(first) = objects.first() else { return Ok(objects) };
        let (from, kind) = (first.api_version().to_owned(), first.kind().to_owned());
        let failed = |why: String| {
            ApiError::internal(format!("conversion webhook for {from}, Kind={kind} failed: {why}"))
        };
        let known = &self.said.conversion_review_versions;
        let review = REVIEWS.iter().find(|version| known.iter().any(|known| known == *version));
        let review = review.ok_or_else(|| failed("no conversion review version is known to both".into()))?;
        let uid = uuid::Uuid::new_v4().to_string();
        let documents: Vec<Value> = objects.iter().map(CustomObject::document).collect();
        let request = json!({
            "apiVersion": format!("apiextensions.k8s.io/{review}"),
            "kind": "ConversionReview",
            "request": { "uid": uid, "desiredAPIVersion": api_version, "objects": documents },
        });
        let asked = tokio::time::timeout(TIMEOUT, self.ask(request.to_string()));
        let answer = asked.await.map_err(|_| failed("context deadline exceeded".into()))?.map_err(failed)?;
        let answer: Value = serde_json::from_slice(&answer).map_err(|error| failed(error.to_string()))?;
        read(answer, &uid, api_version, &objects).map_err(failed)
    }

    fn target(&self) -> Result<(Option<ServiceReference>, Option<String>), String> {
        let client = self.said.client_config.as_ref().ok_or("the webhook has no client configuration")?;
        Ok((client.service.clone(), client.url.clone()))
    }

    async fn resolve(&self) -> Result<Target, String> {
        match self.target()? {
            (Some(service), _) => {
                let port = service.port.and_then(|port| u16::try_from(port).ok()).unwrap_or(HTTPS);
                let name = format!("{}.{}.svc", service.name, service.namespace);
                let api = self.api.upgrade().ok_or("the server is shutting down")?;
                let addresses = backends(&api, &service.namespace, &service.name, port)?;
                let path = service.path.unwrap_or_else(|| "/".into());
                Ok(Target { addresses, host: format!("{name}:{port}"), name, path })
            }
            (None, Some(url)) => {
                let url: http::Uri = url.parse().map_err(|error| format!("{error}"))?;
                let name = url.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
                let port = url.port_u16().unwrap_or(HTTPS);
                let addresses =
                    tokio::net::lookup_host((name.as_str(), port)).await.map_err(|e| e.to_string())?;
                let path = url.path_and_query().map_or("/", |path| path.as_str()).to_owned();
                let host = url.authority().map(ToString::to_string).unwrap_or_default();
                Ok(Target { addresses: addresses.collect(), name, host, path })
            }
            _ => Err("the webhook has neither url nor service".into()),
        }
    }

    fn trust(&self) -> Result<ClientConfig, String> {
        let mut roots = RootCertStore::empty();
        let bundle = self.said.client_config.as_ref().and_then(|client| client.ca_bundle.as_ref());
        match bundle.filter(|bundle| !bundle.0.is_empty()) {
            Some(bundle) => {
                for certificate in CertificateDer::pem_slice_iter(&bundle.0) {
                    let certificate =
                        certificate.map_err(|error| format!("unable to load root certificates: {error}"))?;
                    roots
                        .add(certificate)
                        .map_err(|error| format!("unable to load root certificates: {error}"))?;
                }
            }
            // The system's, as upstream.
            None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        Ok(config.map_err(|error| error.to_string())?.with_root_certificates(roots).with_no_client_auth())
    }

    async fn ask(&self, body: String) -> Result<bytes::Bytes, String> {
        let target = self.resolve().await?;
        let name = ServerName::try_from(target.name.clone()).map_err(|error| error.to_string())?;
        let tls = TlsConnector::from(Arc::new(self.trust()?));
        let url = format!("https://{}{}", target.host, target.path);
        let broken = |error: &dyn std::fmt::Display| format!("Post {url:?}: {error}");
        let stream = TcpStream::connect(target.addresses.as_slice()).await.map_err(|e| broken(&e))?;
        let stream = tls.connect(name, stream).await.map_err(|e| broken(&e))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| broken(&e))?;
        // It ends with the answer, or with this function.
        let connection = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(connection));
        let request = Request::post(&target.path)
            .header(header::HOST, &target.host)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json")
            .body(Body::from(body))
            .map_err(|e| broken(&e))?;
        let response = sender.send_request(request).await.map_err(|e| broken(&e))?;
        let status = response.status();
        let read = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let bytes = read.map_err(|e| broken(&e))?.to_bytes();
        drop(connection);
        if !status.is_success() {
            return Err(format!(
                "the server responded with the status code {} but did not return more information",
                status.as_u16()
            ));
        }
        Ok(bytes)
    }
}

/// Where a service's port leads: to what is ready behind it, or to its own address.
fn backends(api: &Api, namespace: &str, name: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    let missing = || format!("service {name:?} not found");
    let services = api.kind_at("v1", "services").ok_or_else(missing)?;
    let service = services.cache.get(&key_of(Some(namespace), name)).ok_or_else(missing)?;
    let service: Value = service.decode().map_err(|error| error.to_string())?;
    let ports = service.pointer("/spec/ports").and_then(Value::as_array).cloned().unwrap_or_default();
    let wanted = ports.iter().find(|p| p.get("port").and_then(Value::as_u64) == Some(port.into()));
    let wanted = wanted.ok_or_else(|| format!("no service port {port} found for service {name:?}"))?;
    let port_name = wanted.get("name").and_then(Value::as_str).unwrap_or_default();
    let mut addresses = Vec::new();
    if let Some(slices) = api.kind_at("discovery.k8s.io/v1", "endpointslices") {
        let labels = coracle_client::selector::Selector::parse(&format!("kubernetes.io/service-name={name}"));
        let filter = Filter {
            namespace: Some(namespace.to_owned()),
            labels: labels.map_err(|error| error.to_string())?,
            ..Filter::default()
        };
        let page = slices.cache.list(&filter, None, None, None, api.cache.revision());
        for slice in page.map(|page| page.objects).unwrap_or_default() {
            let slice: Value = slice.decode().map_err(|error| error.to_string())?;
            addresses.extend(ready(&slice, port_name));
        }
    }
    if addresses.is_empty() {
        let own = service.pointer("/spec/clusterIP").and_then(Value::as_str).and_then(|ip| ip.parse().ok());
        addresses.extend(own.map(|ip| SocketAddr::new(ip, port)));
    }
    if addresses.is_empty() {
        return Err(format!("no endpoints available for service {name:?}"));
    }
    Ok(addresses)
}

fn ready(slice: &Value, port_name: &str) -> Vec<SocketAddr> {
    let list = |name: &str| slice.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    let port = list("ports").iter().find_map(|port| {
        let named = port.get("name").and_then(Value::as_str).unwrap_or_default() == port_name;
        port.get("port").and_then(Value::as_u64).filter(|_| named).and_then(|port| u16::try_from(port).ok())
    });
    let Some(port) = port else { return Vec::new() };
    let endpoints = list("endpoints");
    let ready = endpoints.iter().filter(|e| e.pointer("/conditions/ready") != Some(&Value::Bool(false)));
    ready
        .flat_map(|endpoint| endpoint.get("addresses").and_then(Value::as_array).cloned().unwrap_or_default())
        .filter_map(|address| Some(SocketAddr::new(address.as_str()?.parse().ok()?, port)))
        .collect()
}

/// The converted objects, where the webhook did what it was asked and no more: it may change labels and annotations of
/// the metadata, and everything outside of them.
fn read(
    mut answer: Value,
    uid: &str,
    wanted: &str,
    objects: &[CustomObject],
) -> Result<Vec<CustomObject>, String> {
    let response = answer.get_mut("response").map(Value::take).unwrap_or_default();
    if response.is_null() {
        return Err("no response provided".into());
    }
    let given = response.get("uid").and_then(Value::as_str).unwrap_or_default();
    if given != uid {
        return Err(format!("expected response.uid={uid:?}, got {given:?}"));
    }
    if response.pointer("/result/status").and_then(Value::as_str) != Some("Success") {
        let message = response.pointer("/result/message").and_then(Value::as_str).unwrap_or_default();
        return Err(if message.is_empty() {
            "response.result.status was not \"Success\"".into()
        } else {
            message.to_owned()
        });
    }
    let converted = response.get("convertedObjects").and_then(Value::as_array).cloned().unwrap_or_default();
    if converted.len() != objects.len() {
        return Err(format!("webhook returned {} objects, expected {}", converted.len(), objects.len()));
    }
    let mut all = Vec::with_capacity(converted.len());
    for (i, (value, old)) in converted.into_iter().zip(objects).enumerate() {
        let invalid = |why: String| format!("invalid converted object at index {i}: {why}");
        let Value::Object(members) = value else { return Err(invalid("it is no object".into())) };
        let (mut new, _) = CustomObject::of(members).map_err(invalid)?;
        if new.api_version() != wanted {
            return Err(invalid(format!(
                "invalid groupVersion, expected={wanted}, got={}",
                new.api_version()
            )));
        }
        if new.kind() != old.kind() {
            return Err(invalid(format!("invalid kind, expected={}, got={}", old.kind(), new.kind())));
        }
        for (name, new, old) in [
            ("name", &new.meta.name, &old.meta.name),
            ("namespace", &new.meta.namespace, &old.meta.namespace),
            ("UID", &new.meta.uid, &old.meta.uid),
        ] {
            if new.as_deref().unwrap_or_default() != old.as_deref().unwrap_or_default() {
                return Err(invalid(format!(
                    "invalid metadata: must have the same {name}: {:?} != {:?}",
                    new.as_deref().unwrap_or_default(),
                    old.as_deref().unwrap_or_default()
                )));
            }
        }
        let (labels, annotations) = (new.meta.labels.take(), new.meta.annotations.take());
        new.meta = old.meta.clone();
        new.meta.labels = labels;
        new.meta.annotations = annotations;
        all.push(new);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> CustomObject {
        CustomObject::of(value.as_object().unwrap().clone()).unwrap().0
    }

    #[test]
    fn answers_are_taken_for_what_they_may_change() {
        let old = object(
            json!({"apiVersion": "g.io/v1", "kind": "Foo", "metadata": {"name": "a", "uid": "u", "finalizers": ["x/y"]}, "spec": {"a": 1}}),
        );
        let answer = |uid: &str, objects: Value| json!({"response": {"uid": uid, "result": {"status": "Success"}, "convertedObjects": objects}});
        let good = json!({"apiVersion": "g.io/v2", "kind": "Foo", "metadata": {"name": "a", "uid": "u", "labels": {"l": "v"}}, "spec": {"b": 1}});
        let olds = [old];
        let converted = read(answer("1", json!([good])), "1", "g.io/v2", &olds).unwrap();
        assert_eq!(converted[0].body["spec"], json!({"b": 1}));
        assert_eq!(converted[0].meta.finalizers.as_deref(), Some(&["x/y".to_owned()][..]));
        assert_eq!(converted[0].meta.labels.as_ref().unwrap()["l"], "v");
        let mut renamed = good.clone();
        renamed["metadata"]["name"] = json!("b");
        for (answer, want) in [
            (answer("2", json!([good])), "expected response.uid=\"1\", got \"2\""),
            (answer("1", json!([])), "webhook returned 0 objects, expected 1"),
            (
                answer("1", json!([renamed])),
                "invalid converted object at index 0: invalid metadata: must have the same name: \"b\" != \"a\"",
            ),
            (json!({}), "no response provided"),
            (json!({"response": {"uid": "1", "result": {"status": "Failure", "message": "no"}}}), "no"),
        ] {
            assert_eq!(read(answer, "1", "g.io/v2", &olds).unwrap_err(), want);
        }
    }

    #[test]
    fn ready_endpoints_of_the_port_are_asked() {
        let slice = json!({"ports": [{"name": "", "port": 9443}], "endpoints": [
            {"addresses": ["10.0.0.1"], "conditions": {"ready": true}}, {"addresses": ["10.0.0.2"], "conditions": {"ready": false}}]});
        assert_eq!(ready(&slice, ""), ["10.0.0.1:9443".parse().unwrap()]);
        assert!(ready(&slice, "web").is_empty());
    }
}
