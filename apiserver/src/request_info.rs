//! What a request is about, read from its method, path and query, as upstream's RequestInfo.

use coracle_client::selector::FieldSelector;
use http::Method;

use crate::authz::Attributes;
use crate::verbs::options::Query;

/// A parsed request line. `resource` is empty for paths that are no resources.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`; the lower-case method for
    /// other paths.
    pub verb: &'static str,
    pub group: String,
    pub version: String,
    pub namespace: String,
    pub resource: String,
    pub subresource: String,
    /// What follows the subresource (`proxy/some/path`).
    pub rest: String,
    pub name: String,
    pub path: String,
    pub label_selector: String,
    pub field_selector: String,
}

impl RequestInfo {
    pub fn parse(method: &Method, path: &str, query: Option<&str>) -> Self {
        let mut info = Self { verb: lower_case(method), path: path.to_owned(), ..Self::default() };
        let parts: Vec<String> =
            path.split('/').filter(|part| !part.is_empty()).map(percent_decoded).collect();
        let mut parts = parts.into_iter().peekable();
        match parts.next().as_deref() {
            Some("api") => {}
            Some("apis") => match parts.next() {
                Some(group) => info.group = group,
                None => return info,
            },
            _ => return info,
        }
        let Some(version) = parts.next() else {
            info.group.clear();
            return info;
        };
        info.version = version;
        // The old form of a watch: /api/v1/watch/pods.
        let watch_prefix = parts.next_if(|part| part == "watch").is_some();
        let mut rest: Vec<String> = parts.collect();
        if rest.first().is_some_and(|part| part == "namespaces") && rest.len() > 1 {
            info.namespace = rest[1].clone();
            let on_namespace = rest.len() == 2 || matches!(rest[2].as_str(), "status" | "finalize");
            if !on_namespace {
                rest.drain(..2);
            }
        }
        let mut rest = rest.into_iter();
        let Some(resource) = rest.next() else {
            info.version.clear();
            info.group.clear();
            return info;
        };
        info.resource = resource;
        info.name = rest.next().unwrap_or_default();
        info.subresource = rest.next().unwrap_or_default();
        info.rest = rest.collect::<Vec<_>>().join("/");

        // The verbs read the query in the same way: what is authorized is what is done.
        let query = Query::parse(query.unwrap_or_default());
        info.label_selector = query.get("labelSelector").unwrap_or_default().to_owned();
        info.field_selector = query.get("fieldSelector").unwrap_or_default().to_owned();
        info.verb = match *method {
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE if info.name.is_empty() => "deletecollection",
            Method::DELETE => "delete",
            ref other if !matches!(*other, Method::GET | Method::HEAD) => lower_case(other),
            _ if watch_prefix => "watch",
            _ if info.name.is_empty() => {
                if query.flag("watch") {
                    "watch"
                } else {
                    "list"
                }
            }
            _ => "get",
        };
        info
    }

    /// `v1`, `apps/v1`
    pub fn api_version(&self) -> String {
        match self.group.as_str() {
            "" => self.version.clone(),
            group => format!("{group}/{}", self.version),
        }
    }

    /// The path without what a proxied backend makes of the rest.
    pub fn own_path(&self) -> &str {
        if self.subresource == "proxy" { self.split_path().0 } else { &self.path }
    }

    /// Byte for byte what follows `…/NAME/proxy`, with its slash; empty where nothing does.
    pub fn proxied_path(&self) -> &str {
        self.split_path().1
    }

    fn split_path(&self) -> (&str, &str) {
        let in_namespace = !self.namespace.is_empty() && !self.is_namespace();
        let parts = if in_namespace { 7 } else { 5 } + usize::from(!self.group.is_empty());
        let end = self.path.match_indices('/').nth(parts).map_or(self.path.len(), |(at, _)| at);
        self.path.split_at(end)
    }

    pub fn is_resource(&self) -> bool {
        !self.resource.is_empty()
    }

    /// A namespace itself, whose path has it both as the namespace and as the name.
    pub fn is_namespace(&self) -> bool {
        self.group.is_empty() && self.resource == "namespaces"
    }

    /// Long-running requests are not counted against the limit of requests in flight, nor timed out.
    pub fn is_long_running(&self) -> bool {
        self.verb == "watch"
            || matches!(self.subresource.as_str(), "log" | "exec" | "attach" | "portforward" | "proxy")
    }

    /// A list or watch of one object, picked by `metadata.name`, is about that object, as upstream.
    fn named(&self) -> String {
        if !self.name.is_empty() || !matches!(self.verb, "list" | "watch") {
            return self.name.clone();
        }
        let selector = FieldSelector::parse(&self.field_selector).unwrap_or_default();
        selector.pinned("metadata.name").unwrap_or_default().to_owned()
    }

