//! Several small machines on one network: a network namespace each, joined by a bridge.

use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use nix::sched::{CloneFlags, unshare};

use super::namespace::run;

type Job = Box<dyn FnOnce() + Send>;

/// The network that the machines stand on; it lives in the namespace of the thread that made it.
pub struct Network {
    machines: u8,
}

impl Network {
    /// Gives the calling thread a network of its own with a bridge; itself it is `10.99.0.1`.
    pub fn new() -> Network {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace needs root");
        run("ip", &["link", "set", "lo", "up"]);
        run("ip", &["link", "add", "bridge0", "type", "bridge"]);
        run("ip", &["address", "add", "10.99.0.1/24", "dev", "bridge0"]);
        run("ip", &["link", "set", "bridge0", "up"]);
        Network { machines: 0 }
    }

    pub fn address(&self) -> &'static str {
        "10.99.0.1"
    }

    /// One more machine on the bridge.
    pub fn machine(&mut self) -> Machine {
        self.machines += 1;
        let number = self.machines;
        let (jobs, queue) = channel::<Job>();
        let (send_thread, thread_number) = channel();
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace needs root");
            run("ip", &["link", "set", "lo", "up"]);
            // SAFETY: gettid has no conditions.
            let _ = send_thread.send(unsafe { libc::gettid() });
            for job in queue {
                job();
            }
        });
        let namespace = thread_number.recv().expect("the machine's thread").to_string();
        let (port, link) = (format!("port{number}"), "eth0");
        run("ip", &["link", "add", &port, "type", "veth", "peer", "name", link, "netns", &namespace]);
        run("ip", &["link", "set", &port, "master", "bridge0", "up"]);
        let address = format!("10.99.0.{}", 10 + number);
        let machine = Machine { address: address.clone(), port, jobs: Some(jobs), thread: Some(thread) };
        machine.run(move || {
            run("ip", &["address", "add", &format!("{address}/24"), "dev", link]);
            run("ip", &["link", "set", link, "up"]);
            run("ip", &["route", "add", "default", "via", "10.99.0.1"]);
        });
        machine
    }
}

/// A machine; what [`Machine::run`] runs, and all it starts, has its network.
pub struct Machine {
    pub address: String,
    port: String,
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Machine {
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (send_answer, answer) = channel();
        let job: Job = Box::new(move || {
            let _ = send_answer.send(job());
        });
        self.jobs.as_ref().expect("it runs until it is dropped").send(job).expect("the machine's thread");
        answer.recv().expect("the job panicked")
    }

    /// Pulls the network cable.
    pub fn unplug(&self) {
        run("ip", &["link", "set", &self.port, "down"]);
    }

    pub fn plug_in(&self) {
        run("ip", &["link", "set", &self.port, "up"]);
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
