//! Hints by topology: with `service.kubernetes.io/topology-mode: Auto` each zone gets as many of a Service's endpoints as
//! it has of the cluster's CPUs. As upstream's topology-aware routing.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use coracle_client::Object;
use coracle_client::quantity::Quantity;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointHints, ForZone};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Wire;
use serde::Deserialize;

use super::ZONE;
use super::slice_plan::{Wanted, identity};

/// What both annotations begin with.
pub const ANNOTATIONS: &str = "service.kubernetes.io/topology-";
const MODE: &str = "service.kubernetes.io/topology-mode";
/// What it was called before; it wins, as upstream.
const MODE_BEFORE: &str = "service.kubernetes.io/topology-aware-hints";
/// How much more than its share the endpoints of a zone may have to bear.
const OVERLOAD: f64 = 0.2;
/// Nodes with one of these do not count.
const EXCLUDED: [&str; 2] = ["node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"];

pub const ENABLED: &str = "Topology Aware Hints has been enabled";
pub const DISABLED: &str = "Topology Aware Hints has been disabled";
const NO_NODE_INFO: &str =
    "Insufficient Node information: allocatable CPU or zone not specified on one or more nodes";
const NO_ZONE: &str = "One or more endpoints do not have a zone specified";

pub fn asked_for(service: &Service) -> bool {
    let annotations = service.metadata.annotations.as_ref();
    let mode = annotations.and_then(|all| all.get(MODE_BEFORE).or_else(|| all.get(MODE)));
    mode.is_some_and(|mode| mode == "Auto" || mode == "auto")
}

/// What one ready node adds to its zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Capacity {
    /// It is not ready, or does not count.
    Nothing,
    /// It does not say its zone or its CPUs.
    Unknown,
    /// Thousandths of a CPU.
    Of { zone: String, cpu: i64 },
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct View {
    status: Status,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    allocatable: BTreeMap<String, Wire>,
    conditions: Vec<Condition>,
}

#[derive(Deserialize)]
struct Condition {
    r#type: String,
    status: String,
}

impl Capacity {
    pub fn of(node: &Object) -> Self {
        if EXCLUDED.iter().any(|label| node.head.label(label).is_some()) {
            return Self::Nothing;
        }
        let status = node.decode::<View>().unwrap_or_default().status;
        if !status.conditions.iter().any(|c| c.r#type == "Ready" && c.status == "True") {
            return Self::Nothing;
        }
        let cpu = status.allocatable.get("cpu").and_then(|cpu| Quantity::of(cpu).ok());
        let cpu = cpu.map_or(0, Quantity::milli_value);
        match node.head.label(ZONE).filter(|zone| !zone.is_empty()) {
            Some(zone) if cpu > 0 => Self::Of { zone: zone.to_owned(), cpu },
            _ => Self::Unknown,
        }
    }
}

/// The CPUs of the zones, kept as nodes change. Bounded by the nodes.
#[derive(Default)]
pub struct Capacities {
    nodes: HashMap<Arc<str>, Capacity>,
    zones: BTreeMap<String, i64>,
    unknown: usize,
}

impl Capacities {
    /// True where that changed something. `now`: none for a node that is gone.
    pub fn note(&mut self, node: &Arc<str>, now: Option<Capacity>) -> bool {
        if self.nodes.get(node) == now.as_ref() {
            return false;
        }
        match self.nodes.remove(node) {
            Some(Capacity::Unknown) => self.unknown = self.unknown.saturating_sub(1),
            Some(Capacity::Of { zone, cpu }) => {
                if let Some(sum) = self.zones.get_mut(&zone) {
                    *sum -= cpu;
                    if *sum <= 0 {
                        self.zones.remove(&zone);
                    }
                }
            }
            Some(Capacity::Nothing) | None => {}
        }
        match &now {
            Some(Capacity::Unknown) => self.unknown += 1,
            Some(Capacity::Of { zone, cpu }) => *self.zones.entry(zone.clone()).or_default() += cpu,
            Some(Capacity::Nothing) | None => {}
        }
        if let Some(now) = now {
            self.nodes.insert(node.clone(), now);
        }
        true
    }

