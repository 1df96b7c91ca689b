//! Impersonation: a sender who may do so acts as somebody else for one request (`Impersonate-*` headers).
//!
//! Upstream has two kinds. Constrained (KEP 5284): `impersonate-on:MODE:VERB` on what the request is about, and
//! `impersonate:MODE` on whom it is to be. Legacy: `impersonate` on whom it is to be, for whatever is done.

use std::collections::BTreeMap;

use coracle_client::ApiError;
use http::{HeaderMap, HeaderName};

use crate::authn::{
    ANONYMOUS, AUTHENTICATED_GROUP, Identity, MASTERS_GROUP, NODES_GROUP, UNAUTHENTICATED_GROUP,
    service_account_of,
};
use crate::authz::rbac::quoted;
use crate::authz::{Attributes, Authorizers, forbidden};
use crate::request_info::percent_decoded;
use crate::validation;

const USER: &str = "impersonate-user";
const UID: &str = "impersonate-uid";
const GROUP: &str = "impersonate-group";
const EXTRA: &str = "impersonate-extra-";
const AUTHENTICATION: &str = "authentication.k8s.io";
/// From so many on, all at once is asked for first.
const MANY: usize = 4;

/// Whom the headers name, as they name them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Wanted {
    name: String,
    uid: String,
    groups: Vec<String>,
    extra: BTreeMap<String, Vec<String>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    AssociatedNode,
    ArbitraryNode,
    ServiceAccount,
    UserInfo,
    Legacy,
}

const MODES: [Mode; 5] =
    [Mode::AssociatedNode, Mode::ArbitraryNode, Mode::ServiceAccount, Mode::UserInfo, Mode::Legacy];

/// Who acts: the sender, or whom the headers name, where the sender may. The headers are gone then.
pub async fn acting(
    authorizers: &Authorizers,
    sender: Identity,
    headers: &mut HeaderMap,
    attributes: impl FnOnce() -> Attributes,
) -> Result<Identity, ApiError> {
    if !headers.keys().any(|name| name.as_str().starts_with("impersonate-")) {
        return Ok(sender);
    }
    let Some(wanted) = read(headers)? else { return Ok(sender) };
    let attributes = attributes();
    let mut refused = None;
    for mode in MODES.into_iter().filter(|mode| mode.fits(&wanted, &sender)) {
        let check = Check { authorizers, sender: &sender, wanted: &wanted, mode };
        match check.all(&attributes).await {
            Ok(identity) => return Ok(identity),
            // The first refusal is told, as upstream.
            Err(error) => drop(refused.get_or_insert(error)),
        }
    }
    Err(refused.unwrap_or_else(|| ApiError::internal("all impersonation modes failed")))
}

fn read(headers: &mut HeaderMap) -> Result<Option<Wanted>, ApiError> {
    let text = |name: &str| -> Vec<String> {
        headers.get_all(name).iter().map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned()).collect()
    };
    let first = |name: &str| text(name).into_iter().next().unwrap_or_default();
    let mut wanted =
        Wanted { name: first(USER), uid: first(UID), groups: text(GROUP), extra: BTreeMap::new() };
    let names: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with("impersonate-")).cloned().collect();
    for name in &names {
        if let Some(key) = name.as_str().strip_prefix(EXTRA) {
            wanted.extra.entry(percent_decoded(key)).or_default().extend(text(name.as_str()));
        }
    }
    if !wanted.name.is_empty() {
        for name in names {
            headers.remove(name);
        }
        return Ok(Some(wanted));
    }
    if wanted.uid.is_empty() && wanted.groups.is_empty() && wanted.extra.is_empty() {
        return Ok(None);
    }
    Err(ApiError::bad_request(format!("requested {} without impersonating a user name", wanted.as_go())))
}

impl Wanted {
    /// As Go's `%#v` of upstream's type.
    fn as_go(&self) -> String {
        let list = |values: &[String]| {
            let quoted: Vec<String> = values.iter().map(|v| format!("{v:?}")).collect();
            format!("[]string{{{}}}", quoted.join(", "))
        };
        let groups = if self.groups.is_empty() { "[]string(nil)".into() } else { list(&self.groups) };
        let extra = if self.extra.is_empty() {
            "map[string][]string(nil)".into()
        } else {
            let pairs: Vec<String> = self.extra.iter().map(|(k, v)| format!("{k:?}:{}", list(v))).collect();
            format!("map[string][]string{{{}}}", pairs.join(", "))
        };
        format!(
            "&user.DefaultInfo{{Name:{:?}, UID:{:?}, Groups:{groups}, Extra:{extra}}}",
            self.name, self.uid
        )
    }

    fn only_name(&self) -> bool {
        self.uid.is_empty() && self.groups.is_empty() && self.extra.is_empty()
    }

