//! What turns the rules that are in the kernel into those that are wanted, as one transaction. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::render::{self, Entrance, Group};
use crate::ServiceRules;

/// The rules in the kernel, and which Service has which entrance.
#[derive(Clone, Default)]
pub struct State {
    services: BTreeMap<Arc<str>, ServiceRules>,
    claims: HashMap<Entrance, Vec<Claim>>,
}

/// Two Services may want one entrance, such as an external address; the first one has it, the others wait.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Claim {
    service: Arc<str>,
    /// The chain it leads to; None: refused.
    target: Option<String>,
}

impl State {
    pub fn rules(&self, service: &str) -> Option<&ServiceRules> {
        self.services.get(service)
    }

    /// The script that makes all of it, for a table with nothing in it.
    pub fn anew(&mut self) -> String {
        let all: Vec<_> = std::mem::take(self).services.into_iter().collect();
        self.change(&all)
    }

    #[cfg(test)]
    pub fn contested(&self) -> bool {
        self.claims.values().any(|claims| claims.len() > 1)
    }

    /// Takes over the new rules of some Services; the script that does the same in the kernel.
    ///
    /// The order matters: first all elements that go, of every Service, since what one gives up another may take in the
    /// same transaction; then chains, which must exist before an element leads to them; then elements; and last the
    /// chains to which nothing leads any more.
    pub fn change(&mut self, changed: &[(Arc<str>, ServiceRules)]) -> String {
        let none = ServiceRules::default();
        let mut touched: BTreeSet<Entrance> = BTreeSet::new();
        let (mut chains, mut obsolete) = (String::new(), String::new());
        let mut new_claims: Vec<(Entrance, Claim)> = Vec::new();
        for (name, rules) in changed {
            let old = self.services.get(name).unwrap_or(&none);
            if old == rules {
                continue;
            }
            let (old, new) = (render::groups(name, old), render::groups(name, rules));
            change_chains(&mut chains, &mut obsolete, &old, &new);
            touched.extend(old.iter().chain(&new).flat_map(|group| group.entrances.iter().cloned()));
            for group in &new {
                let claim = Claim { service: name.clone(), target: group.target().map(str::to_owned) };
                new_claims.extend(group.entrances.iter().map(|entrance| (entrance.clone(), claim.clone())));
            }
        }
        let before: Vec<(Entrance, Option<Claim>)> =
            touched.into_iter().map(|entrance| (entrance.clone(), self.holder(&entrance))).collect();
        self.take_over(changed, &before, new_claims);

        let (mut deletions, mut additions) = (String::new(), String::new());
        for (entrance, old) in before {
            let new = self.holder(&entrance);
            if old.as_ref().map(|c| &c.target) == new.as_ref().map(|c| &c.target) {
                continue;
            }
            if let Some(old) = old {
                entrance.delete(&mut deletions, old.target.as_deref());
            }
            if let Some(new) = new {
                entrance.add(&mut additions, new.target.as_deref());
            }
        }
        [deletions, chains, additions, obsolete].concat()
    }

    fn holder(&self, entrance: &Entrance) -> Option<Claim> {
        self.claims.get(entrance)?.first().cloned()
    }

    /// A claim that stays keeps its place in the queue.
    fn take_over(
        &mut self,
        changed: &[(Arc<str>, ServiceRules)],
        touched: &[(Entrance, Option<Claim>)],
        new_claims: Vec<(Entrance, Claim)>,
    ) {
        let wanted: BTreeSet<(&Entrance, &str)> = new_claims.iter().map(|(e, c)| (e, &*c.service)).collect();
        let names: BTreeSet<&str> =
            changed.iter().filter(|(n, r)| self.services.get(n) != Some(r)).map(|(n, _)| &**n).collect();
        for (entrance, _) in touched {
            if let Some(claims) = self.claims.get_mut(entrance) {
                claims.retain(|c| !names.contains(&*c.service) || wanted.contains(&(entrance, &*c.service)));
            }
        }
        for (entrance, claim) in new_claims {
            let claims = self.claims.entry(entrance).or_default();
            match claims.iter_mut().find(|c| c.service == claim.service) {
                Some(known) => *known = claim,
                None => claims.push(claim),
            }
        }
        for (entrance, _) in touched {
            if self.claims.get(entrance).is_some_and(Vec::is_empty) {
                self.claims.remove(entrance);
            }
        }
        for (name, rules) in changed {
            if rules.ports.is_empty() {
                self.services.remove(name);
            } else {
                self.services.insert(name.clone(), rules.clone());
            }
        }
    }
}

