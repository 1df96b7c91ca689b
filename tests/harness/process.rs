//! One running program: its lines as events, its end, and its log when a test fails.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

const LOG_TAIL_LINES: usize = 60;
const STOP_PATIENCE: Duration = Duration::from_secs(15);

/// Another build of the program to test or measure instead of the one that cargo made beside the test.
const OTHER_BINARY: &str = "CORACLE_TEST_BINARY";

/// The program under test.
pub fn coracle() -> Command {
    Command::new(std::env::var_os(OTHER_BINARY).unwrap_or_else(|| env!("CARGO_BIN_EXE_coracle").into()))
}

/// A child whose standard output is read line by line and whose standard error goes to a file.
pub struct Process {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
    log: PathBuf,
}

impl Process {
    pub fn start(mut command: Command, log: &Path) -> Process {
        let stderr = std::fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr);
        // SAFETY: prctl is async-signal-safe and touches only the child.
        unsafe {
            command.pre_exec(|| {
                // A test that is killed takes its programs with it.
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Process { child, lines, seen: Vec::new(), log: log.to_owned() }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line for which `wanted` holds; a panic with the log when the program ends or time runs out first.
    pub fn line(&mut self, what: &str, patience: Duration, wanted: impl Fn(&str) -> bool) -> String {
        if let Some(line) = self.seen.iter().find(|line| wanted(line)) {
            return line.clone();
        }
        let deadline = Instant::now() + patience;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if wanted(&line) {
                        return line;
                    }
                }
                Err(RecvTimeoutError::Timeout) => panic!("no line «{what}» within {patience:?}"),
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("the program ended before its line «{what}»: {:?}", self.child.wait())
                }
            }
        }
    }

    pub fn signal(&self, signal: libc::c_int) {
        // SAFETY: the child has not been waited for, so its id cannot belong to another process.
        unsafe { libc::kill(self.child.id() as libc::pid_t, signal) };
    }

    /// Kills it the hard way and waits for its end.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub fn running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Its exit status, or None when it still runs after `patience`.
    pub fn wait(&mut self, patience: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + patience;
        // The reader's end of the channel closes when the child's standard output does: that is the event to wait for.
        while let Ok(line) = self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            self.seen.push(line);
        }
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return Some(status);
            }
            if Instant::now() > deadline {
                return None;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Asks it to stop as an operator would; the status it ends with.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(libc::SIGTERM);
        let started = Instant::now();
        match self.wait(STOP_PATIENCE) {
            Some(status) => status,
            None => panic!("still running {:?} after SIGTERM", started.elapsed()),
        }
    }

    /// The lines of standard output read so far.
    pub fn seen(&self) -> String {
        self.seen.join("\n")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            let tail = lines.len().saturating_sub(LOG_TAIL_LINES);
            eprintln!("---- standard output of pid {}\n{}", self.pid(), self.seen.join("\n"));
            eprintln!("---- the end of {}\n{}\n----", self.log.display(), lines[tail..].join("\n"));
        }
        if self.running() {
            self.signal(libc::SIGTERM);
            if self.wait(STOP_PATIENCE).is_none() {
                eprintln!("pid {} ignored SIGTERM for {STOP_PATIENCE:?}; killing it", self.pid());
                self.kill();
            }
        }
    }
}