    fn node(&self) -> Option<&str> {
        self.name.strip_prefix("system:node:").filter(|name| validation::dns_subdomain(name).is_ok())
    }
}

impl Mode {
    fn fits(self, wanted: &Wanted, sender: &Identity) -> bool {
        let account = service_account_of(&wanted.name).is_some();
        match self {
            Self::AssociatedNode => {
                let home = sender.extra.get("authentication.kubernetes.io/node-name").map(Vec::as_slice);
                let at_home = matches!((home, wanted.node()), (Some([home]), Some(node)) if home == node);
                wanted.only_name() && sender.service_account().is_some() && at_home
            }
            Self::ArbitraryNode => wanted.only_name() && wanted.node().is_some(),
            Self::ServiceAccount => wanted.only_name() && account,
            Self::UserInfo => wanted.node().is_none() && !account,
            Self::Legacy => true,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::AssociatedNode => "associated-node",
            Self::ArbitraryNode => "arbitrary-node",
            Self::ServiceAccount => "serviceaccount",
            Self::UserInfo => "user-info",
            Self::Legacy => "",
        }
    }
}

struct Check<'a> {
    authorizers: &'a Authorizers,
    sender: &'a Identity,
    wanted: &'a Wanted,
    mode: Mode,
}

impl Check<'_> {
    fn constrained(&self) -> bool {
        self.mode != Mode::Legacy
    }

    async fn all(&self, request: &Attributes) -> Result<Identity, ApiError> {
        if self.constrained() {
            let verb = format!("impersonate-on:{}:{}", self.mode.name(), request.verb);
            self.may(&Attributes { verb, ..request.clone() }).await?;
        }
        let wanted = self.wanted;
        let mut identity = Identity {
            name: wanted.name.clone(),
            uid: Some(wanted.uid.clone()).filter(|uid| !uid.is_empty()),
            groups: wanted.groups.clone(),
            extra: wanted.extra.clone(),
        };
        self.name(&mut identity).await?;
        if !wanted.uid.is_empty() {
            self.may(&self.of(AUTHENTICATION, "uids", &wanted.uid)).await?;
        }
        self.groups().await?;
        self.extra().await?;
        let own = if identity.name == ANONYMOUS {
            UNAUTHENTICATED_GROUP
        } else if identity.in_group(UNAUTHENTICATED_GROUP) {
            return Ok(identity);
        } else {
            AUTHENTICATED_GROUP
        };
        if !identity.in_group(own) {
            identity.groups.push(own.into());
        }
        Ok(identity)
    }

    async fn may(&self, attributes: &Attributes) -> Result<(), ApiError> {
        self.authorizers.authorize(self.sender, attributes).await
    }

    /// What is asked about a part of whom it is to be.
    fn of(&self, group: &str, resource: &str, name: &str) -> Attributes {
        let verb = if self.constrained() {
            format!("impersonate:{}", self.mode.name())
        } else {
            "impersonate".to_owned()
        };
        Attributes {
            verb,
            group: group.into(),
            version: "v1".into(),
            resource: resource.into(),
            name: name.into(),
            ..Attributes::default()
        }
    }

    /// Users and groups were in the core group before there were modes.
    fn group(&self) -> &'static str {
        if self.constrained() { AUTHENTICATION } else { "" }
    }

    async fn name(&self, identity: &mut Identity) -> Result<(), ApiError> {
        let wanted = self.wanted;
        let mut attributes = self.of(self.group(), "users", &wanted.name);
        if let Some(node) = wanted.node().filter(|_| self.constrained()) {
            attributes.resource = "nodes".into();
            // Where a sender's own node is meant, the right does not depend on which it is.
            attributes.name = if self.mode == Mode::AssociatedNode { "*" } else { node }.into();
            identity.groups = vec![NODES_GROUP.into()];
        }
        if let Some((namespace, name)) = service_account_of(&wanted.name) {
            attributes.resource = "serviceaccounts".into();
            attributes.namespace = namespace.into();
            attributes.name = name.into();
            if wanted.groups.is_empty() {
                identity.groups =
                    vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}")];
            }
        }
        self.may(&attributes).await
    }

    async fn groups(&self) -> Result<(), ApiError> {
        let groups = &self.wanted.groups;
        if self.constrained() {
            let refuse = |name: &str, why: &str| {
                Err(forbidden(self.sender, &self.of(self.group(), "groups", name), why))
            };
            if groups.iter().any(String::is_empty) {
                return refuse("", "impersonating the empty string group is not allowed");
            }
            if groups.iter().any(|group| group == MASTERS_GROUP) {
                return refuse(MASTERS_GROUP, "impersonating the system:masters group is not allowed");
            }
            if groups.len() >= MANY && self.may(&self.of(self.group(), "groups", "*")).await.is_ok() {
                return Ok(());
            }
        }
        for group in groups {
            self.may(&self.of(self.group(), "groups", group)).await?;
        }
        Ok(())
    }

    async fn extra(&self) -> Result<(), ApiError> {
        let extra = &self.wanted.extra;
        let of = |key: &str, value: &str| {
            let mut attributes = self.of(AUTHENTICATION, "userextras", value);
            attributes.subresource = key.into();
            attributes
        };
        if self.constrained() {
            if let Some(why) = extra.iter().find_map(|(key, values)| unfit(key, values)) {
                return Err(forbidden(self.sender, &of("", ""), &why));
            }
            let many = extra.len() >= MANY || extra.values().map(Vec::len).sum::<usize>() >= MANY;
            if many && self.may(&of("*", "*")).await.is_ok() {
                return Ok(());
            }
        }
        for (key, values) in extra {
            for value in values {
                self.may(&of(key, value)).await?;
            }
        }
        Ok(())
    }
}

