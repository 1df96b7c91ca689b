//! HorizontalPodAutoscaler: sets the scale of a target by what metrics say of its pods.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use coracle_client::controller::{Outcome, Reconciler};
use coracle_client::events::{EventRecorder, EventType};
use coracle_client::quantity::Quantity;
use coracle_client::selector::Selector;
use coracle_client::{ApiError, Client, Informer, Key, Object, Resource, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v1::{Scale, ScaleSpec};
use k8s_openapi::api::autoscaling::v2::{
    HPAScalingRules, HorizontalPodAutoscaler, HorizontalPodAutoscalerStatus, MetricStatus,
};
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;

use crate::context::Context;
use crate::scale;
use crate::served::Served;
use crate::steady::Now;

mod behavior;
mod conditions;
mod evaluate;
mod metrics;
mod replicas;

use behavior::{Bounds, Past};
use conditions::{ABLE, ACTIVE, LIMITED, set, time};
use evaluate::Target;
use metrics::{Metrics, MetricsApi};
use replicas::{Asked, Tolerance, WarmUp};

/// How autoscalers are looked at. The defaults are kube-controller-manager's.
#[derive(Clone, Debug, clap::Args)]
pub struct HpaOptions {
    /// How often autoscalers look at their metrics
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = crate::duration)]
    pub horizontal_pod_autoscaler_sync_period: Duration,
    /// How far what is used may be off its target before an autoscaler does something, 0.1 for a tenth
    #[arg(long, value_name = "RATIO", default_value_t = 0.1, value_parser = ratio)]
    pub horizontal_pod_autoscaler_tolerance: f64,
    /// How long an autoscaler remembers that more replicas were wanted, where its behavior does not say
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = crate::duration)]
    pub horizontal_pod_autoscaler_downscale_stabilization: Duration,
    /// How long after its start the use of CPU of a pod that is not ready says nothing
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = crate::duration)]
    pub horizontal_pod_autoscaler_cpu_initialization_period: Duration,
    /// A pod that became unready within this time of its start never was ready
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = crate::duration)]
    pub horizontal_pod_autoscaler_initial_readiness_delay: Duration,
}

impl Default for HpaOptions {
    fn default() -> Self {
        Self {
            horizontal_pod_autoscaler_sync_period: Duration::from_secs(15),
            horizontal_pod_autoscaler_tolerance: 0.1,
            horizontal_pod_autoscaler_downscale_stabilization: Duration::from_secs(300),
            horizontal_pod_autoscaler_cpu_initialization_period: Duration::from_secs(300),
            horizontal_pod_autoscaler_initial_readiness_delay: Duration::from_secs(30),
        }
    }
}

fn ratio(text: &str) -> Result<f64, String> {
    let given = text.parse::<f64>().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
    given.ok_or_else(|| "give a number from 0 to 1, such as 0.1".into())
}

pub async fn run(context: Context) {
    let metrics = Arc::new(MetricsApi { client: context.client.clone() });
    run_with(context, metrics).await;
}

async fn run_with(context: Context, metrics: Arc<dyn Metrics>) {
    let controller = Controller {
        client: context.client.clone(),
        autoscalers: context.of::<HorizontalPodAutoscaler>(),
        pods: context.of::<Pod>(),
        served: context.served(),
        events: context.recorder("horizontal-pod-autoscaler"),
        metrics,
        past: Mutex::default(),
        selectors: Mutex::default(),
        options: context.options.autoscaling.clone(),
    };
    let queue = WorkQueue::new();
    let changed = queue.clone();
    controller.autoscalers.on_change(move |change| {
        let generation = |o: &Option<Arc<coracle_client::Object>>| o.as_ref().map(|o| o.head.generation);
        // A change of the status is its own doing.
        if generation(&change.old) != generation(&change.new) {
            changed.add(change.key());
        }
    });
    context.work(controller, queue).await;
}

