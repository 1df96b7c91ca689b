//! What users do to a cluster while things go wrong.

use coracle_client::request::Propagation;
use coracle_client::{ApiError, Client, DeleteOptions, PatchType, Request, Resource, Verb};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{Namespace, Node, PersistentVolumeClaim, Pod, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde_json::{Value, json};

use crate::faults::Faults;
use crate::node::{EXIT_CODE, RUNS_MILLIS};

pub const NAMESPACES: [&str; 2] = ["blue", "green"];
const NAMES: u64 = 3;

pub struct Workload {
    pub client: Client,
    /// The controllers there are: what nobody works on is not asked for.
    controllers: Vec<&'static str>,
}

impl Workload {
    pub fn new(client: Client) -> Self {
        let controllers = coracle_controllers::manager::controllers().iter().map(|c| c.name).collect();
        Self { client, controllers }
    }

    fn kept(&self, controller: &str) -> bool {
        self.controllers.contains(&controller)
    }

    async fn create(&self, resource: Resource, namespace: &str, object: Value) -> Result<(), ApiError> {
        let mut request = Request::new(Verb::Create, resource);
        request.namespace = Some(namespace.to_owned()).filter(|n| !n.is_empty());
        request.body = object.to_string().into();
        self.client.raw(request).await.map(drop)
    }

    async fn merge(
        &self,
        resource: Resource,
        namespace: &str,
        name: &str,
        patch: Value,
    ) -> Result<(), ApiError> {
        let mut request = Request::new(Verb::Patch(PatchType::Merge), resource);
        request.namespace = Some(namespace.to_owned()).filter(|n| !n.is_empty());
        request.name = Some(name.to_owned());
        request.body = patch.to_string().into();
        self.client.raw(request).await.map(drop)
    }

    pub async fn namespaces(&self) {
        for name in NAMESPACES {
            let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            self.create(Resource::of::<Namespace>(), "", object).await.ok();
        }
    }

    /// Something of each kind is there before anything goes wrong.
    pub async fn begin(&self, faults: &Faults) {
        for resource in [Resource::of::<StatefulSet>(), Resource::of::<Deployment>()] {
            for namespace in NAMESPACES {
                let name = format!("{}-app-0", &resource.plural()[..2]);
                self.create(resource.clone(), namespace, workload(&resource, &name, faults)).await.ok();
            }
        }
    }

    /// One thing that a user might do; errors are the user's to live with. Says what it was.
    pub async fn act(&self, faults: &Faults) -> String {
        let namespace = NAMESPACES[faults.below(NAMESPACES.len() as u64) as usize];
        let name = format!("app-{}", faults.below(NAMES));
        let propagation = match faults.below(4) {
            0 => Propagation::Foreground,
            1 => Propagation::Orphan,
            _ => Propagation::Background,
        };
        let deletion = DeleteOptions::propagation(propagation);
        let workloads = [
            ("deployment-controller", Resource::of::<Deployment>()),
            ("statefulset-controller", Resource::of::<StatefulSet>()),
            ("daemonset-controller", Resource::of::<DaemonSet>()),
        ];
        let kept: Vec<_> = workloads.into_iter().filter(|(controller, _)| self.kept(controller)).collect();
        let Some((_, resource)) = faults.pick(&kept).cloned() else { return "nothing".into() };
        let what = format!("{} {namespace}/{name}", resource.plural());
        let name = format!("{}-{name}", &resource.plural()[..2]);
        let (did, result) = match faults.below(18) {
            0..=3 => {
                ("create", self.create(resource.clone(), namespace, workload(&resource, &name, faults)).await)
            }
            4..=5 => {
                let patch = json!({"spec": {"replicas": faults.below(6)}});
                ("scale", self.merge(resource, namespace, &name, patch).await)
            }
            6..=7 => {
                let change = json!({"metadata": {"annotations": {"version": faults.below(4).to_string()}}});
                ("roll", self.merge(resource, namespace, &name, json!({"spec": {"template": change}})).await)
            }
            8 => ("delete", self.client.delete_object(&resource, namespace, &name, deletion).await),
            9 => ("service for", self.create(Resource::of::<Service>(), namespace, service(&name)).await),
            10 => match self.kept("job-controller") {
                true => ("job at", self.create(Resource::of::<Job>(), namespace, job(faults)).await),
                false => ("no job at", Ok(())),
            },
            11 => match self.some_pod(namespace, faults).await {
                Some(pod) => {
                    let options = DeleteOptions::default();
                    ("delete a pod at", self.client.delete::<Pod>(namespace, &pod, options).await)
                }
                None => ("no pod to delete at", Ok(())),
            },
            14 => match self.some_pod(namespace, faults).await {
                Some(pod) => ("evict a pod at", self.evict(namespace, &pod).await),
                None => ("no pod to evict at", Ok(())),
            },
            15 => {
                let budgets = Resource::of::<PodDisruptionBudget>();
                ("budget for", self.create(budgets, namespace, budget(&name, faults)).await)
            }
            16 => {
                let object = cron_job(&format!("cron-{}", faults.below(NAMES)), faults);
                ("cron job at", self.create(Resource::of::<CronJob>(), namespace, object).await)
            }
            17 => match self.some_claim(namespace, faults).await {
                Some(claim) => {
                    let options = DeleteOptions::default();
                    let deleted = self.client.delete::<PersistentVolumeClaim>(namespace, &claim, options);
                    ("delete a claim at", deleted.await)
                }
                None => ("no claim to delete at", Ok(())),
            },
            12 if faults.one_in(4) => {
                let options = DeleteOptions::default();
                ("delete the namespace of", self.client.delete::<Namespace>("", namespace, options).await)
            }
            _ => {
                let nodes = self.client.list::<Node>("", Default::default()).await;
                let nodes = nodes.map(|list| list.items).unwrap_or_default();
                match faults.pick(&nodes) {
                    Some(node) => {
                        let patch = json!({"spec": {"unschedulable": faults.one_in(2)}});
                        let name = node.head.name.to_string();
                        ("cordon a node by", self.merge(Resource::of::<Node>(), "", &name, patch).await)
                    }
                    None => ("no node for", Ok(())),
                }
            }
        };
        self.namespaces().await;
        format!("{did} {what}: {}", result.err().map_or("done".into(), |error| error.to_string()))
    }

    async fn some_pod(&self, namespace: &str, faults: &Faults) -> Option<String> {
        let pods = self.client.list::<Pod>(namespace, Default::default()).await.ok()?.items;
        faults.pick(&pods).map(|pod| pod.head.name.to_string())
    }

    async fn some_claim(&self, namespace: &str, faults: &Faults) -> Option<String> {
        let claims =
            self.client.list::<PersistentVolumeClaim>(namespace, Default::default()).await.ok()?.items;
        faults.pick(&claims).map(|claim| claim.head.name.to_string())
    }

    async fn evict(&self, namespace: &str, pod: &str) -> Result<(), ApiError> {
        let metadata = json!({"name": pod, "namespace": namespace});
        let mut request = Request::new(Verb::Create, Resource::of::<Pod>());
        request.namespace = Some(namespace.to_owned());
        request.name = Some(pod.to_owned());
        request.subresource = Some("eviction".into());
        request.body =
            json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata}).to_string().into();
        self.client.raw(request).await.map(drop)
    }

    /// Before the end nothing starts by the clock any more: a cluster with CronJobs never rests.
    pub async fn stop_the_clock(&self) -> Result<(), ApiError> {
        for namespace in NAMESPACES {
            for object in self.client.list::<CronJob>(namespace, Default::default()).await?.items {
                let options = DeleteOptions::propagation(Propagation::Background);
                match self.client.delete::<CronJob>(namespace, &object.head.name, options).await {
                    Err(error) if error.is_not_found() => {}
                    other => other?,
                }
            }
        }
        Ok(())
    }

    /// Before the end every node takes pods again.
    pub async fn uncordon(&self) -> Result<(), ApiError> {
        for node in self.client.list::<Node>("", Default::default()).await?.items {
            let patch = json!({"spec": {"unschedulable": null}});
            self.merge(Resource::of::<Node>(), "", &node.head.name, patch).await?;
        }
        Ok(())
    }
}

