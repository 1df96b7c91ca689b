//! One client of exec or attach, whatever protocol it speaks: streams in, streams out, and how it ended.

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

/// Pieces of output on their way to the client, per session.
pub const OUTPUT_QUEUE: usize = 16;
/// Pieces of input on their way to the guest.
pub const INPUT_QUEUE: usize = 16;

/// Which streams a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wanted {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

/// The protocol's end of it is moved by a future of its own; `gone` is cancelled when the client is.
pub struct Session {
    pub stdin: Option<mpsc::Receiver<Bytes>>,
    pub stdout: Option<mpsc::Sender<Bytes>>,
    pub stderr: Option<mpsc::Sender<Bytes>>,
    /// The client's terminal, when it has one and has said so.
    pub size: watch::Receiver<Option<Size>>,
    pub gone: CancellationToken,
    /// The last word: sent when all output has been.
    pub end: oneshot::Sender<Ended>,
}

/// Of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Size {
    pub width: u16,
    pub height: u16,
}

/// How a program or an attached container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    Exited(i32),
    Failed(String),
}

impl Ended {
    /// The Status that goes over the error stream.
    pub fn status(&self) -> Value {
        match self {
            Ended::Exited(0) => json!({"metadata": {}, "status": "Success"}),
            Ended::Exited(code) => json!({
                "metadata": {},
                "status": "Failure",
                "message": self.text(),
                "reason": "NonZeroExitCode",
                "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
            }),
            Ended::Failed(message) => json!({
                "metadata": {},
                "status": "Failure",
                "message": format!("Internal error occurred: {message}"),
                "reason": "InternalError",
                "details": {"causes": [{"message": message}]},
                "code": 500,
            }),
        }
    }

    /// What clients older than the Status are told; empty for a success.
    pub fn text(&self) -> String {
        match self {
            Ended::Exited(0) => String::new(),
            Ended::Exited(code) => {
                format!(
                    "command terminated with non-zero exit code: error executing command, exit code {code}"
                )
            }
            Ended::Failed(message) => message.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses() {
        assert_eq!(Ended::Exited(0).status()["status"], "Success");
        let status = Ended::Exited(3).status();
        assert_eq!(status["reason"], "NonZeroExitCode");
        assert_eq!(status["details"]["causes"][0], json!({"reason": "ExitCode", "message": "3"}));
        assert_eq!(Ended::Failed("x".into()).status()["message"], "Internal error occurred: x");
        assert_eq!(Ended::Exited(0).text(), "");
    }
}
