"""Tests the lock of the GPUs and the ids of processes."""

import os
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE

import pytest

from kvci import host
from kvci.errors import UserError


def test_gpu_lock_excludes_other_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "GPU_LOCK", tmp_path / "lock")
    with host.lock_gpus():
        with pytest.raises(UserError, match="Another kvci run"), host.lock_gpus():
            pass
        assert (tmp_path / "lock").stat().st_mode & 0o777 == 0o644
    with host.lock_gpus():
        pass


def test_process_id_is_stable_and_never_reused() -> None:
    """The id does not use psutil's start of a process: that changes when the clock is set."""
    name = host.process()
    assert name == host.process() and not host.ended(name)
    machine, rest = name.split("/")
    number, origin = rest.split("@")
    boot, start, space = origin.split(".")
    assert int(number) == os.getpid()
    assert Path("/proc/sys/kernel/random/boot_id").read_text().startswith(boot)
    later = f"{boot}.{int(start) + 1}.{space}"
    assert host.ended(f"{machine}/{number}@{later}") and host.ended(f"{machine}/{2**30}@{origin}")
    assert host.ended(f"{machine}/{number}@00000000.{start}.{space}"), "earlier boot"
    assert not host.ended(f"another/{number}@{later}") and not host.ended("")


def test_process_in_other_namespace_is_not_ended() -> None:
    """Here its number is another process's. Earlier, kvci therefore removed its containers."""
    inside = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c"]
    program = "from kvci.host import process; print(process(), flush=True); input()"
    words = [*inside, program]
    with subprocess.Popen(words, stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True) as other:
        assert other.stdout
        if not (name := other.stdout.readline().strip()):
            pytest.skip("no process namespaces can be made here")
        assert not host.ended(name)
        other.communicate("\n")
