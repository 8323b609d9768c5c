"""Checks, before a run starts, everything that it needs. Each failed check names a remedy."""

import os
import shutil
import subprocess
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import psutil
from docker.errors import DockerException
from docker.utils import version_lt
from urllib3.exceptions import HTTPError

from kvci.demo.model import plain
from kvci.errors import UserError
from kvci.files import Document, sha256_of_file
from kvci.host import ended, gpu, lock_gpus
from kvci.plan import select
from kvci.run.sandboxes import KINDS
from kvci.serve.gguf import Header, cache_mib, header, locate
from kvci.serve.gguf import check as check_model
from kvci.serve.server import Server, ServerFailed, resolve
from kvci.spec import Model, Spec
from kvci.tasks.dataset import by_id, is_calibration, load
from kvci.tasks.instance import Instance
from kvci.units import counted

SKEW_MAX_S = 60.0
NTP = "Set the clock with NTP (timedatectl set-ntp 1)."
UNKNOWN_CLOCK = "not checked: timedatectl reports nothing"
OTHER_MEMORY_MIB = 2048
"""Memory that a run needs in addition to the weights and one sandbox for each slot."""
OTHER_GPU_MEMORY_MIB = 1024
"""GPU memory for compute buffers and the driver, in addition to the weights and the KV cache."""
RUN_FOLDER_BYTES = 1 << 30
"""Free space that a run folder needs."""
DOCKER_MIN = "1.41"
"""The API version of Docker 20.10. kvci is not tested with an older Docker."""
WIDTH = 80
"""The width of the printed text, in columns."""


class Check(Document):
    """The result of a check. `remedy` says what to do; it is empty if the check passed."""

    name: str
    found: str
    remedy: str = ""

    def text(self) -> str:
        """Return the result as text: state, name and finding, then the remedy on new lines."""
        head = f"{'FAIL' if self.remedy else 'ok':4}  {self.name:14} "
        wrapper = textwrap.TextWrapper(
            WIDTH,
            subsequent_indent=" " * len(head),
            break_long_words=False,
            break_on_hyphens=False,
        )
        lines: list[str] = []
        for part in filter(None, (self.found, self.remedy)):
            wrapper.initial_indent = wrapper.subsequent_indent if lines else head
            lines += wrapper.wrap(part)
        return "\n".join(lines)

    def line(self) -> str:
        """Return the result in one line."""
        return f"{self.name}: {'; '.join(filter(None, (self.found, self.remedy)))}"


def examine(spec: Spec) -> Iterator[Check]:
    """Run the checks that this specification needs, and yield each result at once."""
    spec = spec.model_copy(update={"engine": resolve(spec.engine)})
    instances: list[Instance] = []

    def dataset() -> tuple[str, str]:
        known = by_id(load(spec.dataset))
        instances.extend(known[name] for name in select(list(known), spec))
        return f"{counted(len(instances), 'instance')} of {spec.dataset}", ""

    yield _check("dataset", dataset)
    file = _ModelFile(spec)
    yield _check("model", lambda: _model(spec, file))
    yield _check("GPU", lambda: _gpu(spec, file))
    yield _check("memory", lambda: _memory(spec, file))
    yield _check("llama-server", lambda: _server(spec))
    yield _check("other servers", _other_servers)
    yield _check("run folder", lambda: _folder(spec))
    yield from CHECKS[_sandbox(spec, instances)](spec, instances)


def _sandbox(spec: Spec, instances: Sequence[Instance]) -> str:
    """Return the name of the sandbox that the run will use."""
    if spec.sandbox != "auto":
        return spec.sandbox
    if not instances:  # the dataset failed to load, so only its name is known
        return "bwrap" if is_calibration(spec.dataset) else "docker"
    return next(name for name, kind in KINDS.items() if not kind.unfit(instances))


def _bwrap_checks(spec: Spec, instances: Sequence[Instance]) -> Iterator[Check]:
    yield _check("sandbox", _bubblewrap)
    yield _check("clock", _clock)


