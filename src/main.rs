//! The `coracle` binary: one subcommand per shape of the cluster, and a few for looking at one.

mod options;
mod networks;
mod wasmlet_options;
mod memory;
mod process;
mod data_directory;
mod kubeconfig;
mod kubernetes_endpoints;
mod control_plane;
mod bootstrap;
mod agent;
mod guests;
mod join;
mod rotation;
mod up;
mod server;
mod server_leases;
mod node;
mod component;
mod monitoring;
mod virtual_nodes;
mod image;
mod cli;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Kubernetes for WebAssembly, small enough to carry.
#[derive(Parser)]
#[command(name = "coracle", version = concat!("v", env!("CARGO_PKG_VERSION")), propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// A whole cluster in one process: control plane and node
    Up(up::Up),
    /// The control plane: apiserver, scheduler, controllers
    Server(server::Server),
    /// A node that joins a server: wasmlet and proxy
    Node(node::Node),
    /// The apiserver alone
    Apiserver(server::Apiserver),
    /// The scheduler alone, against an apiserver
    Scheduler(component::Scheduler),
    /// The controllers alone, against an apiserver
    Controllers(component::Controllers),
    /// The cloud controllers alone, against an apiserver
    CloudControllerManager(component::CloudControllerManager),
    /// The wasmlet alone, against an apiserver
    Wasmlet(component::Wasmlet),
    /// The service proxy alone, against an apiserver
    Proxy(component::Proxy),
    /// Puts images into a node's store and looks at them
    Image(image::Image),
    /// Creates or changes objects from manifests
    Apply(cli::Apply),
    /// Shows objects
    Get(cli::Get),
    /// Prints a container's log
    Logs(cli::Logs),
    /// Deletes objects
    Delete(cli::Delete),
    /// Waits for a condition of objects
    Wait(cli::Wait),
    /// Prints the version
    Version,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Up(command) => command.run(),
        Command::Server(command) => command.run(),
        Command::Node(command) => command.run(),
        Command::Apiserver(command) => command.run(),
        Command::Scheduler(command) => command.run(),
        Command::Controllers(command) => command.run(),
        Command::CloudControllerManager(command) => command.run(),
        Command::Wasmlet(command) => command.run(),
        Command::Proxy(command) => command.run(),
        Command::Image(command) => command.run(),
        Command::Apply(command) => command.run(),
        Command::Get(command) => command.run(),
        Command::Logs(command) => command.run(),
        Command::Delete(command) => command.run(),
        Command::Wait(command) => command.run(),
        Command::Version => {
            println!(
                "Coracle: v{}\nKubernetes API: {}",
                env!("CARGO_PKG_VERSION"),
                coracle_client::KUBERNETES_VERSION
            );
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            process::complain(&error);
            ExitCode::FAILURE
        }
    }
}
