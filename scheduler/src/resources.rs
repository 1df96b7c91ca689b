//! Amounts of resources as numbers: what pods ask for, what nodes have.

use std::collections::BTreeMap;

use coracle_client::quantity::Quantity;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Wire;

/// Asked for by a container that names no cpu or memory, in scoring only, as upstream.
pub const DEFAULT_MILLI_CPU: i64 = 100;
pub const DEFAULT_MEMORY: i64 = 200 * 1024 * 1024;

/// More than any machine has, and little enough that the sum over a hundred thousand pods is a number.
const AMOUNT_MAX: i64 = i64::MAX >> 17;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    pub milli_cpu: i64,
    pub memory: i64,
    pub ephemeral_storage: i64,
    /// Extended resources and huge pages.
    pub scalar: BTreeMap<String, i64>,
}

fn amount(value: i64) -> i64 {
    value.clamp(0, AMOUNT_MAX)
}

impl Resources {
    /// Quantities that do not parse count as nothing; the API has validated them.
    pub fn of(list: Option<&BTreeMap<String, Wire>>) -> Self {
        let mut resources = Self::default();
        for (name, quantity) in list.into_iter().flatten() {
            let Ok(quantity) = Quantity::of(quantity) else { continue };
            match name.as_str() {
                "cpu" => resources.milli_cpu = amount(quantity.milli_value()),
                "memory" => resources.memory = amount(quantity.value()),
                "ephemeral-storage" => resources.ephemeral_storage = amount(quantity.value()),
                // Counted on its own.
                "pods" => {}
                _ => drop(resources.scalar.insert(name.clone(), amount(quantity.value()))),
            }
        }
        resources
    }

    pub fn add(&mut self, other: &Self) {
        self.milli_cpu += other.milli_cpu;
        self.memory += other.memory;
        self.ephemeral_storage += other.ephemeral_storage;
        for (name, amount) in &other.scalar {
            *self.scalar.entry(name.clone()).or_default() += amount;
        }
    }

    pub fn subtract(&mut self, other: &Self) {
        self.milli_cpu -= other.milli_cpu;
        self.memory -= other.memory;
        self.ephemeral_storage -= other.ephemeral_storage;
        for (name, amount) in &other.scalar {
            if let Some(have) = self.scalar.get_mut(name) {
                *have -= amount;
            }
        }
    }

    /// The larger of both, resource by resource.
    pub fn raise_to(&mut self, other: &Self) {
        self.milli_cpu = self.milli_cpu.max(other.milli_cpu);
        self.memory = self.memory.max(other.memory);
        self.ephemeral_storage = self.ephemeral_storage.max(other.ephemeral_storage);
        for (name, amount) in &other.scalar {
            let have = self.scalar.entry(name.clone()).or_default();
            *have = (*have).max(*amount);
        }
    }

    pub fn is_zero(&self) -> bool {
        self.milli_cpu == 0
            && self.memory == 0
            && self.ephemeral_storage == 0
            && self.scalar.values().all(|amount| *amount == 0)
    }
}
