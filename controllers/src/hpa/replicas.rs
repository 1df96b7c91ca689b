//! How many replicas a metric asks for.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use coracle_client::amounts::{self, Side};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use crate::hpa::metrics::PodMetrics;

/// What of a pod's first time says nothing.
#[derive(Clone, Copy, Debug)]
pub struct WarmUp {
    /// A pod that was started this recently may use more CPU than it will.
    pub cpu: Duration,
    /// A pod that became unready within this time of its start never was ready.
    pub readiness: Duration,
}

/// How far a ratio may be off before anything is done.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    pub up: f64,
    pub down: f64,
}

impl Tolerance {
    fn covers(self, ratio: f64) -> bool {
        (1.0 - self.down..=1.0 + self.up).contains(&ratio)
    }
}

/// What a metric comes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Proposal {
    pub replicas: i32,
    /// Percent of what was asked for, where the target is such.
    pub utilization: Option<i32>,
    /// In thousandths.
    pub average: Option<i64>,
    pub value: Option<i64>,
}

/// The pods that the target selects, by what their metrics are worth.
#[derive(Debug, Default)]
struct Groups {
    ready: usize,
    unready: BTreeSet<String>,
    missing: BTreeSet<String>,
    ignored: BTreeSet<String>,
}

fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

fn group(pods: &[Pod], metrics: &PodMetrics, resource: &str, asked: &Asked) -> Groups {
    let mut groups = Groups::default();
    for pod in pods {
        let name = name(pod).to_owned();
        let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default();
        let Some(sample) = metrics.get(&name) else {
            let going = pod.metadata.deletion_timestamp.is_some() || phase == "Failed";
            let group = match phase {
                _ if going => &mut groups.ignored,
                "Pending" | "" => &mut groups.unready,
                _ => &mut groups.missing,
            };
            group.insert(name);
            continue;
        };
        if pod.metadata.deletion_timestamp.is_some() || phase == "Failed" {
            groups.ignored.insert(name);
        } else if phase == "Pending"
            || (resource == "cpu" && warming_up(pod, sample.at, sample.window, asked))
        {
            groups.unready.insert(name);
        } else {
            groups.ready += 1;
        }
    }
    groups
}

/// Whether the pod's use of CPU says nothing yet.
fn warming_up(pod: &Pod, sampled: Timestamp, window: Duration, asked: &Asked) -> bool {
    let status = pod.status.as_ref();
    let condition = status.and_then(|s| s.conditions.iter().flatten().find(|c| c.type_ == "Ready"));
    let (Some(condition), Some(start)) = (condition, status.and_then(|s| s.start_time.as_ref())) else {
        return true;
    };
    let after = |time: Timestamp, wait: Duration| time.checked_add(wait).unwrap_or(Timestamp::MAX);
    let changed = condition.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    let unready = condition.status == "False";
    if after(start.0, asked.warm_up.cpu) > asked.now {
        unready || sampled < after(changed, window)
    } else {
        unready && after(start.0, asked.warm_up.readiness) > changed
    }
}

fn ready_pods(pods: &[Pod]) -> usize {
    let ready = |pod: &&Pod| {
        let status = pod.status.as_ref();
        let conditions = status.iter().flat_map(|s| s.conditions.iter().flatten());
        status.is_some_and(|s| s.phase.as_deref() == Some("Running"))
            && conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
    };
    pods.iter().filter(ready).count()
}

fn ceil(value: f64) -> i32 {
    // Saturates, as a cast from a float does.
    #[allow(clippy::cast_possible_truncation)]
    let whole = value.ceil() as i32;
    whole
}

#[allow(clippy::cast_precision_loss)]
fn float(value: impl TryInto<i64>) -> f64 {
    value.try_into().unwrap_or(i64::MAX) as f64
}

/// What the target's per-pod figure is compared with.
enum Target<'a> {
    /// Percent of what each pod asks for.
    Utilization(i32, &'a BTreeMap<String, i64>),
    Average(i64),
}

impl Target<'_> {
    fn ratio(&self, metrics: &BTreeMap<String, i64>) -> Result<(f64, Proposal), String> {
        let total: i64 = metrics.values().fold(0, |sum, value| sum.saturating_add(*value));
        let count = i64::try_from(metrics.len()).unwrap_or(i64::MAX).max(1);
        let average = Some(total / count);
        match self {
            Self::Average(target) => {
                let ratio = float(total / count) / float(*target);
                Ok((ratio, Proposal { average, ..Proposal::default() }))
            }
            Self::Utilization(target, requests) => {
                let known: i64 = metrics.keys().filter_map(|name| requests.get(name)).sum();
                if known == 0 {
                    return Err("no metrics returned matched known pods".into());
                }
                let used: i64 =
                    metrics.iter().filter(|(name, _)| requests.contains_key(*name)).map(|(_, v)| *v).sum();
                let utilization = i32::try_from(used.saturating_mul(100) / known).unwrap_or(i32::MAX);
                let proposal = Proposal { utilization: Some(utilization), average, ..Proposal::default() };
                Ok((float(utilization) / float(*target), proposal))
            }
        }
    }

    /// What a pod without a figure counts as using when there may be too many pods.
    fn full(&self, pod: &str) -> i64 {
        match self {
            Self::Average(target) => *target,
            Self::Utilization(target, requests) => {
                requests.get(pod).copied().unwrap_or(0).saturating_mul(i64::from(*target).max(100)) / 100
            }
        }
    }
}

