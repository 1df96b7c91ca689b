//! Probes and lifecycle hooks.

use k8s_openapi::api::core::v1::{
    ExecAction, GRPCAction, HTTPGetAction, Lifecycle, LifecycleHandler, Probe, SleepAction, TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::field_error::{Errors, Path};
use crate::validation::{self, given};

const SCHEMES: &[&str] = &["HTTP", "HTTPS"];

/// What a probe or a hook does.
struct Handler<'a> {
    exec: Option<&'a ExecAction>,
    http_get: Option<&'a HTTPGetAction>,
    tcp_socket: Option<&'a TCPSocketAction>,
    grpc: Option<&'a GRPCAction>,
    sleep: Option<&'a SleepAction>,
}

pub(super) fn liveness(probe: &Probe, grace_seconds: Option<i64>, path: &Path<'_>, errors: &mut Errors) {
    validate(probe, grace_seconds, path, errors);
    if let Some(successes) = probe.success_threshold.filter(|s| *s != 1) {
        errors.invalid(path.child("successThreshold"), successes, "must be 1");
    }
}

pub(super) fn readiness(probe: &Probe, path: &Path<'_>, errors: &mut Errors) {
    validate(probe, None, path, errors);
    if let Some(seconds) = probe.termination_grace_period_seconds {
        errors.invalid(
            path.child("terminationGracePeriodSeconds"),
            seconds,
            "must not be set for readinessProbes",
        );
    }
}

fn validate(probe: &Probe, grace_seconds: Option<i64>, path: &Path<'_>, errors: &mut Errors) {
    let handler = Handler {
        exec: probe.exec.as_ref(),
        http_get: probe.http_get.as_ref(),
        tcp_socket: probe.tcp_socket.as_ref(),
        grpc: probe.grpc.as_ref(),
        sleep: None,
    };
    validate_handler(&handler, grace_seconds, path, errors);
    for (field, value) in [
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ] {
        validation::non_negative(path.child(field), value.unwrap_or_default(), errors);
    }
    if let Some(seconds) = probe.termination_grace_period_seconds.filter(|s| *s <= 0) {
        errors.invalid(path.child("terminationGracePeriodSeconds"), seconds, "must be greater than 0");
    }
}

pub(super) fn lifecycle(
    lifecycle: &Lifecycle,
    grace_seconds: Option<i64>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    for (field, handler) in [("postStart", &lifecycle.post_start), ("preStop", &lifecycle.pre_stop)] {
        if let Some(LifecycleHandler { exec, http_get, sleep, tcp_socket }) = handler {
            let handler = Handler {
                exec: exec.as_ref(),
                http_get: http_get.as_ref(),
                tcp_socket: tcp_socket.as_ref(),
                grpc: None,
                sleep: sleep.as_ref(),
            };
            validate_handler(&handler, grace_seconds, &path.child(field), errors);
        }
    }
}

fn validate_handler(handler: &Handler<'_>, grace_seconds: Option<i64>, path: &Path<'_>, errors: &mut Errors) {
    let set = [
        ("exec", handler.exec.is_some()),
        ("httpGet", handler.http_get.is_some()),
        ("tcpSocket", handler.tcp_socket.is_some()),
        ("grpc", handler.grpc.is_some()),
        ("sleep", handler.sleep.is_some()),
    ];
    let mut types = set.iter().filter(|s| s.1).map(|s| s.0);
    if types.next().is_none() {
        errors.required(path, "must specify a handler type");
    }
    for further in types {
        errors.forbidden(path.child(further), "may not specify more than 1 handler type");
    }
    if let Some(exec) = handler.exec
        && exec.command.as_ref().is_none_or(Vec::is_empty)
    {
        errors.required(path.child("exec").child("command"), "");
    }
    if let Some(http) = handler.http_get {
        let path = path.child("httpGet");
        if given(&http.path).is_none() {
            errors.required(path.child("path"), "");
        }
        port(&http.port, &path.child("port"), errors);
        let scheme = http.scheme.as_deref().unwrap_or_default();
        if !SCHEMES.contains(&scheme) {
            errors.not_supported(path.child("scheme"), scheme, SCHEMES);
        }
        for (i, header) in http.http_headers.iter().flatten().enumerate() {
            errors.check(path.child("httpHeaders").index(i).child("name"), &header.name, header_name);
        }
    }
    if let Some(tcp) = handler.tcp_socket {
        port(&tcp.port, &path.child("tcpSocket").child("port"), errors);
    }
    if let Some(grpc) = handler.grpc
        && let Err(detail) = validation::port_number(grpc.port)
    {
        errors.invalid(path.child("grpc").child("port"), grpc.port, detail);
    }
    if let Some(sleep) = handler.sleep {
        let most = grace_seconds.unwrap_or(i64::MAX);
        if sleep.seconds < 0 || sleep.seconds > most {
            let detail = format!("must be non-negative and less than terminationGracePeriodSeconds ({most})");
            errors.invalid(path.child("sleep"), sleep.seconds, detail);
        }
    }
}

/// A number, or the name of one of the container's ports.
fn port(port: &IntOrString, path: &Path<'_>, errors: &mut Errors) {
    match port {
        IntOrString::Int(number) => {
            if let Err(detail) = validation::port_number(*number) {
                errors.invalid(path, number, detail);
            }
        }
        IntOrString::String(name) => errors.check(path, name, validation::port_name),
    }
}

fn header_name(name: &str) -> Result<(), String> {
    if !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        Ok(())
    } else {
        Err("a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')".into())
    }
}
