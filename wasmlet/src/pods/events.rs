//! Events about one pod and its containers, with upstream's reasons.

use coracle_client::Object;
use coracle_client::events::{EventRecorder, EventType};
use k8s_openapi::api::core::v1::ObjectReference;

/// Records events about one pod. Cheap to make.
pub struct PodEvents<'a> {
    recorder: &'a EventRecorder,
    object: &'a Object,
}

impl<'a> PodEvents<'a> {
    pub fn new(recorder: &'a EventRecorder, object: &'a Object) -> Self {
        PodEvents { recorder, object }
    }

    pub fn normal(&self, reason: &str, message: impl Into<String>) {
        self.record(None, EventType::Normal, reason, message.into());
    }

    pub fn warning(&self, reason: &str, message: impl Into<String>) {
        self.record(None, EventType::Warning, reason, message.into());
    }

    /// `field`: as `Spec::field_path` gives it.
    pub fn container(&self, field: &str, kind: EventType, reason: &str, message: impl Into<String>) {
        self.record(Some(field.to_owned()), kind, reason, message.into());
    }

    fn record(&self, field_path: Option<String>, kind: EventType, reason: &str, message: String) {
        let head = &self.object.head;
        let about = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            name: Some(head.name.to_string()),
            namespace: Some(head.namespace.to_string()),
            uid: Some(head.uid.to_string()),
            resource_version: Some(head.resource_version.to_string()),
            field_path,
        };
        self.recorder.event_for(about, kind, reason, message);
    }
}