def _docker_checks(spec: Spec, instances: Sequence[Instance]) -> Iterator[Check]:
    yield _check("Docker", _docker)
    names = list(dict.fromkeys(one.row.image for one in instances if not one.files))
    missing = cache(lambda: _missing(names))  # asks the Docker engine about every image
    yield _check("Docker's disk", lambda: _disk(spec, names, missing()))
    yield _check("leftovers", _leftovers)
    yield _check("images", lambda: _images(names, missing()))
    yield _check("registry", lambda: _registry(spec, missing()))
    yield _check("clock", lambda: _clock(next(iter(names), None), spec.mirror))


CHECKS: dict[str, Callable[[Spec, Sequence[Instance]], Iterator[Check]]] = {
    "bwrap": _bwrap_checks,
    "docker": _docker_checks,
}
"""Name of a sandbox -> its checks."""


def _check(name: str, look: Callable[[], tuple[str, str]]) -> Check:
    try:
        found, remedy = look()
    except UserError as error:
        return Check(name=name, found="", remedy=str(error))
    except (OSError, DockerException, HTTPError) as error:
        return Check(
            name=name,
            found=f"the check failed: {str(error)[:200]}",
            remedy="Fix this, then run kvci doctor again.",
        )
    return Check(name=name, found=found, remedy=remedy)


