//! The pods of a job, made of its template.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, ObjectFieldSelector, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::job::plan::Seat;
use crate::job::pod::{FINALIZER, INDEX, INDEX_FAILURES, INDEX_IGNORED};
use crate::ownership;

const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";
/// What is left of a pod's name beside the random end.
const PREFIX_MAX: usize = 58;

/// `seat`: the index it works for, in an indexed job.
pub fn pod_of(job: &Job, seat: Option<&Seat>) -> Pod {
    let template = job.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    let name = job.metadata.name.as_deref().unwrap_or_default();
    let meta = template.metadata.unwrap_or_default();
    let mut finalizers = meta.finalizers.unwrap_or_default();
    if !finalizers.iter().any(|f| f == FINALIZER) {
        finalizers.push(FINALIZER.into());
    }
    let mut pod = Pod {
        metadata: ObjectMeta {
            namespace: job.metadata.namespace.clone(),
            generate_name: Some(format!("{name}-")),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: Some(finalizers),
            owner_references: Some(vec![ownership::controller_of::<Job>(&job.metadata)]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    };
    if let Some(seat) = seat {
        put_in(&mut pod, name, seat);
    }
    pod
}

fn put_in(pod: &mut Pod, job: &str, seat: &Seat) {
    let index = seat.index.to_string();
    let end = format!("-{index}-");
    let kept: String = job.chars().take(PREFIX_MAX.saturating_sub(end.len())).collect();
    pod.metadata.generate_name = Some(kept + &end);
    pod.metadata.labels.get_or_insert_default().insert(INDEX.into(), index.clone());
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(INDEX.into(), index.clone());
    if let Some(failures) = seat.failures {
        annotations.insert(INDEX_FAILURES.into(), failures.counted.to_string());
        if failures.ignored > 0 {
            annotations.insert(INDEX_IGNORED.into(), failures.ignored.to_string());
        }
    }
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(format!("{job}-{index}"));
    spec.init_containers.iter_mut().flatten().chain(&mut spec.containers).for_each(tell_index);
}

fn tell_index(container: &mut Container) {
    let env = container.env.get_or_insert_default();
    if env.iter().any(|variable| variable.name == INDEX_VARIABLE) {
        return;
    }
    let field_path = format!("metadata.labels['{INDEX}']");
    let source = EnvVarSource {
        field_ref: Some(ObjectFieldSelector { field_path, ..ObjectFieldSelector::default() }),
        ..EnvVarSource::default()
    };
    env.push(EnvVar { name: INDEX_VARIABLE.into(), value_from: Some(source), ..EnvVar::default() });
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::job::plan::Failures;

    fn job(name: &str) -> Job {
        serde_json::from_value(
            json!({"metadata": {"name": name, "namespace": "ns", "uid": "u"}, "spec": {"template": {
            "metadata": {"labels": {"a": "b"}, "finalizers": ["x/y"]},
            "spec": {"initContainers": [{"name": "i"}], "containers": [{"name": "c"},
                {"name": "d", "env": [{"name": "JOB_COMPLETION_INDEX", "value": "mine"}]}]}}}}),
        )
        .unwrap()
    }

    #[test]
    fn pods_are_named_labelled_and_held() {
        let plain = pod_of(&job("hello"), None);
        assert_eq!(plain.metadata.generate_name.as_deref(), Some("hello-"));
        assert_eq!(plain.metadata.finalizers.as_deref(), Some(&["x/y".to_owned(), FINALIZER.to_owned()][..]));
        assert_eq!(plain.metadata.owner_references.as_ref().unwrap()[0].uid, "u");
        assert!(plain.spec.unwrap().containers[0].env.is_none());

        let seat = Seat { index: 3, failures: Some(Failures { counted: 2, ignored: 0 }) };
        let pod = pod_of(&job("hello"), Some(&seat));
        assert_eq!(pod.metadata.generate_name.as_deref(), Some("hello-3-"));
        let annotations = pod.metadata.annotations.unwrap();
        assert_eq!((annotations[INDEX].as_str(), annotations[INDEX_FAILURES].as_str()), ("3", "2"));
        assert!(!annotations.contains_key(INDEX_IGNORED));
        assert_eq!(pod.metadata.labels.unwrap()[INDEX], "3");
        let spec = pod.spec.unwrap();
        assert_eq!(spec.hostname.as_deref(), Some("hello-3"));
        for container in [&spec.containers[0], &spec.init_containers.unwrap()[0]] {
            let variable = &container.env.as_ref().unwrap()[0];
            assert_eq!(variable.name, INDEX_VARIABLE);
            let source = variable.value_from.as_ref().unwrap().field_ref.as_ref().unwrap();
            assert_eq!(source.field_path, "metadata.labels['batch.kubernetes.io/job-completion-index']");
        }
        assert_eq!(spec.containers[1].env.as_ref().unwrap()[0].value.as_deref(), Some("mine"));

        let long = pod_of(&job(&"x".repeat(63)), Some(&Seat { index: 1234, failures: None }));
        assert_eq!(long.metadata.generate_name.map(|name| name.len()), Some(58));
    }
}