    pub fn attributes(&self) -> Attributes {
        Attributes {
            verb: self.verb.to_owned(),
            group: self.group.clone(),
            version: self.version.clone(),
            resource: self.resource.clone(),
            subresource: self.subresource.clone(),
            namespace: self.namespace.clone(),
            name: self.named(),
            path: self.path.clone(),
            field_selector: self.field_selector.clone(),
            label_selector: self.label_selector.clone(),
        }
    }
}

fn lower_case(method: &Method) -> &'static str {
    match *method {
        Method::GET => "get",
        Method::HEAD => "head",
        Method::POST => "post",
        Method::PUT => "put",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        Method::OPTIONS => "options",
        _ => "other",
    }
}

/// Go's `strconv.ParseBool`, where an empty value of a flag that is there counts as true.
pub fn is_true(value: &str) -> bool {
    matches!(value, "" | "1" | "t" | "T" | "true" | "TRUE" | "True")
}

/// `%41` -> `A`; what is no valid escape stays.
pub fn percent_decoded(text: &str) -> String {
    if !text.contains('%') {
        return text.to_owned();
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let escaped = (byte == b'%')
            .then(|| bytes.get(at + 1..at + 3))
            .flatten()
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match escaped {
            Some(value) => {
                out.push(value);
                at += 3;
            }
            None => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_read_as_upstream() {
        for (method, path, query, want) in [
            (Method::GET, "/api/v1/namespaces/ns/pods", "", "list  v1 ns pods - -"),
            (Method::GET, "/api/v1/namespaces/ns/pods/", "", "list  v1 ns pods - -"),
            (Method::GET, "/api/v1/pods", "watch=1", "watch  v1  pods - -"),
            (Method::GET, "/api/v1/pods", "watch=false", "list  v1  pods - -"),
            (Method::GET, "/api/v1/watch/namespaces/ns/pods", "", "watch  v1 ns pods - -"),
            (Method::GET, "/api/v1/namespaces", "", "list  v1  namespaces - -"),
            (Method::GET, "/api/v1/namespaces/ns", "", "get  v1 ns namespaces ns -"),
            (Method::PUT, "/api/v1/namespaces/ns/finalize", "", "update  v1 ns namespaces ns finalize"),
            (Method::POST, "/api/v1/namespaces/ns/pods/p/binding", "", "create  v1 ns pods p binding"),
            (
                Method::DELETE,
                "/apis/apps/v1/namespaces/ns/deployments",
                "",
                "deletecollection apps v1 ns deployments - -",
            ),
            (
                Method::PATCH,
                "/apis/apps/v1/namespaces/ns/deployments/d/scale",
                "",
                "patch apps v1 ns deployments d scale",
            ),
            (Method::OPTIONS, "/api/v1/pods", "", "options  v1  pods - -"),
            (Method::GET, "/healthz", "", "get    - -"),
            (Method::GET, "/apis/apps/v1", "", "get    - -"),
            (Method::GET, "/apis/apps", "", "get    - -"),
            (Method::GET, "/api", "", "get    - -"),
        ] {
            let i = RequestInfo::parse(&method, path, Some(query));
            let dash = |s: &str| if s.is_empty() { "-".to_owned() } else { s.to_owned() };
            let got = format!(
                "{} {} {} {} {}{}{} {}",
                i.verb,
                i.group,
                i.version,
                i.namespace,
                i.resource,
                if i.resource.is_empty() { "" } else { " " },
                dash(&i.name),
                dash(&i.subresource)
            );
            assert_eq!(got, want, "{method} {path}?{query}");
        }
        let i = RequestInfo::parse(&Method::GET, "/api/v1/pods", Some("fieldSelector=spec.nodeName%3Dn1&x"));
        assert_eq!(i.field_selector, "spec.nodeName=n1");
        let i = RequestInfo::parse(
            &Method::GET,
            "/api/v1/secrets",
            Some("watch=1&fieldSelector=metadata.name%3Ds"),
        );
        assert_eq!((i.name.as_str(), i.attributes().name.as_str()), ("", "s"));
    }

    #[test]
    fn what_is_proxied_stays_as_it_is() {
        for (path, own, rest) in [
            ("/api/v1/nodes/n/proxy", "/api/v1/nodes/n/proxy", ""),
            ("/api/v1/nodes/n/proxy/", "/api/v1/nodes/n/proxy", "/"),
            (
                "/api/v1/namespaces/ns/pods/p:80/proxy/a%2Fb//c/",
                "/api/v1/namespaces/ns/pods/p:80/proxy",
                "/a%2Fb//c/",
            ),
        ] {
            let i = RequestInfo::parse(&Method::GET, path, None);
            assert_eq!((i.own_path(), i.proxied_path()), (own, rest));
        }
        let i = RequestInfo::parse(&Method::GET, "/api/v1//nodes/n/proxy/x", None);
        assert!(i.own_path().contains("//"));
    }
}
