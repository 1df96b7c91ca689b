//! Runs a program in the sandbox of a running container: a new instance with the container's mounts, network and limits.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::container::{Control, WasmContainer};
use super::programs::{self, Program};
use crate::runtime::stdio::Stdio;
use crate::runtime::{Container, DiscardLogs, ExecError, LogSink, Stream};

/// What a program's trap is told to.
struct ClientErrors(mpsc::Sender<Bytes>);

impl LogSink for ClientErrors {
    fn write(&self, _stream: Stream, bytes: &[u8]) {
        // A client that is so far behind learns the exit code.
        let _ = self.0.try_send(Bytes::copy_from_slice(bytes));
    }
}

pub(super) async fn exec(
    container: &WasmContainer,
    command: Vec<String>,
    stdio: Stdio,
) -> Result<Arc<dyn Container>, ExecError> {
    let Some(sandbox) = container.sandbox.as_ref().filter(|_| !container.control.has_ended()) else {
        return Err(ExecError::NotRunning);
    };
    let Program { prepared, argv } = programs::find(sandbox, command).await?;
    let log: Arc<dyn LogSink> = match &stdio.stderr {
        Some(stderr) => Arc::new(ClientErrors(stderr.clone())),
        None => Arc::new(DiscardLogs),
    };
    let setup = Arc::new(sandbox.setup.beside(argv, stdio)?);
    let child = Arc::new(WasmContainer {
        control: Arc::new(Control::new(log, None)),
        cpu: container.cpu.clone(),
        memory: setup.memory.clone(),
        net: setup.net.clone(),
        serves_http: false,
        sandbox: None,
    });
    sandbox.runtime.start_command(&prepared, setup, super::Open::default(), &child)?;
    // A container takes everything in it along.
    let (parent, control) = (container.control.clone(), child.control.clone());
    sandbox.runtime.guests.spawn(async move {
        tokio::select! {
            () = parent.ended() => control.kill.cancel(),
            () = control.ended() => {}
        }
    });
    Ok(child)
}