fn template(name: &str, faults: &Faults) -> Value {
    let mut template = json!({
        "metadata": {"labels": {"app": name}},
        "spec": {"terminationGracePeriodSeconds": 2, "containers": [
            {"name": "main", "image": "x", "resources": {"requests": {"cpu": "10m"}}}
        ]}
    });
    if faults.one_in(2) {
        // Less than the default of five minutes, which few machines are away for.
        let seconds = 30 + faults.below(60);
        let tolerate = |key: &str| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds});
        template["spec"]["tolerations"] =
            json!([tolerate("node.kubernetes.io/not-ready"), tolerate("node.kubernetes.io/unreachable")]);
    }
    template
}

fn workload(resource: &Resource, name: &str, faults: &Faults) -> Value {
    let mut object = json!({
        "apiVersion": resource.api_version(), "kind": resource.kind(), "metadata": {"name": name},
        "spec": {"selector": {"matchLabels": {"app": name}}, "template": template(name, faults)}
    });
    match resource.plural() {
        "deployments" => {
            object["spec"]["replicas"] = json!(faults.below(6));
            object["spec"]["revisionHistoryLimit"] = json!(2);
            if faults.one_in(3) {
                object["spec"]["strategy"] = json!({"type": "Recreate"});
            }
        }
        "statefulsets" => {
            object["spec"]["replicas"] = json!(faults.below(5));
            object["spec"]["serviceName"] = json!(name);
            if faults.one_in(2) {
                object["spec"]["podManagementPolicy"] = json!("Parallel");
            }
            if !faults.one_in(3) {
                object["spec"]["volumeClaimTemplates"] = json!([{"metadata": {"name": "data"}, "spec": {
                    "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}]);
                let policy = || if faults.one_in(2) { "Delete" } else { "Retain" };
                object["spec"]["persistentVolumeClaimRetentionPolicy"] =
                    json!({"whenScaled": policy(), "whenDeleted": policy()});
            }
        }
        _ => {}
    }
    object
}

fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": 8080}]}
    })
}

fn job(faults: &Faults) -> Value {
    let code = if faults.one_in(3) { "1" } else { "0" };
    let runs = faults.below(20_000).to_string();
    let mut spec = json!({
        "completions": 1 + faults.below(4), "parallelism": 1 + faults.below(3), "backoffLimit": faults.below(3),
        "template": {
            "metadata": {"annotations": {RUNS_MILLIS: runs, EXIT_CODE: code}},
            "spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": "x"}]}
        }
    });
    if faults.one_in(2) {
        spec["completionMode"] = json!("Indexed");
    }
    if faults.one_in(3) {
        spec["ttlSecondsAfterFinished"] = json!(30);
    }
    json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"generateName": "job-"}, "spec": spec})
}

fn budget(name: &str, faults: &Faults) -> Value {
    let mut spec = json!({"selector": {"matchLabels": {"app": name}}});
    // How many a DaemonSet wants does not stand in a scale: only a minimum can be told of it.
    let minimum = name.starts_with("da") || faults.one_in(2);
    spec[if minimum { "minAvailable" } else { "maxUnavailable" }] = json!(1);
    json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": name}, "spec": spec})
}

fn cron_job(name: &str, faults: &Faults) -> Value {
    let policy = ["Allow", "Forbid", "Replace"][faults.below(3) as usize];
    let mut made = job(faults);
    made["spec"]["completions"] = json!(1);
    let template = json!({"spec": made["spec"]});
    let spec = json!({
        "schedule": "* * * * *", "concurrencyPolicy": policy, "jobTemplate": template,
        "successfulJobsHistoryLimit": 1, "failedJobsHistoryLimit": 1
    });
    json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": name}, "spec": spec})
}
