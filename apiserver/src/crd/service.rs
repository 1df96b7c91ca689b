//! What a definition puts into service: its versions as kinds, over one cache.

use std::sync::Arc;

use coracle_client::Resource;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, CustomResourceDefinitionStatus, CustomResourceDefinitionVersion,
};

use super::conversion::Conversion;
use super::kind::{CustomKind, Parts, ScalePaths};
use super::schema::Schema;
use super::version::{self, Version};
use super::{names, openapi};
use crate::api::Api;
use crate::kinds::KindDef;
use crate::served::Served;
use crate::watch_cache::ResourceCache;

/// A definition read.
pub struct Plan {
    pub resource: Resource,
    pub storage: Arc<CustomKind>,
    versions: Vec<(KindDef, Version)>,
    conversion: Conversion,
    /// The selectable fields of all versions: one cache answers for all.
    fields: &'static [&'static str],
}

impl Plan {
    /// None: there is no version to store.
    pub fn of(
        definition: &CustomResourceDefinition,
        status: &CustomResourceDefinitionStatus,
        api: &Arc<Api>,
    ) -> Option<Self> {
        let spec = &definition.spec;
        let storage_version = spec.versions.iter().find(|version| version.storage)?;
        let storage = Arc::new(kind(definition, status, storage_version));
        let conversion = Conversion::of(spec.conversion.as_ref(), api);
        let stored = status.stored_versions.as_deref().unwrap_or_default();
        let mixed = !conversion.is_none() && stored.iter().any(|version| *version != storage_version.name);
        let mut fields: Vec<String> = spec.versions.iter().flat_map(selectable).collect();
        fields.sort();
        fields.dedup();
        let fields = names::kept(fields);
        let versions = spec.versions.iter().filter(|version| version.served).map(|version| {
            let kind =
                if version.storage { storage.clone() } else { Arc::new(kind(definition, status, version)) };
            let def = def(definition, status, version, &kind);
            let terminating = definition.metadata.deletion_timestamp.is_some();
            let version = Version {
                kind,
                storage: storage.clone(),
                conversion: conversion.clone(),
                mixed,
                terminating,
                fields,
            };
            (def, version)
        });
        let versions = versions.collect();
        let accepted = status.accepted_names.as_ref()?;
        let namespaced = spec.scope == "Namespaced";
        let resource =
            Resource::new(&spec.group, &storage_version.name, &accepted.plural, &accepted.kind, namespaced);
        Some(Self { resource, storage, versions, conversion, fields })
    }

    /// Whether a cache that was made for another state of the definition shows the same objects in the same way.
    pub fn reads_as(&self, before: &CustomKind, cache: &ResourceCache) -> bool {
        let same = before.api_version == self.storage.api_version
            && before.published == self.storage.published
            && before.preserve == self.storage.preserve;
        same && std::ptr::eq(cache.fields(), self.fields) && self.conversion.is_none()
    }

    pub fn cache(&self) -> Arc<ResourceCache> {
        let (storage, conversion) = (self.storage.clone(), self.conversion.clone());
        let normal = move |stored: &bytes::Bytes| version::normal(&storage, &conversion, stored);
        Arc::new(ResourceCache::of_custom(self.resource.clone(), self.fields, Box::new(normal)))
    }

    pub fn served(self, cache: &Arc<ResourceCache>) -> Vec<Arc<Served>> {
        let served = self.versions.into_iter().map(|(def, version)| {
            let custom = Some(Arc::new(version));
            Arc::new(Served { def: Arc::new(def), cache: cache.clone(), stored: None, custom })
        });
        served.collect()
    }
}

/// What a definition would serve if it got the names it asks for.
pub fn kinds(definition: &CustomResourceDefinition) -> Vec<KindDef> {
    let accepted_names = Some(definition.spec.names.clone());
    let status = CustomResourceDefinitionStatus { accepted_names, ..Default::default() };
    let served = definition.spec.versions.iter().filter(|version| version.served);
    served
        .map(|version| def(definition, &status, version, &Arc::new(kind(definition, &status, version))))
        .collect()
}

fn selectable(version: &CustomResourceDefinitionVersion) -> Vec<String> {
    let paths = version.selectable_fields.iter().flatten();
    paths.map(|field| field.json_path.strip_prefix('.').unwrap_or(&field.json_path).to_owned()).collect()
}

fn kind(
    definition: &CustomResourceDefinition,
    status: &CustomResourceDefinitionStatus,
    version: &CustomResourceDefinitionVersion,
) -> CustomKind {
    let spec = &definition.spec;
    let props = version.schema.as_ref().and_then(|schema| schema.open_api_v3_schema.as_ref());
    let schema = Arc::new(props.map(Schema::of).unwrap_or_default());
    let fields = selectable(version);
    let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
    let kind = status.accepted_names.as_ref().map(|names| names.kind.clone()).unwrap_or_default();
    let subresources = version.subresources.as_ref();
    let parts = Parts {
        api_version: format!("{}/{}", spec.group, version.name),
        preserve: spec.preserve_unknown_fields == Some(true) || props.is_none(),
        has_status: subresources.is_some_and(|s| s.status.is_some()),
        scale: subresources.and_then(|s| s.scale.as_ref()).map(|scale| {
            Arc::new(ScalePaths {
                wanted: scale.spec_replicas_path.clone(),
                present: scale.status_replicas_path.clone(),
                selector: scale.label_selector_path.clone().filter(|path| !path.is_empty()),
            })
        }),
        published: (openapi::name(&spec.group, &version.name, &kind), openapi::published(props, &fields)),
        kind,
        schema,
    };
    CustomKind::new(parts, version.additional_printer_columns.as_deref().unwrap_or_default())
}

fn def(
    definition: &CustomResourceDefinition,
    status: &CustomResourceDefinitionStatus,
    version: &CustomResourceDefinitionVersion,
    kind: &Arc<CustomKind>,
) -> KindDef {
    let spec = &definition.spec;
    let names = status.accepted_names.clone().unwrap_or_default();
    let deprecation = version.deprecated.unwrap_or(false).then(|| {
        let plain = || format!("{}/{} {} is deprecated", spec.group, version.name, names.kind);
        version.deprecation_warning.clone().unwrap_or_else(plain)
    });
    KindDef {
        resource: Resource::new(
            &spec.group,
            &version.name,
            &names.plural,
            &names.kind,
            spec.scope == "Namespaced",
        ),
        list_kind: names.list_kind.unwrap_or_else(|| format!("{}List", names.kind)),
        singular: names.singular.unwrap_or_default(),
        short_names: names.short_names.unwrap_or_default(),
        categories: names.categories.unwrap_or_default(),
        has_status: kind.has_status,
        has_generation: true,
        create_on_update: false,
        unconditional_update: false,
        ttl: None,
        subresources: kind.scale.iter().map(|_| "scale".to_owned()).collect(),
        selectable_fields: names::kept(selectable(version)),
        alias: None,
        returns_deleted: false,
        deletes_collection: true,
        computed: false,
        built_in: false,
        scale: kind.scale.clone(),
        deprecation,
        ops: kind.clone(),
    }
}