    /// Each zone's share of all CPUs; none where too little is known.
    #[allow(clippy::cast_precision_loss)]
    pub fn ratios(&self) -> Option<BTreeMap<String, f64>> {
        if self.unknown > 0 || self.zones.len() < 2 {
            return None;
        }
        let whole = self.zones.values().sum::<i64>() as f64;
        Some(self.zones.iter().map(|(zone, cpu)| (zone.clone(), *cpu as f64 / whole)).collect())
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Share {
    least: usize,
    most: usize,
    desired: f64,
}

fn shares(ratios: &BTreeMap<String, f64>, endpoints: usize) -> Result<BTreeMap<&str, Share>, String> {
    let zones = ratios.len();
    if zones > endpoints {
        return Err(format!("Insufficient number of endpoints ({endpoints} endpoints, {zones} zones)"));
    }
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let mut shares: BTreeMap<&str, Share> = ratios
        .iter()
        .map(|(zone, ratio)| {
            let desired = ratio * endpoints as f64;
            let least = (desired / (1.0 + OVERLOAD)).ceil();
            (zone.as_str(), Share { least: least as usize, most: 0, desired: desired.max(least) })
        })
        .collect();
    let least: usize = shares.values().map(|share| share.least).sum();
    if least > endpoints {
        return Err(format!(
            "Unable to allocate minimum required endpoints to each zone without exceeding overload threshold ({endpoints} endpoints, {zones} zones)"
        ));
    }
    shares.values_mut().for_each(|share| share.most = share.least + endpoints - least);
    Ok(shares)
}

/// Which zone has how many more than it should, and which less: one endpoint after the other goes from where most are
/// to where most are missing.
fn moves(shares: &BTreeMap<&str, Share>, have: &BTreeMap<String, usize>) -> Vec<(String, String)> {
    #[allow(clippy::cast_precision_loss)]
    let mut off: BTreeMap<&str, f64> = shares
        .iter()
        .map(|(zone, share)| (*zone, have.get(*zone).copied().unwrap_or(0) as f64 - share.desired))
        .collect();
    let mut moves = Vec::new();
    loop {
        // Of equal ones the first, so that the same question has the same answer.
        let furthest = |sign: f64| {
            off.iter().fold(
                ("", 0.0),
                |most, (zone, by)| if by * sign > most.1 { (*zone, by * sign) } else { most },
            )
        };
        let ((from, surplus), (to, lack)) = (furthest(1.0), furthest(-1.0));
        if (surplus < 1.0 && lack < 1.0) || surplus < 0.5 || lack < 0.5 {
            return moves;
        }
        moves.push((from.to_owned(), to.to_owned()));
        off.entry(from).and_modify(|by| *by -= 1.0);
        off.entry(to).and_modify(|by| *by += 1.0);
    }
}

fn ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) == Some(true)
}

fn hinted(endpoint: &Endpoint) -> Option<&str> {
    let zones = endpoint.hints.as_ref()?.for_zones.as_deref()?;
    zones.first().map(|zone| zone.name.as_str())
}

/// Gives every ready endpoint the zone that should use it. What `before` (the endpoints as they are) have stays as long as
/// no zone gets too many or too few by it. Err: why nobody gets one.
pub fn hint(
    wanted: &mut Wanted,
    before: &[Endpoint],
    ratios: Option<&BTreeMap<String, f64>>,
) -> Result<(), String> {
    let ratios = ratios.ok_or(NO_NODE_INFO)?;
    let mut all: Vec<&mut Endpoint> =
        wanted.values_mut().flatten().filter(|endpoint| ready(endpoint)).collect();
    let shares = shares(ratios, all.len())?;
    if all.iter().any(|endpoint| endpoint.zone.as_deref().unwrap_or_default().is_empty()) {
        return Err(NO_ZONE.into());
    }
    let had: HashMap<String, &str> =
        before.iter().filter_map(|endpoint| Some((identity(endpoint), hinted(endpoint)?))).collect();
    let keep = |endpoint: &Endpoint| had.get(&identity(endpoint)).map(|zone| (*zone).to_owned());
    let zones = match allot(&all, &shares, keep) {
        zones if fair(&zones, &shares) => zones,
        _ => allot(&all, &shares, |_| None),
    };
    for (endpoint, name) in all.iter_mut().zip(zones) {
        endpoint.hints =
            Some(EndpointHints { for_zones: Some(vec![ForZone { name }]), ..EndpointHints::default() });
    }
    Ok(())
}