fn change_chains(chains: &mut String, obsolete: &mut String, old: &[Group<'_>], new: &[Group<'_>]) {
    let with_chain = |groups: &[Group<'_>], chain: &str| {
        groups.iter().position(|g| g.chain == chain && g.target().is_some())
    };
    for group in new.iter().filter(|g| g.target().is_some()) {
        let known = with_chain(old, &group.chain).map(|at| &old[at]);
        let same = known.is_some_and(|k| k.is_same_chain(group));
        if !same {
            render::set_chain(chains, known, group);
        }
    }
    // A chain goes after those that lead to it.
    for group in old.iter().rev().filter(|g| g.target().is_some()) {
        if with_chain(new, &group.chain).is_none() {
            render::delete_chain(obsolete, group);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::dns::Family;
    use crate::table::{PortRules, Protocol};

    fn port(endpoints: &[&str]) -> PortRules {
        let endpoints: Vec<_> = endpoints.iter().map(|e| e.parse().unwrap()).collect();
        PortRules {
            family: Family::V4,
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: 80,
            addresses: vec!["10.96.0.10".parse().unwrap()],
            external_addresses: Vec::new(),
            balanced_addresses: Vec::new(),
            sources: Vec::new(),
            node_port: None,
            affinity: None,
            node_port_endpoints: endpoints.clone(),
            inside_endpoints: Vec::new(),
            endpoints,
        }
    }

    fn service(name: &str, ports: &[PortRules]) -> (Arc<str>, ServiceRules) {
        (name.into(), ServiceRules { ports: ports.to_vec(), ..ServiceRules::default() })
    }

    fn web(state: &mut State, ports: &[PortRules]) -> String {
        state.change(&[service("ns/web", ports)])
    }

    fn at(script: &str, what: &str) -> usize {
        script.find(what).unwrap_or_else(|| panic!("{what} is not in:\n{script}"))
    }

    #[test]
    fn endpoints_are_chosen_at_random_and_none_is_refused() {
        let state = &mut State::default();
        let some = web(state, &[port(&["10.244.0.2:8080", "10.244.0.3:8080"])]);
        at(&some, "numgen random mod 2 map { 0 : 10.244.0.2 . 8080, 1 : 10.244.0.3 . 8080 }");
        at(&some, "add element ip coracle services { 10.96.0.10 . tcp . 80 : goto service/ns/web/tcp/80 }");
        let none = web(state, &[port(&[])]);
        at(&none, "delete element ip coracle services { 10.96.0.10 . tcp . 80 }");
        at(&none, "add element ip coracle refused { 10.96.0.10 . tcp . 80 }");
        at(&none, "delete chain ip coracle service/ns/web/tcp/80");
        assert_eq!(web(state, &[port(&[])]), "", "what is the same is not touched");
        assert_eq!(web(state, &[]), "delete element ip coracle refused { 10.96.0.10 . tcp . 80 }\n");
        assert!(state.claims.is_empty() && state.services.is_empty());
    }

    #[test]
    fn new_endpoints_change_the_chain_and_no_element() {
        let state = &mut State::default();
        web(state, &[port(&["10.244.0.2:8080"])]);
        let script = web(state, &[port(&["10.244.0.3:8080"])]);
        assert!(!script.contains("element") && !script.contains("delete"), "{script}");
        assert!(at(&script, "flush chain") < at(&script, "add rule"), "{script}");
    }

    #[test]
    fn what_was_added_is_removed() {
        let mut full = port(&["10.244.0.2:8080"]);
        full.node_port = Some(30_080);
        full.affinity = Some(Duration::from_secs(60));
        let state = &mut State::default();
        let added = web(state, &[full]);
        let removed = web(state, &[]);
        for what in ["chain", "set", "element"] {
            let count = |text: &str, verb: &str| text.matches(&format!("{verb} {what} ip coracle")).count();
            assert_eq!(count(&added, "add"), count(&removed, "delete"), "{what}\n{added}\n{removed}");
        }
        at(&added, "nodeports { tcp . 30080 : goto nodeport/ns/web/tcp/80 }");
    }

    #[test]
    fn a_node_port_moves_between_services_in_one_transaction() {
        let with_port = |node_port, endpoint| PortRules { node_port, ..port(&[endpoint]) };
        // Whichever comes first in the batch: the one that gives it up, or the one that takes it.
        for batch in [["ns/a", "ns/b"], ["ns/b", "ns/a"]] {
            let state = &mut State::default();
            state.change(&[
                service("ns/a", &[with_port(Some(30_080), "10.244.0.2:8080")]),
                service(
                    "ns/b",
                    &[PortRules {
                        addresses: vec!["10.96.0.11".parse().unwrap()],
                        ..with_port(None, "10.244.0.3:8080")
                    }],
                ),
            ]);
            let changed = batch.map(|name| match name {
                "ns/a" => service(name, &[with_port(None, "10.244.0.2:8080")]),
                _ => service(
                    name,
                    &[PortRules {
                        addresses: vec!["10.96.0.11".parse().unwrap()],
                        ..with_port(Some(30_080), "10.244.0.3:8080")
                    }],
                ),
            });
            let script = state.change(&changed);
            let added = "add element ip coracle nodeports { tcp . 30080 : goto nodeport/ns/b/tcp/80 }";
            let order = [
                at(&script, "delete element ip coracle nodeports { tcp . 30080 }"),
                at(&script, "add chain ip coracle nodeport/ns/b/tcp/80"),
                at(&script, added),
                at(&script, "delete chain ip coracle nodeport/ns/a/tcp/80"),
            ];
            assert!(order.is_sorted(), "{script}");
            assert_eq!(script.matches("30080").count(), 2, "{script}");
        }
    }

    #[test]
    fn of_two_that_want_an_address_the_first_has_it_until_it_goes() {
        let state = &mut State::default();
        state.change(&[service("ns/b", &[port(&["10.244.0.2:8080"])])]);
        let second = state.change(&[service("ns/a", &[port(&["10.244.0.3:8080"])])]);
        assert!(!second.contains("element"), "{second}");
        // Changes of either move no entrance.
        assert!(!state.change(&[service("ns/b", &[port(&["10.244.0.9:8080"])])]).contains("element"));
        let gone = state.change(&[service("ns/b", &[])]);
        at(&gone, "delete element ip coracle services { 10.96.0.10 . tcp . 80 }");
        at(&gone, "add element ip coracle services { 10.96.0.10 . tcp . 80 : goto service/ns/a/tcp/80 }");
    }

    #[test]
    fn a_client_keeps_its_endpoint_while_others_come_and_go() {
        let sticky = |endpoints: &[&str], seconds| PortRules {
            affinity: Some(Duration::from_secs(seconds)),
            ..port(endpoints)
        };
        let state = &mut State::default();
        web(state, &[sticky(&["10.244.0.2:80", "10.244.0.3:80"], 60)]);
        let script = web(state, &[sticky(&["10.244.0.3:80", "10.244.0.4:80"], 60)]);
        at(&script, "delete set ip coracle service/ns/web/tcp/80/10.244.0.2/80");
        at(&script, "add set ip coracle service/ns/web/tcp/80/10.244.0.4/80");
        for verb in ["add set", "delete set", "delete chain", "flush chain"] {
            assert!(
                !script.contains(&format!("{verb} ip coracle service/ns/web/tcp/80/10.244.0.3/80")),
                "{script}"
            );
        }
        // Another time takes other sets.
        let script = web(state, &[sticky(&["10.244.0.3:80"], 30)]);
        assert!(
            at(&script, "delete set ip coracle service/ns/web/tcp/80/10.244.0.3/80") < at(&script, "add set")
        );
        let script = web(state, &[port(&["10.244.0.3:80"])]);
        assert_eq!(script.matches("delete set").count(), 1, "{script}");
        at(&script, "numgen random mod 1");
    }

    #[test]
    fn a_port_that_changes_its_number_gives_up_the_old_one() {
        let state = &mut State::default();
        web(state, &[port(&["10.244.0.2:80"])]);
        let script = web(state, &[PortRules { port: 81, ..port(&["10.244.0.2:80"]) }]);
        at(&script, "delete element ip coracle services { 10.96.0.10 . tcp . 80 }");
        at(&script, "add element ip coracle services { 10.96.0.10 . tcp . 81 : goto service/ns/web/tcp/81 }");
        at(&script, "delete chain ip coracle service/ns/web/tcp/80");
        // TCP to UDP on the same number.
        let script =
            web(state, &[PortRules { port: 81, protocol: Protocol::Udp, ..port(&["10.244.0.2:80"]) }]);
        at(&script, "delete element ip coracle services { 10.96.0.10 . tcp . 81 }");
        at(&script, "add element ip coracle services { 10.96.0.10 . udp . 81 : goto service/ns/web/udp/81 }");
    }
}
