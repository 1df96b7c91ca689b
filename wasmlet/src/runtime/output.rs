//! Runs a command in a container to its end, without a client: probes, hooks, `/run`.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::stdio::Stdio;
use super::{Container, ExecError};

const PIECES: usize = 8;

/// Ends the program when nobody waits for it any more.
struct Killed(Arc<dyn Container>);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill();
    }
}

/// The exit code and the first `limit` bytes of what it wrote, errors among the output.
pub async fn output_of(
    container: &Arc<dyn Container>,
    command: Vec<String>,
    limit: usize,
) -> Result<(i32, Vec<u8>), ExecError> {
    let (sender, mut pieces) = mpsc::channel(PIECES);
    let stdio = Stdio { stdin: None, stdout: Some(sender.clone()), stderr: Some(sender), terminal: false };
    let child = Killed(container.exec(command, stdio).await?);
    let read = async {
        let mut text = Vec::new();
        while let Some(piece) = pieces.recv().await {
            let room = limit.saturating_sub(text.len()).min(piece.len());
            text.extend_from_slice(&piece[..room]);
        }
        text
    };
    // The program's trap messages go to its error stream: that is at its end only when the program is let go.
    let ended = async move { child.0.wait().await.code };
    let (code, text) = tokio::join!(ended, read);
    Ok((code, text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Exit;
    use crate::runtime::Limits;
    use crate::runtime::Stats;
    use crate::runtime::stdio::{AttachError, Attached};

    /// Says a word and ends with 3. As real programs, it holds its error stream as long as it is there.
    struct Once(#[expect(dead_code)] Option<mpsc::Sender<bytes::Bytes>>);

    #[async_trait::async_trait]
    impl Container for Once {
        async fn wait(&self) -> Exit {
            let now = jiff::Timestamp::now();
            Exit {
                code: 3,
                reason: crate::runtime::ExitReason::Error,
                message: None,
                signal: 0,
                started_at: now,
                finished_at: now,
            }
        }
        async fn stop(&self, _grace: std::time::Duration) {}
        fn kill(&self) {}
        async fn exec(&self, command: Vec<String>, stdio: Stdio) -> Result<Arc<dyn Container>, ExecError> {
            if command.is_empty() {
                return Err(ExecError::NotInPath(String::new()));
            }
            for out in [&stdio.stdout, &stdio.stderr].into_iter().flatten() {
                out.send("word".into()).await.unwrap();
            }
            Ok(Arc::new(Once(stdio.stderr)))
        }
        fn attach(&self, _stdin: bool) -> Result<Attached, AttachError> {
            Err(AttachError::Ended)
        }
        fn resize(&self, _limits: Limits) {}
        fn stats(&self) -> Stats {
            Stats::default()
        }
    }

    #[tokio::test]
    async fn output_is_cut_and_the_code_is_told() {
        let container: Arc<dyn Container> = Arc::new(Once(None));
        let (code, text) = output_of(&container, vec!["x".into()], 6).await.unwrap();
        assert_eq!((code, text.as_slice()), (3, &b"wordwo"[..]));
        assert!(output_of(&container, Vec::new(), 6).await.is_err());
    }
}
