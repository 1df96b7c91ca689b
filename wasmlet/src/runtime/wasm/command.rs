//! Runs a command (preview 1 module or preview 2 component) from its first instruction to its exit.

use std::future::poll_fn;

use wasmtime::component::Accessor;
use wasmtime::{Engine, InstancePre};
use wasmtime_wasi::I32Exit;
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi::p3::bindings::CommandPre as CommandP3Pre;

use super::container::Outcome;
use super::guest::{ComponentState, FoundOpen, GuestSetup, ModuleState};
use super::memory::{MemoryAccount, OomKilled};
use crate::runtime::StartError;

pub(super) async fn run_module(
    engine: Engine,
    pre: InstancePre<ModuleState>,
    setup: &GuestSetup,
    found_open: FoundOpen,
) -> Outcome {
    let mut store = match setup.module_store(&engine, found_open) {
        Ok(store) => store,
        Err(error) => return not_started(error),
    };
    let result = async {
        let instance = pre.instantiate_async(&mut store).await?;
        let start = instance.get_typed_func::<(), ()>(&mut store, "_start")?;
        start.call_async(&mut store, ()).await
    }
    .await;
    match result {
        Ok(()) => Outcome::Exited(0),
        Err(error) => outcome_of(error, &setup.memory),
    }
}

pub(super) async fn run_component(
    engine: Engine,
    pre: CommandPre<ComponentState>,
    setup: &GuestSetup,
) -> Outcome {
    let mut store = match setup.component_store(&engine) {
        Ok(store) => store,
        Err(error) => return not_started(error),
    };
    let result = async {
        let command = pre.instantiate_async(&mut store).await?;
        command.wasi_cli_run().call_run(&mut store).await
    }
    .await;
    match result {
        Ok(Ok(())) => Outcome::Exited(0),
        Ok(Err(())) => Outcome::Exited(1),
        Err(error) => outcome_of(error, &setup.memory),
    }
}

pub(super) async fn run_p3(engine: Engine, pre: CommandP3Pre<ComponentState>, setup: &GuestSetup) -> Outcome {
    let mut store = match setup.component_store(&engine) {
        Ok(store) => store,
        Err(error) => return not_started(error),
    };
    let result = async {
        let command = pre.instantiate_async(&mut store).await?;
        let run = async |accessor: &Accessor<ComponentState>| {
            let result = command.wasi_cli_run().call_run(accessor).await?;
            // What it left running goes on: a guest that wants to end at once says so by wasi:cli/exit.
            poll_fn(|cx| accessor.poll_no_interesting_tasks(cx)).await;
            Ok(result)
        };
        store.run_concurrent(run).await?
    }
    .await;
    match result {
        Ok(Ok(())) => Outcome::Exited(0),
        Ok(Err(())) => Outcome::Exited(1),
        Err(error) => outcome_of(error, &setup.memory),
    }
}

/// A mount that was there when the container was made, and is not any more.
fn not_started(error: StartError) -> Outcome {
    Outcome::Failed(wasmtime::Error::new(error))
}

pub(super) fn outcome_of(error: wasmtime::Error, memory: &MemoryAccount) -> Outcome {
    if let Some(exit) = error.downcast_ref::<I32Exit>() {
        return Outcome::Exited(exit.0);
    }
    if let Some(oom) = error.downcast_ref::<OomKilled>() {
        return Outcome::OutOfMemory(*oom);
    }
    if memory.exceeded() {
        // The refusal surfaced as another error on its way through the guest or the instantiation.
        return Outcome::OutOfMemory(memory.oom());
    }
    if error.is::<wasmtime::Trap>() {
        memory.activity().trapped();
    }
    Outcome::Failed(error)
}
