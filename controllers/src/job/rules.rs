//! What a job's spec asks for, with the API's defaults in.

use k8s_openapi::api::batch::v1::{Job, PodFailurePolicy, SuccessPolicy};

#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    pub parallelism: i32,
    /// None: any success will do.
    pub completions: Option<i32>,
    pub indexed: bool,
    pub backoff_limit: i32,
    pub backoff_limit_per_index: Option<i32>,
    pub max_failed_indexes: Option<i32>,
    pub active_deadline_seconds: Option<i64>,
    pub suspended: bool,
    /// A pod is replaced when it has ended, not when it is asked to.
    pub replaces_ended_only: bool,
    pub restarts_containers: bool,
    pub failure_policy: Option<&'a PodFailurePolicy>,
    pub success_policy: Option<&'a SuccessPolicy>,
}

impl<'a> Rules<'a> {
    /// None: without a spec there is no job.
    pub fn of(job: &'a Job) -> Option<Self> {
        let spec = job.spec.as_ref()?;
        let restarts = spec.template.spec.as_ref().and_then(|pod| pod.restart_policy.as_deref());
        Some(Self {
            parallelism: spec.parallelism.unwrap_or(1),
            completions: spec.completions,
            indexed: spec.completion_mode.as_deref() == Some("Indexed") && spec.completions.is_some(),
            backoff_limit: spec.backoff_limit.unwrap_or(6),
            backoff_limit_per_index: spec.backoff_limit_per_index,
            max_failed_indexes: spec.max_failed_indexes,
            active_deadline_seconds: spec.active_deadline_seconds,
            suspended: spec.suspend == Some(true),
            replaces_ended_only: spec.pod_replacement_policy.as_deref() == Some("Failed")
                || spec.pod_failure_policy.is_some(),
            restarts_containers: restarts == Some("OnFailure"),
            failure_policy: spec.pod_failure_policy.as_ref(),
            success_policy: spec.success_policy.as_ref(),
        })
    }

    /// How many indexes there are.
    pub fn indexes(&self) -> u32 {
        self.completions.and_then(|n| u32::try_from(n).ok()).unwrap_or(0)
    }

    /// The limit of failures of one index, where each index has its own.
    pub fn per_index(&self) -> Option<i32> {
        self.backoff_limit_per_index.filter(|_| self.indexed)
    }
}
