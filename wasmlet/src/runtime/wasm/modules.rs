//! From an image to something that can be instantiated: detected, compiled once, mapped, linked, kept.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{OnceCell, Semaphore};
use wasmtime::component::{Component, Linker as ComponentLinker};
use wasmtime::{Engine, InstancePre, Linker, Module};
use wasmtime_wasi::I32Exit;
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi::p3::bindings::CommandPre as CommandP3Pre;
use wasmtime_wasi_http::handler::ProxyPre as SharedPre;
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p3::bindings::ServicePre;

use super::config;
use super::engine::{EngineError, compatibility};
use super::guest::{ComponentState, ModuleState};
use super::keyvalue;
use super::p1_functions;
use super::p1_sockets::PREVIEW1;
use super::{sockets, sockets_p3, tls};
use crate::images::compiled::{CompiledCache, CompiledKey};
use crate::images::inspect::{Kind, inspect};
use crate::images::{LocalImage, digest};
use crate::runtime::PrepareError;

/// By the version of wasi:http.
pub(super) type HttpPre = SharedPre<ComponentState>;

/// A module with its imports resolved: an instance is 2 us away.
pub(super) enum Prepared {
    Module {
        pre: InstancePre<ModuleState>,
        /// It may take connections from listeners that it finds open.
        accepts: bool,
    },
    Command(CommandPre<ComponentState>),
    CommandP3(CommandP3Pre<ComponentState>),
    Http(HttpPre),
}

/// Prepared modules that no container uses are kept up to this many: they are mapped files, and a restart is quick.
const KEPT_MAX: usize = 64;
/// Compilations at once. Each uses every CPU it is given, at low priority.
const COMPILING_MAX: usize = 2;
/// nice(1) of the compiling threads.
/// (A third of a guest's share: more would let guests that spin hold up every new image.)
const COMPILER_NICE: i32 = 5;

pub(super) struct Modules {
    engine: Engine,
    compatibility: String,
    cache: CompiledCache,
    module_linker: Linker<ModuleState>,
    component_linker: ComponentLinker<ComponentState>,
    known: Mutex<Known>,
    compiling: Semaphore,
}

/// One cell per digest: whoever asks while it is being filled waits for it.
#[derive(Default)]
struct Known {
    cells: HashMap<String, Entry>,
    clock: u64,
}

struct Entry {
    cell: Arc<OnceCell<Arc<Prepared>>>,
    used: u64,
}

impl Known {
    fn cell(&mut self, digest: &str) -> Arc<OnceCell<Arc<Prepared>>> {
        self.clock += 1;
        let used = self.clock;
        let entry = self
            .cells
            .entry(digest.to_owned())
            .or_insert_with(|| Entry { cell: Arc::new(OnceCell::new()), used });
        entry.used = used;
        let cell = entry.cell.clone();
        if self.cells.len() > KEPT_MAX {
            let oldest = self
                .cells
                .iter()
                .filter(|(_, entry)| entry.cell.initialized())
                .min_by_key(|(_, entry)| entry.used)
                .map(|(digest, _)| digest.clone());
            if let Some(oldest) = oldest {
                self.cells.remove(&oldest);
            }
        }
        cell
    }
}