struct Controller {
    client: Client,
    autoscalers: Informer,
    pods: Informer,
    served: Served,
    events: EventRecorder,
    metrics: Arc<dyn Metrics>,
    past: Mutex<HashMap<Key, Past>>,
    /// What each autoscaler's target selected when it was looked at last. Bounded by the autoscalers.
    selectors: Mutex<HashMap<Key, Selector>>,
    options: HpaOptions,
}

impl Reconciler for Controller {
    type Key = Key;
    type Error = ApiError;

    fn name(&self) -> &'static str {
        "horizontal-pod-autoscaler-controller"
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, ApiError> {
        let Some(object) = self.autoscalers.get_key(key) else {
            self.past.lock().remove(key);
            self.selectors.lock().remove(key);
            return Ok(Outcome::Done);
        };
        let hpa: HorizontalPodAutoscaler = object.decode()?;
        let mut status = hpa.status.clone().unwrap_or_default();
        status.observed_generation = hpa.metadata.generation;
        self.autoscale(key, &hpa, &mut status).await;
        if hpa.status.as_ref() != Some(&status) {
            let updated = HorizontalPodAutoscaler { status: Some(status), ..hpa.clone() };
            match self.client.update_status(&updated).await {
                Ok(_) => {}
                Err(error) if error.is_not_found() => return Ok(Outcome::Done),
                Err(error) => {
                    let message = error.to_string();
                    self.events.event(&hpa, EventType::Warning, "FailedUpdateStatus", message);
                    return Err(error);
                }
            }
        }
        // Nothing tells when metrics change.
        Ok(Outcome::After(self.options.horizontal_pod_autoscaler_sync_period))
    }
}

/// A metric that all went wrong with, or a part that does not let it shrink.
struct Wanted {
    replicas: i32,
    metric: String,
    statuses: Vec<MetricStatus>,
}

fn tolerance(hpa: &HorizontalPodAutoscaler, default: f64) -> Tolerance {
    let of = |rules: Option<&HPAScalingRules>| {
        let given = rules.and_then(|rules| rules.tolerance.as_ref()).and_then(|t| Quantity::of(t).ok());
        #[allow(clippy::cast_precision_loss)]
        given.map_or(default, |given| given.milli_value() as f64 / 1000.0)
    };
    let behavior = hpa.spec.behavior.as_ref();
    Tolerance {
        up: of(behavior.and_then(|b| b.scale_up.as_ref())),
        down: of(behavior.and_then(|b| b.scale_down.as_ref())),
    }
}

/// The autoscalers of the namespace whose targets select one of the pods.
fn selecting(selectors: &HashMap<Key, Selector>, namespace: &str, pods: &[Arc<Object>]) -> Vec<Key> {
    let one_of = |selector: &Selector| pods.iter().any(|pod| selector.matches(&pod.head));
    let mut all: Vec<Key> = selectors
        .iter()
        .filter(|(key, selector)| *key.namespace == *namespace && one_of(selector))
        .map(|(key, _)| key.clone())
        .collect();
    all.sort();
    all
}

