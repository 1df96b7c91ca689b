//! The real kubectl, in the versions that `make tools` put under target/tools.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::process::Process;
use super::repository;

/// The minor versions that the tests drive.
pub const KUBECTL_MINORS: [u32; 5] = [31, 32, 33, 34, 35];

fn tool(name: &str) -> PathBuf {
    let path = repository("target/tools").join(name);
    assert!(path.exists(), "{} is not there: run `make tools`", path.display());
    path
}

/// The directory whose `node_modules` has the npm package @kubernetes/client-node.
pub fn node_modules() -> PathBuf {
    tool("node/node_modules")
}

/// The interpreter that has the PyPI packages kubernetes and kopf.
pub fn python() -> PathBuf {
    tool("venv/bin/python")
}

pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    directory: PathBuf,
}

/// How one command ended.
#[derive(Debug)]
pub struct Output {
    pub command: String,
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// Its standard output, after it succeeded.
    pub fn success(self) -> String {
        assert!(
            self.code == Some(0),
            "{} ended with {:?}\n{}{}",
            self.command,
            self.code,
            self.stdout,
            self.stderr
        );
        self.stdout
    }

    /// Its standard error, after it failed.
    pub fn failure(self) -> String {
        assert!(self.code != Some(0), "{} succeeded\n{}", self.command, self.stdout);
        self.stderr
    }
}

impl Kubectl {
    pub fn new(minor: u32, kubeconfig: &Path, directory: &Path) -> Kubectl {
        Kubectl::of(&format!("kubectl.1.{minor}"), kubeconfig, directory)
    }

    /// Helm, which is driven in the same way.
    pub fn helm(major: u32, kubeconfig: &Path, directory: &Path) -> Kubectl {
        Kubectl::of(&format!("helm.{major}"), kubeconfig, directory)
    }

    fn of(program: &str, kubeconfig: &Path, directory: &Path) -> Kubectl {
        Kubectl { program: tool(program), kubeconfig: kubeconfig.to_owned(), directory: directory.to_owned() }
    }

    /// The command, ready for arguments. Its home is the cluster's directory, for kubectl caches discovery there.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.env("KUBECONFIG", &self.kubeconfig).env("HOME", &self.directory).current_dir(&self.directory);
        command
    }

    /// Runs a command that must succeed; words are split at spaces.
    pub fn run(&self, command: &str) -> String {
        self.attempt(&command.split(' ').collect::<Vec<_>>()).success()
    }

    pub fn attempt(&self, arguments: &[&str]) -> Output {
        self.finish(self.command().args(arguments), None)
    }

    pub fn with_input(&self, arguments: &[&str], input: &str) -> Output {
        self.finish(self.command().args(arguments), Some(input))
    }

    pub fn finish(&self, command: &mut Command, input: Option<&str>) -> Output {
        let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
        let mut child = command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        if let Some(input) = input {
            child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        }
        let output = child.wait_with_output().unwrap();
        Output {
            command: format!("{command:?}"),
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Starts a command that goes on until it is stopped: `--watch`, `logs -f`, `port-forward`.
    pub fn start(&self, arguments: &[&str]) -> Process {
        let mut command = self.command();
        command.args(arguments);
        Process::start(command, &self.directory.join("kubectl.log"))
    }
}