/// Why an extra may not be taken on.
fn unfit(key: &str, values: &[String]) -> Option<String> {
    let fine = key.split_once('/').is_some_and(|(domain, path)| {
        validation::dns_subdomain(domain).is_ok()
            && !path.is_empty()
            && path.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/%".contains(&b))
    });
    if key.is_empty() {
        Some("impersonating the empty string key in extra is not allowed".into())
    } else if !fine {
        let detail = "must be a domain-prefixed path (such as \"acme.io/foo\")";
        Some(format!(
            "impersonating an invalid key in extra is not allowed: extra.key: Invalid value: {key:?}: {detail}"
        ))
    } else if key.to_lowercase() != key {
        Some(format!("impersonating a non-lowercase key in extra is not allowed: {key:?}"))
    } else if values.iter().any(String::is_empty) {
        Some(format!("impersonating the empty string value in extra is not allowed ({})", quoted(values)))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn headers_name_a_user_and_are_gone_afterwards() {
        let mut given = headers(&[
            ("impersonate-user", "jane"),
            ("impersonate-group", "a"),
            ("impersonate-group", "b"),
            ("impersonate-extra-example.com%2ffoo", "x"),
            ("accept", "*/*"),
        ]);
        let wanted = read(&mut given).unwrap().unwrap();
        assert_eq!((wanted.name.as_str(), wanted.groups.len()), ("jane", 2));
        assert_eq!(wanted.extra["example.com/foo"], ["x"]);
        assert_eq!(given.len(), 1);
        assert_eq!(read(&mut headers(&[("impersonate-user", "")])).unwrap(), None);
        for (pairs, want) in [
            (
                headers(&[("impersonate-group", "a")]),
                "requested &user.DefaultInfo{Name:\"\", UID:\"\", Groups:[]string{\"a\"}, Extra:map[string][]string(nil)} without impersonating a user name",
            ),
            (
                headers(&[("impersonate-extra-x", "a")]),
                "requested &user.DefaultInfo{Name:\"\", UID:\"\", Groups:[]string(nil), Extra:map[string][]string{\"x\":[]string{\"a\"}}} without impersonating a user name",
            ),
        ] {
            assert_eq!(read(&mut pairs.clone()).unwrap_err().message(), want);
        }
    }

    #[test]
    fn each_mode_is_for_some() {
        let fitting = |name: &str, groups: &[&str], sender: &Identity| -> Vec<Mode> {
            let groups = groups.iter().map(|g| (*g).to_owned()).collect();
            let wanted = Wanted { name: name.into(), groups, ..Wanted::default() };
            MODES.into_iter().filter(|m| m.fits(&wanted, sender)).collect()
        };
        let joe = Identity::new("joe", &[]);
        let mut agent = Identity::new("system:serviceaccount:a:agent", &[]);
        agent.extra.insert("authentication.kubernetes.io/node-name".into(), vec!["n1".into()]);
        use Mode::{ArbitraryNode, AssociatedNode, Legacy, ServiceAccount, UserInfo};
        assert_eq!(fitting("jane", &["x"], &joe), [UserInfo, Legacy]);
        assert_eq!(fitting("system:node:n1", &[], &joe), [ArbitraryNode, Legacy]);
        assert_eq!(fitting("system:node:n1", &[], &agent), [AssociatedNode, ArbitraryNode, Legacy]);
        assert_eq!(fitting("system:node:n2", &[], &agent), [ArbitraryNode, Legacy]);
        assert_eq!(fitting("system:serviceaccount:a:b", &[], &joe), [ServiceAccount, Legacy]);
        assert_eq!(fitting("system:serviceaccount:a:b", &["x"], &joe), [Legacy]);
    }
}
