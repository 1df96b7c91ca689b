//! PodTemplate: a template of pods on its own.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodTemplate;
use serde_json::{Value, json};

use super::{BuiltIn, Column, pod, workload};
use crate::field_error::{Errors, Path};
use crate::table;

impl BuiltIn for PodTemplate {
    const SINGULAR: &'static str = "podtemplate";
    const RETURNS_DELETED: bool = true;
    const HAS_GENERATION: bool = true;

    fn set_defaults(&mut self) {
        pod::defaults::template(self.template.get_or_insert_default());
    }

    fn validate(&self, errors: &mut Errors) {
        let template = self.template.clone().unwrap_or_default();
        pod::spec::template(&template, &Path::new("template"), errors);
    }

    fn warnings(&self, old: Option<&Self>) -> Vec<String> {
        let before = old.and_then(|old| old.template.as_ref());
        self.template.iter().flat_map(|t| pod::warnings::of_template(t, "template", before)).collect()
    }

    fn columns() -> Vec<Column> {
        vec![
            table::NAME,
            table::narrow("Containers", "string", "The names of the template's containers."),
            table::narrow("Images", "string", "The images of the template's containers."),
            table::narrow("Pod Labels", "string", "The labels that its pods get."),
        ]
    }

    fn cells(&self, _now: Timestamp) -> Vec<Value> {
        let mut cells = vec![json!(self.metadata.name)];
        cells.extend(workload::containers(self.template.as_ref()));
        let labels = self.template.as_ref().and_then(|t| t.metadata.as_ref()?.labels.as_ref());
        cells.push(json!(table::labels(labels)));
        cells
    }
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing;

    use super::*;

    #[test]
    fn rules_and_columns() {
        let template = json!({"metadata": {"name": "t"}, "template":
            {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}}});
        testing::valid::<PodTemplate>(std::slice::from_ref(&template));
        testing::invalid::<PodTemplate>(&[(
            json!({"metadata": {"name": "t"}, "template": {"spec": {"containers": []}}}),
            "template.spec.containers",
            "Required value",
        )]);
        assert_eq!(testing::cells::<PodTemplate>(template), ["t", "c", "i:1", "a=b"]);
    }
}
