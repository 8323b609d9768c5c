"""Everything that a run needs, looked at before it: a line each, and a remedy for each failure."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import psutil
from docker.errors import DockerException
from docker.utils import version_lt
from urllib3.exceptions import HTTPError

from kvci.demo.model import plain
from kvci.errors import UserError
from kvci.files import Document, sha256_of_file
from kvci.host import ended, gpu, gpu_to_itself
from kvci.plan import select
from kvci.serve.gguf import cache_mib, header, locate
from kvci.serve.gguf import check as check_model
from kvci.serve.server import Server, ServerFailed, resolve
from kvci.spec import Model, Spec
from kvci.tasks.dataset import load
from kvci.tasks.instance import Instance

SKEW_MAX_S = 60.0
MEMORY_BESIDE_MIB = 2048
"""Beside the model's weights and one sandbox for each slot."""
GPU_BESIDE_MIB = 1024
"""Beside weights and cache: what computing takes, and the driver's own."""
RUN_FOLDER_BYTES = 1 << 30
DOCKER_MIN = "1.41"
"""The API of Docker 20.10, the oldest that kvci is tried with."""


class Check(Document):
    """What was found, and what to do about it; nothing if the remedy is empty."""

    name: str
    found: str
    remedy: str = ""


def examine(spec: Spec) -> Iterator[Check]:
    """The checks of what this spec needs, each as it is done."""
    spec = spec.model_copy(update={"engine": resolve(spec.engine)})
    images: dict[str, Instance] = {}

    def dataset() -> tuple[str, str]:
        known = {one.row.instance_id: one for one in load(spec.dataset)}
        chosen = select(list(known), spec)
        images.update({name: known[name] for name in chosen if not known[name].files})
        return f"{len(chosen)} instances of {spec.dataset}", ""

    yield _check("dataset", dataset)
    yield _check("model", lambda: _model(spec))
    yield _check("GPU", lambda: _gpu(spec))
    yield _check("memory", lambda: _memory(spec))
    yield _check("llama-server", lambda: _server(spec))
    yield _check("other servers", _others)
    yield _check("run folder", lambda: _folder(spec))
    own = spec.dataset.partition(":")[0] == "calibration"  # though it could not be loaded
    if spec.sandbox == "bwrap" or (spec.sandbox == "auto" and own):
        yield _check("sandbox", _bubblewrap)
        yield _check("clock", _clock)
        return
    yield _check("Docker", _docker)
    names = list(dict.fromkeys(one.row.image for one in images.values()))
    missing = cache(lambda: _missing(names))  # each costs the engine a question
    yield _check("Docker's disk", lambda: _disk(spec, names, missing()))
    yield _check("leftovers", _leftovers)
    yield _check("images", lambda: (f"{len(names) - len(missing())} of {len(names)} are here", ""))
    yield _check("registry", lambda: _registry(spec, missing()))
    yield _check("clock", lambda: _clock(next(iter(names), None), spec.mirror))


def _check(name: str, look: Callable[[], tuple[str, str]]) -> Check:
    try:
        found, remedy = look()
    except UserError as error:
        return Check(name=name, found="", remedy=str(error))
    except (OSError, DockerException, HTTPError) as error:
        return Check(
            name=name, found="", remedy=f"It fails: {str(error)[:200]}; see to its service."
        )
    return Check(name=name, found=found, remedy=remedy)


def _located(spec: Spec) -> Path:
    return locate(spec.model, int(1e9 * spec.disk_reserve_gb))


def _model(spec: Spec) -> tuple[str, str]:
    path = _located(spec)
    check_model(spec, header(path))
    return f"{path.name}, {path.stat().st_size >> 20} MiB, sha256 {sha256_of_file(path)[:12]}", ""


def _gpu(spec: Spec) -> tuple[str, str]:
    """Who else is on it counts as a failure: two would spoil each other's speed and memory."""
    found = gpu()
    if not found:
        if shutil.which("nvidia-smi"):
            return "nvidia-smi is there and names none", "Restart the machine, or its driver."
        return "none; the CPU computes", ""
    free = _nvidia("--query-gpu=memory.free", "nounits")
    shown = all(mib.isdecimal() for mib in free)
    found = f"{found}; {' + '.join(free)} MiB free" if shown else f"{found}; free memory not shown"
    needed = _needed_mib(spec)
    found = f"{found}, {needed} MiB needed" if needed else found
    users = _nvidia("--query-compute-apps=pid,process_name,used_memory")
    if users:
        return f"{found}; in use by {'; '.join(users)}", "End what else is on the GPU."
    if needed and shown and needed > sum(map(int, free)):
        return found, "Lower --context or --slots, or take a smaller model."
    with gpu_to_itself():
        return found, ""


