//! wasi:config: the container's environment and the ConfigMaps mounted in it, as they are when an instance first asks.

use wasmtime::component::Linker;
use wasmtime_wasi_config::{WasiConfig, WasiConfigVariables};

use super::guest::ComponentState;
use super::mounted_objects;
use crate::runtime::{MountedObject, ObjectKind};

pub(super) fn add_to_linker(linker: &mut Linker<ComponentState>) -> wasmtime::Result<()> {
    wasmtime_wasi_config::add_to_linker(linker, |state: &mut ComponentState| {
        let ComponentState { config, keyvalue, .. } = state;
        let variables = config.get_or_insert_with(|| variables(&keyvalue.objects, &keyvalue.env));
        WasiConfig::from(&*variables)
    })
}

/// A key that is in both is the environment's; Secrets are not told by every key: wasi:keyvalue has them by name.
fn variables(objects: &[MountedObject], env: &[(String, String)]) -> WasiConfigVariables {
    let mut variables = WasiConfigVariables::new();
    for object in objects.iter().filter(|object| object.kind == ObjectKind::ConfigMap) {
        for key in mounted_objects::keys(object).unwrap_or_default() {
            // What is no text cannot be told in this interface.
            let value = mounted_objects::read(object, &key).ok().flatten();
            if let Some(text) = value.and_then(|value| String::from_utf8(value).ok()) {
                variables.insert(key, text);
            }
        }
    }
    for (key, value) in env {
        variables.insert(key, value);
    }
    variables
}