class _ModelFile:
    """The model's file. It may be large, so it is located and parsed once for all checks."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec

    @cached_property
    def path(self) -> Path:
        return locate(self._spec.model, int(1e9 * self._spec.disk_reserve_gb))

    @cached_property
    def header(self) -> Header:
        return header(self.path)

    @property
    def mib(self) -> int:
        return self.path.stat().st_size >> 20


def _model(spec: Spec, file: _ModelFile) -> tuple[str, str]:
    check_model(spec, file.header)
    sha256 = spec.model.sha256 or sha256_of_file(file.path)  # kvci has checked a given sha256
    return f"{file.path.name}, {file.mib} MiB, sha256 {sha256[:12]}", ""


def _gpu(spec: Spec, file: _ModelFile) -> tuple[str, str]:
    """Check that the GPU has enough free memory and that no other program uses it.

    Two programs on one GPU change each other's speed and memory.
    """
    found = gpu()
    if not found:
        if shutil.which("nvidia-smi"):
            return "nvidia-smi lists no GPU", "Restart the machine, or reload the NVIDIA driver."
        return "no GPU; llama-server uses the CPU", ""
    free = _nvidia("--query-gpu=memory.free", "nounits")
    shown = all(mib.isdecimal() for mib in free)
    found = f"{found}; {' + '.join(free)} MiB free" if shown else f"{found}; free memory not shown"
    needed = _needed_mib(spec, file)
    found = f"{found}, {needed} MiB needed" if needed else found
    users = _nvidia("--query-compute-apps=pid,process_name,used_memory")
    if users:
        return f"{found}; in use by {'; '.join(users)}", "Stop the other programs that use the GPU."
    if needed and shown and needed > sum(map(int, free)):
        return found, "Lower --context or --slots, or use a smaller model."
    with lock_gpus():
        return found, ""


def _needed_mib(spec: Spec, file: _ModelFile) -> int | None:
    """Return the GPU memory of the largest arm; None if it cannot be computed before the run."""
    try:
        model = file.header
    except UserError:
        return None  # the check of the model reports this error
    if not model.whole_cache or spec.gpu_layers < model.layers:
        return None
    return int(file.path.stat().st_size / (1 << 20) + cache_mib(spec, model)) + OTHER_GPU_MEMORY_MIB


def _nvidia(query: str, *more: str) -> list[str]:
    words = ["nvidia-smi", query, f"--format={','.join(('csv', 'noheader', *more))}"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        raise UserError(
            "nvidia-smi does not answer; restart the machine, or reload the NVIDIA driver."
        ) from None
    return done.stdout.splitlines()


def _memory(spec: Spec, file: _ModelFile) -> tuple[str, str]:
    needed = OTHER_MEMORY_MIB + file.mib + spec.slots * spec.memory_mib
    free = psutil.virtual_memory().available >> 20
    found = f"{free} MiB free, up to {needed} MiB needed"
    return found, "" if free >= needed else "Stop other programs, or lower --slots or memory_mib."


def _server(spec: Spec) -> tuple[str, str]:
    """Start llama-server with the model that kvci ships, and check its log."""
    if not spec.verified:
        return (
            f"{spec.engine} writes no log that proves its configuration",
            "Give the path of a llama-server with --engine.",
        )
    shipped = plain()
    small = {
        "model": Model.model_validate({"name": "kvci-calibration", "path": str(shipped)}),
        "context": 512,
        "slots": 1,
    }
    with tempfile.TemporaryDirectory() as folder:
        try:
            log = Path(folder, "server.log")
            with Server(spec.model_copy(update=small), spec.baseline, shipped, log) as server:
                effective = server.effective
        except ServerFailed as error:
            remedy = "Fix this, or give another llama-server with --engine."
            return f"{spec.engine} does not start: {error}", remedy
    found = f"{Path(spec.engine).name}, build {effective.build}"
    if not effective.gpu:
        remedy = "Build llama-server for this machine's GPU, and give its path with --engine."
        return f"{found}, runs on the CPU", remedy if gpu() else ""
    pairs = effective.fa_pairs
    if pairs is None:
        return f"{found}; its log does not show which kernels it has", ""
    asked = {f"{arm.k}-{arm.v}" for arm in spec.arms if not arm.allow}
    found = f"{found}, kernels for {' '.join(pairs)}"
    if lacking := sorted(asked - set(pairs)):
        remedy = f"Build llama-server with {lacking[0]} in GGML_CUDA_FA_QUANTS, or drop that arm."
        return found, remedy
    return found, ""


def _other_servers() -> tuple[str, str]:
    """Look for servers of all users.

    A server fails the check only on a machine with a GPU, because programs always share a CPU.
    """
    own = {child.pid for child in psutil.Process().children(recursive=True)}
    found = [
        f"{process.info['name']} ({process.pid})"
        for process in psutil.process_iter(["name", "cmdline"])
        if process.pid not in own
        and (
            "llama-server" in (process.info["name"] or "")
            or "kvci.serve.embedded" in (process.info["cmdline"] or [])
        )
    ]
    remedy = "Stop them, or wait until their run ends." if found and gpu() else ""
    return ", ".join(found) or "none", remedy


def _folder(spec: Spec) -> tuple[str, str]:
    folder = Path(spec.out).resolve()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as error:
        return f"{folder} cannot be created: {error.strerror}", "Give another --out."
    free = shutil.disk_usage(existing).free
    remedy = "" if free >= RUN_FOLDER_BYTES else "Free some space there, or give another --out."
    work = os.environ.get("GITHUB_WORKSPACE")
    if work and folder.is_relative_to(Path(work).resolve()):
        remedy = "The next job deletes this folder; set KVCI_RUNS in the environment of the runner."
    return f"{folder}, {free >> 20} MiB free", remedy


def _bubblewrap() -> tuple[str, str]:
    from kvci.sandbox import bwrap

    limits = bwrap.check()
    found = f"bubblewrap, limits by {limits}"
    if "CPUs" not in limits:
        found += (
            "; CPUs and the kernel's memory are not limited. A cgroup limits them: "
            "systemd-run --user --scope -p Delegate=yes kvci run ..."
        )
    return found, ""


def _docker() -> tuple[str, str]:
    from kvci.docker import engine

    version = engine.client().version()
    cpus = counted(engine.cpus(), "CPU")
    found = f"{version['Version']}, {version['Os']}/{version['Arch']}, {cpus}"
    if (version["Os"], version["Arch"]) != ("linux", "amd64"):
        return found, "SWE-bench's images need Docker on Linux and x86-64; use another machine."
    if version_lt(version["ApiVersion"], DOCKER_MIN):
        return found, "kvci needs Docker 20.10 or newer; update Docker."
    return found, ""


def _missing(images: list[str]) -> list[str]:
    from kvci.docker import engine

    return [image for image in images if not engine.has(image)]


def _disk(spec: Spec, names: list[str], missing: list[str]) -> tuple[str, str]:
    """Check that Docker's disk has space for the images of one block.

    Each image is assumed to be as large as the largest cached image. The other images of kvci count
    as free space, because kvci can evict them.
    """
    from kvci.docker import engine
    from kvci.images import image_cache

    free = engine.free_bytes()
    if free is None:
        return "on another machine; kvci measures it when a command reports a full disk", ""
    found = f"{free >> 20} MiB free; {spec.disk_reserve_gb:g} GB must stay free"
    if engine.disk_full():
        remedy = "Free some space (kvci images prune)."
        return f"{found}; too few bytes or inodes are free", remedy
    if free < 1e9 * spec.disk_reserve_gb:
        return found, "Free some space (kvci images prune), or lower --disk-reserve."
    if not missing:
        return found, ""
    sizes = [image.unshared_bytes for image in image_cache.cached_images()]
    if not sizes:
        return f"{found}; the size of an image is known after the first pull", ""
    room = free - 1e9 * spec.disk_reserve_gb + sum(sizes)
    if spec.disk_budget_gb is not None:
        room = min(room, 1e9 * spec.disk_budget_gb)
    found = f"{found}; room for {room / max(1, *sizes):.0f} images like the largest here"
    if room < max(sizes) * min(spec.block_size, len(names)):
        return found, "All images of one block must fit; free some space, or lower block_size."
    return found, ""


def _leftovers() -> tuple[str, str]:
    from kvci.docker import engine

    labels = {"label": engine.OWNER}
    left = [
        container.name
        for container in engine.client().containers.list(
            all=True, filters=labels, ignore_removed=True
        )
        if ended(container.labels[engine.OWNER])
    ]
    found = f"{counted(len(left), 'container')} of ended runs; the next run removes them"
    return found if left else "none", ""


def _images(names: list[str], missing: list[str]) -> tuple[str, str]:
    return f"{len(names) - len(missing)} of {len(names)} are on this machine", ""


def _registry(spec: Spec, missing: list[str]) -> tuple[str, str]:
    from kvci.images.logins import login
    from kvci.images.names import mirrored
    from kvci.images.registry import ask

    if not missing:
        return "not needed: all images are on this machine", ""
    image = missing[0]
    answer, before = ask(mirrored(image, spec.mirror), login()), ""
    if spec.mirror and answer.status != 200:  # pulls then skip the mirror
        before, answer = f"{answer.why}; ", ask(image, login())
    left = "" if answer.remaining is None else f", {answer.remaining} pulls left"
    if answer.remaining is not None and answer.remaining < len(missing):
        window = f", every {answer.window_s / 3600:.0f} h" if answer.window_s else ""
        left += f" for {len(missing)} images: the others wait for the next quota{window}"
    if answer.status != 200:
        remedy = "Check the network, log in (docker login), or give a --mirror."
        return f"{before}{answer.why}", remedy
    return (
        f"{before}{answer.why}{left}",
        "" if answer.remaining != 0 else "Wait, log in (docker login), or give a --mirror.",
    )


def _clock(image: str | None = None, mirror: str | None = None) -> tuple[str, str]:
    """Compare the clock with the registry's clock; without a registry, ask systemd."""
    if image:
        from kvci.images.names import mirrored
        from kvci.images.registry import ask

        skew_s = ask(mirrored(image, mirror)).skew_s
        if skew_s is not None:
            wrong = abs(skew_s) > SKEW_MAX_S
            return f"{skew_s:+.0f} s from the registry's clock", NTP if wrong else ""
    words = ["timedatectl", "show", "--property=NTPSynchronized", "--value"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return UNKNOWN_CLOCK, ""
    answer = done.stdout.strip()
    if done.returncode or not answer:
        return UNKNOWN_CLOCK, ""
    return ("synchronized with NTP", "") if answer == "yes" else ("not synchronized with NTP", NTP)


def with_calibration(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options; the defaults are kvci's own model, f16, and one calibration instance."""
    defaults: dict[str, Any] = {"dataset": "calibration:count=1", "arms": ("f16/f16",)}
    if not options["model"]:
        defaults |= {"model": {"name": "kvci-calibration", "path": str(plain())}, "context": 4096}
    return defaults | {name: value for name, value in options.items() if value not in (None, ())}