def _needed_mib(spec: Spec) -> int | None:
    """Of the GPUs' memory, by the largest arm; None where that cannot be told beforehand."""
    try:
        path = _located(spec)
        model = header(path)
    except UserError:
        return None  # the model's own check says why
    if not model.whole_cache or spec.gpu_layers < model.layers:
        return None
    return int(path.stat().st_size / (1 << 20) + cache_mib(spec, model)) + GPU_BESIDE_MIB


def _nvidia(query: str, *more: str) -> list[str]:
    words = ["nvidia-smi", query, f"--format={','.join(('csv', 'noheader', *more))}"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        raise UserError("nvidia-smi does not answer; restart the driver.") from None
    return done.stdout.splitlines()


def _memory(spec: Spec) -> tuple[str, str]:
    weights = _located(spec).stat().st_size >> 20
    needed = MEMORY_BESIDE_MIB + weights + spec.slots * spec.memory_mib
    free = psutil.virtual_memory().available >> 20
    found = f"{free} MiB free, of which {needed} MiB may be needed"
    return found, "" if free >= needed else "End other programs, or lower --slots or memory_mib."


def _server(spec: Spec) -> tuple[str, str]:
    """Started for a moment with the model that kvci ships, and its log read."""
    if not spec.verified:
        return f"{spec.engine}, which proves nothing", "Give a llama-server's path."
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
            return spec.engine, f"It does not start: {error}."
    found = f"{Path(spec.engine).name}, build {effective.build}"
    if not effective.gpu:
        return f"{found}, without a GPU", "" if not gpu() else "Build it for this machine's GPU."
    pairs = effective.fa_pairs
    if pairs is None:
        return f"{found}; the KV pairs of its kernels are not shown", ""
    asked = {f"{arm.k}-{arm.v}" for arm in spec.arms if not arm.allow}
    found = f"{found}, kernels for {' '.join(pairs)}"
    if lacking := sorted(asked - set(pairs)):
        remedy = f"Build it with {lacking[0]} in GGML_CUDA_FA_QUANTS, or drop that arm."
        return found, remedy
    return found, ""


def _others() -> tuple[str, str]:
    """Servers of anybody, which take a GPU's memory and speed; processors are shared anyway."""
    mine = {child.pid for child in psutil.Process().children(recursive=True)}
    found = [
        f"{process.info['name']} ({process.pid})"
        for process in psutil.process_iter(["name", "cmdline"])
        if process.pid not in mine
        and (
            "llama-server" in (process.info["name"] or "")
            or "kvci.serve.embedded" in (process.info["cmdline"] or [])
        )
    ]
    return ", ".join(found) or "none", "End them, or wait for their run." if found and gpu() else ""


def _folder(spec: Spec) -> tuple[str, str]:
    folder = Path(spec.out).resolve()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        return f"{folder} cannot be made: {error.strerror}", "Give another --out."
    free = shutil.disk_usage(there).free
    remedy = "" if free >= RUN_FOLDER_BYTES else "Make room there, or give another --out."
    work = os.environ.get("GITHUB_WORKSPACE")
    if work and folder.is_relative_to(Path(work).resolve()):
        remedy = "The next job would clear it; set KVCI_RUNS in the runner's own environment."
    return f"{folder}, {free >> 20} MiB free", remedy


def _bubblewrap() -> tuple[str, str]:
    from kvci.sandbox import bwrap

    return f"bubblewrap, {bwrap.check()}", ""


def _docker() -> tuple[str, str]:
    from kvci.docker import engine

    said = engine.client().version()
    found = f"{said['Version']}, {said['Os']}/{said['Arch']}, {engine.cpus()} CPUs"
    if (said["Os"], said["Arch"]) != ("linux", "amd64"):
        return found, "SWE-bench's images are for Linux on x86-64; use an engine of that kind."
    if version_lt(said["ApiVersion"], DOCKER_MIN):
        return found, "It is older than Docker 20.10; take a newer one."
    return found, ""


def _missing(images: list[str]) -> list[str]:
    from kvci.docker import engine

    return [image for image in images if not engine.has(image)]


def _disk(spec: Spec, names: list[str], missing: list[str]) -> tuple[str, str]:
    """Held against what is to come: the images of one block, each like the largest here. All else
    that is ours makes room for them."""
    from kvci.docker import engine
    from kvci.images import image_cache

    free = engine.free_bytes()
    if free is None:
        return "another machine's, which is looked at when a command finds it full", ""
    found = f"{free >> 20} MiB free, the reserve is {spec.disk_reserve_gb:g} GB"
    if engine.full():
        return found, "It is full, of bytes or of files; make room (kvci images prune)."
    if free < 1e9 * spec.disk_reserve_gb:
        return found, "Make room (kvci images prune), or lower --disk-reserve."
    if not missing:
        return found, ""
    sizes = [one.unshared_bytes for one in image_cache.cached_images()]
    if not sizes:
        return f"{found}; what an image takes shows when the first one is here", ""
    room = free - 1e9 * spec.disk_reserve_gb + sum(sizes)
    if spec.disk_budget_gb is not None:
        room = min(room, 1e9 * spec.disk_budget_gb)
    found = f"{found}; room for {room / max(1, *sizes):.0f} images like the largest here"
    if room < max(sizes) * min(spec.block_size, len(names)):
        return found, "Make room, or make block_size smaller: one block's images must fit."
    return found, ""


def _leftovers() -> tuple[str, str]:
    from kvci.docker import engine

    labels = {"label": engine.OWNER}
    left = [
        one.name
        for one in engine.client().containers.list(all=True, filters=labels, ignore_removed=True)
        if ended(one.labels[engine.OWNER])
    ]
    return f"{len(left)} containers that the next run removes" if left else "none", ""


def _registry(spec: Spec, missing: list[str]) -> tuple[str, str]:
    from kvci.images.logins import login
    from kvci.images.names import mirrored
    from kvci.images.registry import ask

    if not missing:
        return "not needed", ""
    image = missing[0]
    answer, before = ask(mirrored(image, spec.mirror), login()), ""
    if spec.mirror and answer.status != 200:  # then pulls pass it by
        before, answer = f"{answer.why}; ", ask(image, login())
    left = "" if answer.remaining is None else f", {answer.remaining} pulls left"
    if answer.remaining is not None and answer.remaining < len(missing):
        window = f" of {answer.window_s / 3600:.0f} h" if answer.window_s else ""
        left += f" for {len(missing)} images: the rest waits for its window{window}"
    if answer.status != 200:
        remedy = "Check the network, log in (docker login), or give a --mirror."
        return f"{before}{answer.why}", remedy
    return (
        f"{before}{answer.why}{left}",
        "" if answer.remaining != 0 else "Wait, log in, or give a mirror.",
    )


def _clock(image: str | None = None, mirror: str | None = None) -> tuple[str, str]:
    """Against the registry's where it answers, else as systemd has it."""
    if image:
        from kvci.images.names import mirrored
        from kvci.images.registry import ask

        skew_s = ask(mirrored(image, mirror)).skew_s
        if skew_s is not None:
            wrong = abs(skew_s) > SKEW_MAX_S
            return f"{skew_s:+.0f} s off the registry's", "Set the clock (NTP)." if wrong else ""
    words = ["timedatectl", "show", "--property=NTPSynchronized", "--value"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "not shown", ""
    said = done.stdout.strip()
    if done.returncode or not said:
        return "not shown", ""
    return (
        f"synchronized: {said}",
        "" if said == "yes" else "Switch NTP on (timedatectl set-ntp 1).",
    )


def with_own(asked: dict[str, Any]) -> dict[str, Any]:
    """Where nothing else was said, kvci's own model and suite."""
    own: dict[str, Any] = {"dataset": "calibration:count=1"}
    if not asked["model"]:
        own |= {"model": {"name": "kvci-calibration", "path": str(plain())}, "context": 4096}
    return own | {name: value for name, value in asked.items() if value is not None}
