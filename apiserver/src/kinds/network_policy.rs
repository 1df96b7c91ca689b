//! NetworkPolicy: which traffic pods may have.

use jiff::Timestamp;
use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};

use super::{BuiltIn, Column, address_formats as formats};
use crate::field_error::{Errors, Path};
use crate::{table, validation};

const TYPES: &[&str] = &["Ingress", "Egress"];
const PROTOCOLS: &[&str] = &["TCP", "UDP", "SCTP"];

type Ports = Option<Vec<NetworkPolicyPort>>;
type Peers = Option<Vec<NetworkPolicyPeer>>;

/// The rules of both directions alike: direction, ports, what the peers are called, peers.
fn rules(
    spec: &NetworkPolicySpec,
) -> impl Iterator<Item = (&'static str, usize, &Ports, &'static str, &Peers)> {
    let into = spec.ingress.iter().flatten().enumerate();
    let out = spec.egress.iter().flatten().enumerate();
    into.map(|(i, r)| ("ingress", i, &r.ports, "from", &r.from))
        .chain(out.map(|(i, r)| ("egress", i, &r.ports, "to", &r.to)))
}

impl BuiltIn for NetworkPolicy {
    const SINGULAR: &'static str = "networkpolicy";
    const SHORT_NAMES: &'static [&'static str] = &["netpol"];
    const HAS_GENERATION: bool = true;

    fn set_defaults(&mut self) {
        let spec = self.spec.get_or_insert_default();
        spec.pod_selector.get_or_insert_default();
        let into = spec.ingress.iter_mut().flatten().flat_map(|r| r.ports.iter_mut().flatten());
        let out = spec.egress.iter_mut().flatten().flat_map(|r| r.ports.iter_mut().flatten());
        for port in into.chain(out) {
            port.protocol.get_or_insert_with(|| "TCP".into());
        }
        if spec.policy_types.as_ref().is_none_or(Vec::is_empty) {
            let out = spec.egress.as_ref().is_some_and(|e| !e.is_empty());
            spec.policy_types = Some(TYPES.iter().take(1 + usize::from(out)).map(|t| (*t).into()).collect());
        }
    }

    fn validate(&self, errors: &mut Errors) {
        let path = Path::new("spec");
        let Some(spec) = &self.spec else { return };
        if let Some(selector) = &spec.pod_selector {
            validation::label_selector(selector, &path.child("podSelector"), errors);
        }
        for (direction, i, ports, side, peers) in rules(spec) {
            let at = path.child(direction);
            let at = at.index(i);
            for (i, port) in ports.iter().flatten().enumerate() {
                validate_port(port, &at.child("ports").index(i), errors);
            }
            for (i, peer) in peers.iter().flatten().enumerate() {
                validate_peer(peer, &at.child(side).index(i), errors);
            }
        }
        let types = spec.policy_types.as_deref().unwrap_or_default();
        if types.len() > TYPES.len() {
            let detail = "may not specify more than two policyTypes";
            return errors.invalid(path.child("policyTypes"), types, detail);
        }
        for (i, type_) in types.iter().enumerate().filter(|(_, t)| !TYPES.contains(&t.as_str())) {
            errors.not_supported(path.child("policyTypes").index(i), type_, TYPES);
        }
    }

    fn warnings(&self, _old: Option<&Self>) -> Vec<String> {
        let mut warnings = Vec::new();
        let path = Path::new("spec");
        for (direction, i, _, side, peers) in self.spec.iter().flat_map(rules) {
            let at = path.child(direction);
            let at = at.index(i);
            for (i, peer) in peers.iter().flatten().enumerate() {
                let Some(block) = &peer.ip_block else { continue };
                let at = at.child(side);
                let at = at.index(i);
                let at = at.child("ipBlock");
                warnings.extend(formats::cidr_warning(&at.child("cidr"), &block.cidr));
                for (i, except) in block.except.iter().flatten().enumerate() {
                    warnings.extend(formats::cidr_warning(&at.child("except").index(i), except));
                }
            }
        }
        warnings
    }

    fn columns() -> Vec<Column> {
        table::columns(&[table::narrow("Pod-Selector", "string", "The pods whose traffic this rules.")])
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let selector = self.spec.as_ref().and_then(|s| s.pod_selector.as_ref());
        table::cells(&self.metadata, now, vec![json!(table::selector(selector))])
    }
}

fn validate_port(port: &NetworkPolicyPort, path: &Path<'_>, errors: &mut Errors) {
    if let Some(protocol) = port.protocol.as_deref().filter(|p| !PROTOCOLS.contains(p)) {
        errors.not_supported(path.child("protocol"), protocol, PROTOCOLS);
    }
    let end = path.child("endPort");
    match (&port.port, port.end_port) {
        (Some(IntOrString::Int(first)), last) => {
            if let Err(detail) = validation::port_number(*first) {
                errors.invalid(path.child("port"), first, detail);
            }
            let Some(last) = last else { return };
            if last < *first {
                errors.invalid(end, first, "must be greater than or equal to `port`");
            }
            if let Err(detail) = validation::port_number(last) {
                errors.invalid(end, last, detail);
            }
        }
        (Some(IntOrString::String(name)), last) => {
            if let Some(last) = last {
                errors.invalid(end, last, "may not be specified when `port` is non-numeric");
            }
            errors.check(path.child("port"), name, validation::port_name);
        }
        (None, Some(last)) => errors.invalid(end, last, "may not be specified when `port` is not specified"),
        (None, None) => {}
    }
}