impl Controller {
    /// The target's resource and scale.
    async fn scale(&self, key: &Key, hpa: &HorizontalPodAutoscaler) -> Result<(Resource, Scale), String> {
        let target = &hpa.spec.scale_target_ref;
        let api_version = target.api_version.as_deref().unwrap_or("v1");
        let resource = scale::resource_of(&self.served, api_version, &target.kind)
            .ok_or_else(|| format!("no matches for kind {:?} in version {api_version:?}", target.kind))?;
        match scale::get(&self.client, &resource, &key.namespace, &target.name).await {
            Ok(scale) => Ok((resource, scale)),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Leaves in the status what came of it.
    async fn autoscale(
        &self,
        key: &Key,
        hpa: &HorizontalPodAutoscaler,
        status: &mut HorizontalPodAutoscalerStatus,
    ) {
        let Now { wall: now, steady } = Now::read();
        let (resource, mut scale) = match self.scale(key, hpa).await {
            Ok(found) => found,
            Err(error) => {
                self.events.event(hpa, EventType::Warning, "FailedGetScale", error.as_str());
                let message =
                    format!("the HPA controller was unable to get the target's current scale: {error}");
                return set(status, ABLE, false, "FailedGetScale", &message, now);
            }
        };
        let message = "the HPA controller was able to get the target's current scale";
        set(status, ABLE, true, "SucceededGetScale", message, now);
        let current = scale.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
        let mut past = self.past.lock().get(key).cloned().unwrap_or_default();
        past.begin(current, steady);
        let bounds = Bounds {
            min: hpa.spec.min_replicas.unwrap_or(1),
            max: hpa.spec.max_replicas,
            down_window: self.options.horizontal_pod_autoscaler_downscale_stabilization,
        };
        let mut statuses = status.current_metrics.take().unwrap_or_default();
        let (desired, why) = if current == 0 && bounds.min != 0 {
            let message = "scaling is disabled since the replica count of the target is zero";
            set(status, ACTIVE, false, "ScalingDisabled", message, now);
            (0, String::new())
        } else if current > bounds.max {
            (bounds.max, "Current number of replicas above Spec.MaxReplicas".into())
        } else if current < bounds.min {
            (bounds.min, "Current number of replicas below Spec.MinReplicas".into())
        } else {
            match self.wanted(key, hpa, &scale, status, now).await {
                Err(error) => {
                    self.events.event(hpa, EventType::Warning, "FailedComputeMetricsReplicas", error);
                    status.current_replicas = Some(current);
                    status.current_metrics = Some(statuses).filter(|statuses| !statuses.is_empty());
                    self.past.lock().insert(key.clone(), past);
                    return;
                }
                Ok(wanted) => {
                    statuses = wanted.statuses;
                    let why = match wanted.replicas.cmp(&current) {
                        std::cmp::Ordering::Greater => format!("{} above target", wanted.metric),
                        _ => "All metrics below target".into(),
                    };
                    let behavior = hpa.spec.behavior.as_ref();
                    let held = behavior::hold(&mut past, behavior, bounds, current, wanted.replicas, steady);
                    set(status, ABLE, true, held.able.0, held.able.1, now);
                    match held.limited {
                        Some((reason, message)) => set(status, LIMITED, true, reason, message, now),
                        None => {
                            let message = "the desired count is within the acceptable range";
                            set(status, LIMITED, false, "DesiredWithinRange", message, now);
                        }
                    }
                    (held.replicas, why)
                }
            }
        };
        status.current_replicas = Some(current);
        if desired != current {
            scale.spec = Some(ScaleSpec { replicas: Some(desired) });
            if let Err(error) = scale::update(&self.client, &resource, &scale).await {
                let message = format!("New size: {desired}; reason: {why}; error: {error}");
                self.events.event(hpa, EventType::Warning, "FailedRescale", message);
                let message = format!("the HPA controller was unable to update the target scale: {error}");
                set(status, ABLE, false, "FailedUpdateScale", &message, now);
                status.current_metrics = Some(statuses).filter(|statuses| !statuses.is_empty());
                self.past.lock().insert(key.clone(), past);
                return;
            }
            let message = format!("the HPA controller was able to update the target scale to {desired}");
            set(status, ABLE, true, "SucceededRescale", &message, now);
            let message = format!("New size: {desired}; reason: {why}");
            self.events.event(hpa, EventType::Normal, "SuccessfulRescale", message);
            past.scaled(current, desired, steady);
            status.last_scale_time = Some(time(now));
        }
        self.past.lock().insert(key.clone(), past);
        status.desired_replicas = desired;
        status.current_metrics = Some(statuses).filter(|statuses| !statuses.is_empty());
    }

    /// The most that any metric asks for.
    async fn wanted(
        &self,
        key: &Key,
        hpa: &HorizontalPodAutoscaler,
        scale: &Scale,
        status: &mut HorizontalPodAutoscalerStatus,
        now: Timestamp,
    ) -> Result<Wanted, String> {
        let text = scale.status.as_ref().and_then(|status| status.selector.clone()).unwrap_or_default();
        if text.is_empty() {
            self.events.event(hpa, EventType::Warning, "SelectorRequired", "selector is required");
            let message = "the HPA target's scale is missing a selector";
            set(status, ACTIVE, false, "InvalidSelector", message, now);
            return Err("selector is required".into());
        }
        let selector = Selector::parse(&text).map_err(|error| {
            let error =
                format!("couldn't convert selector into a corresponding internal selector object: {error}");
            self.events.event(hpa, EventType::Warning, "InvalidSelector", error.as_str());
            set(status, ACTIVE, false, "InvalidSelector", &error, now);
            error
        })?;
        let selected = self.pods.select(&key.namespace, &selector);
        let rivals = {
            let mut selectors = self.selectors.lock();
            selectors.insert(key.clone(), selector);
            selecting(&selectors, &key.namespace, &selected)
        };
        if rivals.len() > 1 {
            let names = rivals.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
            let error = format!("pods by selector {text} are controlled by multiple HPAs: [{names}]");
            self.events.event(hpa, EventType::Warning, "AmbiguousSelector", error.as_str());
            set(status, ACTIVE, false, "AmbiguousSelector", &error, now);
            return Err(error);
        }
        let pods: Result<Vec<Pod>, _> = selected.iter().map(|pod| pod.decode()).collect();
        let pods = pods.map_err(|error| error.to_string())?;
        let replicas = scale.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
        let target = Target {
            namespace: &key.namespace,
            selector: &text,
            pods: &pods,
            present: scale.status.as_ref().map_or(0, |status| status.replicas),
            asked: Asked {
                replicas,
                tolerance: tolerance(hpa, self.options.horizontal_pod_autoscaler_tolerance),
                warm_up: WarmUp {
                    cpu: self.options.horizontal_pod_autoscaler_cpu_initialization_period,
                    readiness: self.options.horizontal_pod_autoscaler_initial_readiness_delay,
                },
                now,
            },
            served: &self.served,
        };
        let specs = hpa.spec.metrics.as_deref().unwrap_or_default();
        let mut wanted = Wanted { replicas: 0, metric: String::new(), statuses: Vec::new() };
        let mut failures = Vec::new();
        for spec in specs {
            match evaluate::evaluate(&*self.metrics, &target, spec).await {
                Ok(evaluated) => {
                    if wanted.metric.is_empty() || evaluated.replicas > wanted.replicas {
                        (wanted.replicas, wanted.metric) = (evaluated.replicas, evaluated.name);
                    }
                    wanted.statuses.push(evaluated.status);
                }
                Err((reason, error)) => {
                    self.events.event(hpa, EventType::Warning, reason, error.as_str());
                    failures.push((reason, error));
                }
            }
        }
        // What could not be read might ask for more: without it nothing shrinks.
        if let Some((reason, error)) = failures.first()
            && (failures.len() >= specs.len() || wanted.replicas < replicas)
        {
            let message = format!("the HPA was unable to compute the replica count: {error}");
            set(status, ACTIVE, false, reason, &message, now);
            let (invalid, all) = (failures.len(), specs.len());
            return Err(format!("invalid metrics ({invalid} invalid out of {all}), first error is: {error}"));
        }
        let metric = &wanted.metric;
        let message = format!("the HPA was able to successfully calculate a replica count from {metric}");
        set(status, ACTIVE, true, "ValidMetricFound", &message, now);
        Ok(wanted)
    }
}

#[cfg(test)]
mod replica_tests;
#[cfg(test)]
mod tests;