fn count(zones: &[String]) -> BTreeMap<String, usize> {
    zones.iter().fold(BTreeMap::new(), |mut counts, zone| {
        *counts.entry(zone.clone()).or_default() += 1;
        counts
    })
}

fn fair(zones: &[String], shares: &BTreeMap<&str, Share>) -> bool {
    let counts = count(zones);
    shares.iter().all(|(zone, share)| counts.get(*zone).copied().unwrap_or(0) >= share.least)
}

/// The zone of each endpoint.
fn allot(
    all: &[&mut Endpoint],
    shares: &BTreeMap<&str, Share>,
    keep: impl Fn(&Endpoint) -> Option<String>,
) -> Vec<String> {
    let mut kept: BTreeMap<String, usize> = BTreeMap::new();
    // True: it had that zone before.
    let mut zones: Vec<(String, bool)> = Vec::with_capacity(all.len());
    for endpoint in all {
        let own = || (endpoint.zone.clone().unwrap_or_default(), false);
        let before = keep(endpoint).filter(|zone| {
            let so_far = kept.get(zone).copied().unwrap_or(0);
            shares.get(zone.as_str()).is_some_and(|share| so_far < share.most)
        });
        if let Some(zone) = &before {
            *kept.entry(zone.clone()).or_default() += 1;
        }
        zones.push(before.map_or_else(own, |zone| (zone, true)));
    }
    let plain: Vec<String> = zones.iter().map(|(zone, _)| zone.clone()).collect();
    for (from, to) in moves(shares, &count(&plain)) {
        if let Some((zone, _)) = zones.iter_mut().find(|(zone, kept)| !*kept && *zone == from) {
            *zone = to;
        }
    }
    zones.into_iter().map(|(zone, _)| zone).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::from;

    /// `count` ready endpoints of each zone.
    fn endpoints(zones: &[(&str, usize)]) -> Wanted {
        let each = zones.iter().flat_map(|(zone, count)| (0..*count).map(move |n| (*zone, n)));
        let all = each.enumerate().map(|(index, (zone, n))| {
            from(json!({"addresses": [format!("10.0.{index}.{n}")], "zone": zone,
                "conditions": {"ready": true}, "targetRef": {"uid": format!("{zone}{n}")}}))
        });
        [(Vec::new(), all.collect())].into()
    }

    fn hints(wanted: &Wanted) -> BTreeMap<String, usize> {
        count(&wanted.values().flatten().filter_map(hinted).map(str::to_owned).collect::<Vec<_>>())
    }

    fn ratios(zones: &[(&str, f64)]) -> BTreeMap<String, f64> {
        zones.iter().map(|(zone, ratio)| ((*zone).to_owned(), *ratio)).collect()
    }

    #[test]
    fn zones_get_endpoints_by_their_cpus() {
        let third = 1.0 / 3.0;
        let even = [("a", third), ("b", third), ("c", third)];
        for (what, zones, have, want) in [
            (
                "as they are",
                even.to_vec(),
                vec![("a", 2), ("b", 2), ("c", 2)],
                Ok(vec![("a", 2), ("b", 2), ("c", 2)]),
            ),
            ("all in one", even.to_vec(), vec![("a", 6)], Ok(vec![("a", 2), ("b", 2), ("c", 2)])),
            (
                "one too many is borne",
                even.to_vec(),
                vec![("a", 4), ("b", 3), ("c", 3)],
                Ok(vec![("a", 4), ("b", 3), ("c", 3)]),
            ),
            (
                "by weight",
                vec![("a", 0.75), ("b", 0.25)],
                vec![("a", 4), ("b", 4)],
                Ok(vec![("a", 6), ("b", 2)]),
            ),
            (
                "too few",
                even.to_vec(),
                vec![("a", 2)],
                Err("Insufficient number of endpoints (2 endpoints, 3 zones)"),
            ),
            (
                "too uneven",
                even.to_vec(),
                vec![("a", 4)],
                Err(
                    "Unable to allocate minimum required endpoints to each zone without exceeding overload threshold (4 endpoints, 3 zones)",
                ),
            ),
            ("no zone", even.to_vec(), vec![("", 1), ("b", 3), ("c", 2)], Err(NO_ZONE)),
        ] {
            let mut wanted = endpoints(&have);
            let done = hint(&mut wanted, &[], Some(&ratios(&zones)));
            match want {
                Ok(want) => {
                    assert_eq!(done, Ok(()), "{what}");
                    let want: BTreeMap<String, usize> =
                        want.into_iter().map(|(z, n)| (z.to_owned(), n)).collect();
                    assert_eq!(hints(&wanted), want, "{what}");
                }
                Err(why) => {
                    assert_eq!(done, Err(why.to_owned()), "{what}");
                    assert!(hints(&wanted).is_empty(), "{what}");
                }
            }
        }
        assert_eq!(hint(&mut endpoints(&[("a", 3)]), &[], None), Err(NO_NODE_INFO.to_owned()));
    }

    #[test]
    fn hints_stay_as_long_as_they_are_fair() {
        let even = ratios(&[("a", 0.5), ("b", 0.5)]);
        let mut first = endpoints(&[("a", 6)]);
        hint(&mut first, &[], Some(&even)).unwrap();
        let before: Vec<Endpoint> = first.values().flatten().cloned().collect();
        // One more comes: the others keep what they have.
        let mut more = endpoints(&[("a", 7)]);
        hint(&mut more, &before, Some(&even)).unwrap();
        let now: Vec<Endpoint> = more.values().flatten().cloned().collect();
        assert_eq!(now[..6], before[..]);
        // A zone that must have more gets it, whoever had it before.
        let skewed = ratios(&[("a", 0.9), ("b", 0.1)]);
        let mut again = endpoints(&[("a", 6)]);
        hint(&mut again, &before, Some(&skewed)).unwrap();
        assert_eq!(hints(&again)["a"], 5);
    }

    #[test]
    fn capacities_follow_the_nodes() {
        let node = |name: &str, zone: &str, cpu: &str, ready: &str, role: &str| {
            let json = json!({"metadata": {"name": name, "labels": {ZONE: zone, role: ""}},
                "status": {"allocatable": {"cpu": cpu}, "conditions": [{"type": "Ready", "status": ready}]}});
            Object::parse(json.to_string().into(), &[]).unwrap()
        };
        let of = |zone: &str, cpu| Capacity::Of { zone: zone.into(), cpu };
        for (node, want) in [
            (node("n", "a", "1500m", "True", "x"), of("a", 1500)),
            (node("n", "a", "4", "False", "x"), Capacity::Nothing),
            (node("n", "a", "4", "True", EXCLUDED[0]), Capacity::Nothing),
            (node("n", "", "4", "True", "x"), Capacity::Unknown),
            (node("n", "a", "0", "True", "x"), Capacity::Unknown),
        ] {
            assert_eq!(Capacity::of(&node), want);
        }
        let mut all = Capacities::default();
        let mut note = |name: &str, capacity| (all.note(&name.into(), capacity), all.ratios());
        assert_eq!(note("n1", Some(of("a", 3000))), (true, None), "one zone only");
        assert_eq!(note("n2", Some(of("b", 1000))).1.unwrap(), ratios(&[("a", 0.75), ("b", 0.25)]));
        assert!(!note("n2", Some(of("b", 1000))).0);
        assert_eq!(note("n3", Some(Capacity::Unknown)).1, None);
        assert_eq!(note("n3", Some(Capacity::Nothing)).1.unwrap()["a"], 0.75);
        assert_eq!(note("n2", Some(of("b", 3000))).1.unwrap()["a"], 0.5);
        assert_eq!(note("n2", None), (true, None));
    }
}