/// By what pods use of a resource, in percent of what they ask for.
pub fn by_utilization(
    pods: &[Pod],
    metrics: &PodMetrics,
    resource: &str,
    container: Option<&str>,
    target: i32,
    asked: &Asked,
) -> Result<Proposal, String> {
    let requests = pods
        .iter()
        .map(|pod| Ok((name(pod).to_owned(), request(pod, resource, container)?)))
        .collect::<Result<BTreeMap<_, _>, String>>();
    per_pod(pods, metrics, resource, asked, |_| {
        Ok(Target::Utilization(target, requests.as_ref().map_err(Clone::clone)?))
    })
}

/// By the average over pods, in thousandths.
pub fn by_average(
    pods: &[Pod],
    metrics: &PodMetrics,
    resource: &str,
    target: i64,
    asked: &Asked,
) -> Result<Proposal, String> {
    per_pod(pods, metrics, resource, asked, |_| Ok(Target::Average(target)))
}

/// What is the same for every metric of a target.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    pub replicas: i32,
    pub tolerance: Tolerance,
    pub warm_up: WarmUp,
    pub now: Timestamp,
}

fn per_pod<'a>(
    pods: &[Pod],
    metrics: &PodMetrics,
    resource: &str,
    asked: &Asked,
    target: impl FnOnce(()) -> Result<Target<'a>, String>,
) -> Result<Proposal, String> {
    if pods.is_empty() {
        return Err("no pods returned by selector while calculating replica count".into());
    }
    let groups = group(pods, metrics, resource, asked);
    let mut used: BTreeMap<String, i64> = metrics.iter().map(|(name, s)| (name.clone(), s.milli)).collect();
    used.retain(|name, _| !groups.ignored.contains(name) && !groups.unready.contains(name));
    if used.is_empty() {
        return Err("did not receive metrics for targeted pods (pods might be unready)".into());
    }
    let target = target(())?;
    let (ratio, proposal) = target.ratio(&used)?;
    let stay = Proposal { replicas: asked.replicas, ..proposal };
    let with_unready = !groups.unready.is_empty() && ratio > 1.0;
    if !with_unready && groups.missing.is_empty() {
        if asked.tolerance.covers(ratio) {
            return Ok(stay);
        }
        return Ok(Proposal { replicas: ceil(ratio * float(groups.ready)), ..proposal });
    }
    // Nobody knows what these use: the answer must hold whatever it is.
    for pod in &groups.missing {
        if ratio < 1.0 {
            used.insert(pod.clone(), target.full(pod));
        } else if ratio > 1.0 {
            used.insert(pod.clone(), 0);
        }
    }
    if with_unready {
        used.extend(groups.unready.iter().map(|pod| (pod.clone(), 0)));
    }
    let (again, _) = target.ratio(&used)?;
    let turned = (ratio < 1.0 && again > 1.0) || (ratio > 1.0 && again < 1.0);
    if asked.tolerance.covers(again) || turned {
        return Ok(stay);
    }
    let replicas = ceil(again * float(used.len()));
    let backwards = (again < 1.0 && replicas > asked.replicas) || (again > 1.0 && replicas < asked.replicas);
    Ok(if backwards { stay } else { Proposal { replicas, ..proposal } })
}

/// By one figure of the whole, in thousandths.
pub fn by_value(pods: &[Pod], usage: i64, target: i64, asked: &Asked) -> Proposal {
    let ratio = float(usage) / float(target);
    let replicas = if asked.replicas == 0 {
        ceil(ratio)
    } else if asked.tolerance.covers(ratio) {
        asked.replicas
    } else {
        ceil(ratio * float(ready_pods(pods)))
    };
    Proposal { replicas, value: Some(usage), ..Proposal::default() }
}

/// By one figure shared among the replicas there are (`present`), in thousandths.
pub fn by_value_per_pod(present: i32, usage: i64, target: i64, asked: &Asked) -> Proposal {
    let ratio = float(usage) / (float(target) * float(present));
    let replicas = if asked.tolerance.covers(ratio) { present } else { ceil(float(usage) / float(target)) };
    let average = if present == 0 { 0.0 } else { float(usage) / float(present) };
    #[allow(clippy::cast_possible_truncation)]
    let average = average.ceil() as i64;
    Proposal { replicas, average: Some(average), ..Proposal::default() }
}

/// What the pod, or one container of it, asks for, in thousandths.
fn request(pod: &Pod, resource: &str, container: Option<&str>) -> Result<i64, String> {
    let spec = pod.spec.clone().unwrap_or_default();
    let whole = spec.resources.as_ref().and_then(|r| r.requests.as_ref());
    if let (None, Some(request)) = (container, amounts::of(whole).get(resource)) {
        return Ok(request.milli_value());
    }
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let mut sum = 0i64;
    for part in spec.containers.iter().chain(sidecars) {
        if container.is_some_and(|wanted| wanted != part.name) {
            continue;
        }
        let asked = amounts::of_containers(std::slice::from_ref(part), &[], Side::Requests);
        match asked.get(resource) {
            Some(amount) => sum = sum.saturating_add(amount.milli_value()),
            None => {
                let (container, pod) = (&part.name, name(pod));
                return Err(format!("missing request for {resource} in container {container} of Pod {pod}"));
            }
        }
    }
    Ok(sum)
}