fn validate_peer(peer: &NetworkPolicyPeer, path: &Path<'_>, errors: &mut Errors) {
    let selectors = [("podSelector", &peer.pod_selector), ("namespaceSelector", &peer.namespace_selector)];
    let mut peers = 0;
    for (field, selector) in selectors {
        let Some(selector) = selector else { continue };
        peers += 1;
        validation::label_selector(selector, &path.child(field), errors);
    }
    match &peer.ip_block {
        Some(block) => {
            validate_block(block, &path.child("ipBlock"), errors);
            if peers > 0 {
                errors.forbidden(path, "may not specify both ipBlock and another peer");
            }
        }
        None if peers == 0 => errors.required(path, "must specify a peer"),
        None => {}
    }
}

fn validate_block(block: &IPBlock, path: &Path<'_>, errors: &mut Errors) {
    if block.cidr.is_empty() {
        return errors.required(path.child("cidr"), "");
    }
    let outer = match formats::network(&block.cidr) {
        Ok(outer) => outer,
        Err(detail) => return errors.invalid(path.child("cidr"), &block.cidr, detail),
    };
    for (i, except) in block.except.iter().flatten().enumerate() {
        let at = path.child("except");
        let at = at.index(i);
        match formats::network(except) {
            Err(detail) => errors.invalid(at, except, detail),
            Ok(inner) if !formats::strictly_within(outer, inner) => {
                errors.invalid(at, except, "must be a strict subset of `cidr`");
            }
            Ok(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing;

    use super::*;

    fn peer(peer: Value) -> Value {
        json!({"spec": {"ingress": [{"from": [peer]}]}})
    }

    fn port(port: Value) -> Value {
        json!({"spec": {"egress": [{"ports": [port]}]}})
    }

    #[test]
    fn what_is_left_out_is_said() {
        let policy: NetworkPolicy = testing::defaulted(port(json!({"port": 80})));
        let spec = policy.spec.unwrap();
        assert_eq!(spec.policy_types.unwrap(), ["Ingress", "Egress"]);
        assert_eq!(spec.egress.unwrap()[0].ports.as_ref().unwrap()[0].protocol.as_deref(), Some("TCP"));
        let policy: NetworkPolicy = testing::defaulted(json!({}));
        assert_eq!(policy.spec.unwrap().policy_types.unwrap(), ["Ingress"]);
    }

    #[test]
    fn ports_and_peers_are_whole() {
        const FROM: &str = "spec.ingress[0].from[0]";
        testing::invalid::<NetworkPolicy>(&[
            (peer(json!({})), FROM, "Required value: must specify a peer"),
            (
                peer(json!({"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}})),
                FROM,
                "Forbidden: may not specify both ipBlock and another peer",
            ),
            (
                peer(json!({"ipBlock": {"cidr": ""}})),
                "spec.ingress[0].from[0].ipBlock.cidr",
                "Required value",
            ),
            (
                peer(json!({"ipBlock": {"cidr": "10.0.0.1/8"}})),
                "spec.ingress[0].from[0].ipBlock.cidr",
                "Invalid value: \"10.0.0.1/8\": must not have bits set beyond the prefix length",
            ),
            (
                peer(json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}})),
                "spec.ingress[0].from[0].ipBlock.except[0]",
                "Invalid value: \"11.0.0.0/16\": must be a strict subset of `cidr`",
            ),
            (
                peer(json!({"podSelector": {"matchExpressions": [{"key": "a", "operator": "X"}]}})),
                "spec.ingress[0].from[0].podSelector.matchExpressions[0].operator",
                "Invalid value: \"X\": not a valid selector operator",
            ),
            (
                port(json!({"protocol": "X"})),
                "spec.egress[0].ports[0].protocol",
                "Unsupported value: \"X\": supported values: \"TCP\", \"UDP\", \"SCTP\"",
            ),
            (
                port(json!({"port": 0})),
                "spec.egress[0].ports[0].port",
                "Invalid value: 0: must be between 1 and 65535, inclusive",
            ),
            (
                port(json!({"port": 10, "endPort": 5})),
                "spec.egress[0].ports[0].endPort",
                "Invalid value: 10: must be greater than or equal to `port`",
            ),
            (
                port(json!({"port": "http", "endPort": 5})),
                "spec.egress[0].ports[0].endPort",
                "Invalid value: 5: may not be specified when `port` is non-numeric",
            ),
            (
                port(json!({"endPort": 5})),
                "spec.egress[0].ports[0].endPort",
                "Invalid value: 5: may not be specified when `port` is not specified",
            ),
            (
                json!({"spec": {"policyTypes": ["X"]}}),
                "spec.policyTypes[0]",
                "Unsupported value: \"X\": supported values: \"Ingress\", \"Egress\"",
            ),
            (
                json!({"spec": {"policyTypes": ["Ingress", "Egress", "Ingress"]}}),
                "spec.policyTypes",
                "Invalid value: [\"Ingress\",\"Egress\",\"Ingress\"]: may not specify more than two policyTypes",
            ),
        ]);
        testing::valid::<NetworkPolicy>(&[
            json!({}),
            peer(json!({"podSelector": {}, "namespaceSelector": {}})),
            peer(json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}})),
            port(json!({"port": 10, "endPort": 10})),
        ]);
    }

    #[test]
    fn unusual_addresses_are_warned_of() {
        let policy: NetworkPolicy = testing::defaulted(peer(json!({"ipBlock": {"cidr": "FD00::/8"}})));
        assert_eq!(
            policy.warnings(None),
            [
                "spec.ingress[0].from[0].ipBlock.cidr: IPv6 CIDR value \"FD00::/8\" should be in RFC 5952 canonical format (\"fd00::/8\")"
            ]
        );
        let policy = json!({"metadata": {"name": "a"}, "spec": {"podSelector": {"matchLabels": {"a": "b"}}}});
        assert_eq!(testing::cells::<NetworkPolicy>(policy), ["a", "a=b", "<unknown>"]);
    }
}