impl Modules {
    pub fn new(engine: &Engine, cache: CompiledCache) -> Result<Self, EngineError> {
        let mut module_linker = Linker::new(engine);
        wasmtime_wasi::p1::add_to_linker_async(&mut module_linker, |state: &mut ModuleState| &mut state.wasi)
            .map_err(EngineError::Linker)?;
        // wasmtime's own traps on a status above 125; a process may exit with any.
        module_linker.allow_shadowing(true);
        module_linker
            .func_wrap(PREVIEW1, "proc_exit", |code: i32| -> wasmtime::Result<()> {
                Err(wasmtime::Error::new(I32Exit(code)))
            })
            .map_err(EngineError::Linker)?;
        p1_functions::add_to_linker(&mut module_linker).map_err(EngineError::Linker)?;
        let mut component_linker = ComponentLinker::new(engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut component_linker).map_err(EngineError::Linker)?;
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut component_linker)
            .map_err(EngineError::Linker)?;
        sockets::add_to_linker(&mut component_linker).map_err(EngineError::Linker)?;
        wasmtime_wasi::p3::add_to_linker(&mut component_linker).map_err(EngineError::Linker)?;
        wasmtime_wasi_http::p3::add_to_linker(&mut component_linker).map_err(EngineError::Linker)?;
        sockets_p3::add_to_linker(&mut component_linker).map_err(EngineError::Linker)?;
        config::add_to_linker(&mut component_linker).map_err(EngineError::Linker)?;
        keyvalue::add_to_linker(&mut component_linker).map_err(EngineError::Linker)?;
        tls::add_to_linker(&mut component_linker).map_err(EngineError::Linker)?;
        Ok(Modules {
            engine: engine.clone(),
            compatibility: compatibility(engine),
            cache,
            module_linker,
            component_linker,
            known: Mutex::new(Known::default()),
            compiling: Semaphore::new(COMPILING_MAX),
        })
    }

    /// What is ready without any work.
    pub fn get(&self, wasm_digest: &str) -> Option<Arc<Prepared>> {
        let mut known = self.known.lock();
        known.clock += 1;
        let now = known.clock;
        let entry = known.cells.get_mut(wasm_digest)?;
        entry.used = now;
        entry.cell.get().cloned()
    }

    pub fn forget(&self, wasm_digest: &str) {
        self.known.lock().cells.remove(wasm_digest);
    }

    /// `bytes`: the file, where it is not the one at the image's path.
    pub async fn prepare(
        self: Arc<Self>,
        image: &LocalImage,
        bytes: Option<Bytes>,
    ) -> Result<Arc<Prepared>, PrepareError> {
        let cell = self.known.lock().cell(&image.wasm_digest);
        let prepared = cell
            .get_or_try_init(|| async {
                let io = |step, reason: String| PrepareError::Io {
                    reference: image.reference.clone(),
                    step,
                    reason,
                };
                let _permit =
                    self.compiling.acquire().await.map_err(|error| io("compile", error.to_string()))?;
                let (modules, image) = (self.clone(), image.clone());
                let reference = image.reference.clone();
                let work = tokio::task::spawn_blocking(move || match bytes {
                    Some(bytes) => modules.prepare_bytes(&image, &bytes),
                    None => modules.prepare_file(&image),
                });
                work.await.unwrap_or_else(|error| {
                    Err(PrepareError::Compile { reference, reason: format!("the compiler failed: {error}") })
                })
            })
            .await?;
        Ok(prepared.clone())
    }

    fn prepare_file(&self, image: &LocalImage) -> Result<Arc<Prepared>, PrepareError> {
        let reference = || image.reference.clone();
        let bytes = std::fs::read(&image.wasm_path).map_err(|error| PrepareError::Io {
            reference: reference(),
            step: "read the module",
            reason: error.to_string(),
        })?;
        // Flash forgets: what is compiled is what was pulled, or nothing is.
        let found = digest::of_bytes(&bytes);
        if found != image.wasm_digest {
            // Without its file the image counts as absent, and the next start pulls it again.
            let _ = std::fs::remove_file(&image.wasm_path);
            return Err(PrepareError::Damaged {
                reference: reference(),
                reason: format!("expected {}, found {found}", image.wasm_digest),
            });
        }
        self.prepare_bytes(image, &bytes)
    }

    fn prepare_bytes(&self, image: &LocalImage, bytes: &[u8]) -> Result<Arc<Prepared>, PrepareError> {
        let reference = || image.reference.clone();
        let inspection = inspect(bytes)
            .map_err(|error| PrepareError::Invalid { reference: reference(), reason: error.to_string() })?;
        if let Kind::Unsupported(reason) = inspection.kind {
            return Err(PrepareError::UnsupportedWorld { reference: reference(), reason });
        }
        let code = self.machine_code(image, bytes, &inspection.kind)?;
        self.link(image, &code, &inspection.kind).map(Arc::new)
    }

    /// The compiled module's file: from the cache, or compiled now and kept there.
    fn machine_code(&self, image: &LocalImage, bytes: &[u8], kind: &Kind) -> Result<File, PrepareError> {
        let key =
            CompiledKey { wasm_digest: image.wasm_digest.clone(), compatibility: self.compatibility.clone() };
        if let Some(file) = self.cache.load(&key) {
            return Ok(file);
        }
        let started = std::time::Instant::now();
        let code = self.compile(bytes, kind).map_err(|error| PrepareError::Compile {
            reference: image.reference.clone(),
            reason: format!("{error:#}"),
        })?;
        tracing::debug!(image = %image.reference, took = ?started.elapsed(), bytes = code.len(), "compiled");
        self.cache.store(&key, &code).map_err(|error| PrepareError::Io {
            reference: image.reference.clone(),
            step: "keep the compiled module",
            reason: error.to_string(),
        })
    }

    fn compile(&self, bytes: &[u8], kind: &Kind) -> wasmtime::Result<Vec<u8>> {
        // A pool for this compilation: its threads are gone, and their memory with them, when it is done.
        let pool = rayon::ThreadPoolBuilder::new()
            .thread_name(|index| format!("wasm-compile-{index}"))
            .start_handler(|_| lower_priority())
            .build()
            .map_err(wasmtime::Error::new)?;
        let code = pool.install(|| match kind {
            Kind::Module => self.engine.precompile_module(bytes),
            _ => self.engine.precompile_component(bytes),
        });
        drop(pool);
        give_memory_back();
        code
    }

    /// Mapped from its file; copied to memory where a sandbox keeps /proc/self/fd from ordinary users.
    fn load_component(&self, code: &File) -> wasmtime::Result<Component> {
        let path = format!("/proc/self/fd/{}", code.as_raw_fd());
        if File::open(&path).is_ok() {
            // SAFETY: as in `link`; components are loaded by path only, and this path is the verified descriptor.
            return unsafe { Component::deserialize_file(&self.engine, path) };
        }
        let mut bytes = Vec::new();
        let mut code = code;
        code.rewind()?;
        code.read_to_end(&mut bytes)?;
        // SAFETY: as in `link`.
        unsafe { Component::deserialize(&self.engine, bytes) }
    }

    fn link(&self, image: &LocalImage, code: &File, kind: &Kind) -> Result<Prepared, PrepareError> {
        let reference = || image.reference.clone();
        let load = |error: wasmtime::Error| PrepareError::Compile {
            reference: reference(),
            reason: format!("load the compiled module: {error:#}"),
        };
        let unmet = |error: wasmtime::Error| PrepareError::UnmetImport {
            reference: reference(),
            reason: format!("{error:#}"),
        };
        match kind {
            Kind::Module => {
                let file = code.try_clone().map_err(|error| load(error.into()))?;
                // SAFETY: the file was written by this node from `precompile_module`, and its checksum was verified
                // on this very descriptor, so a rename under its path changes nothing.
                let module = unsafe { Module::deserialize_open_file(&self.engine, file) }.map_err(load)?;
                let pre = self.module_linker.instantiate_pre(&module).map_err(unmet)?;
                let accepts = module
                    .imports()
                    .any(|import| import.module() == PREVIEW1 && import.name() == "sock_accept");
                Ok(Prepared::Module { pre, accepts })
            }
            Kind::Command | Kind::Http | Kind::CommandP3 | Kind::HttpP3 => {
                let component = self.load_component(code).map_err(load)?;
                let pre = self.component_linker.instantiate_pre(&component).map_err(unmet)?;
                let world = |error: wasmtime::Error| PrepareError::UnsupportedWorld {
                    reference: reference(),
                    reason: format!("{error:#}"),
                };
                match kind {
                    Kind::Http => ProxyPre::new(pre).map(HttpPre::P2).map(Prepared::Http),
                    Kind::HttpP3 => ServicePre::new(pre).map(HttpPre::P3).map(Prepared::Http),
                    Kind::CommandP3 => CommandP3Pre::new(pre).map(Prepared::CommandP3),
                    _ => CommandPre::new(pre).map(Prepared::Command),
                }
                .map_err(world)
            }
            Kind::Unsupported(reason) => {
                Err(PrepareError::UnsupportedWorld { reference: reference(), reason: reason.clone() })
            }
        }
    }
}

/// Compiling must not delay what is being served.
fn lower_priority() {
    // SAFETY: plain syscall; on Linux, who = 0 is the calling thread.
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, COMPILER_NICE);
    }
}

/// A compilation frees some tens of megabytes that glibc would keep for the life of the node.
fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no precondition.
    unsafe {
        libc::malloc_trim(0);
    }
}
