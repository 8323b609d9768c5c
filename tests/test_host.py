"""One run has the machine's GPU."""

import os
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE

import pytest

from kvci import host
from kvci.errors import UserError


def test_one_run_has_the_gpu_and_the_next_gets_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "GPU_LOCK", tmp_path / "lock")
    with host.gpu_to_itself():
        with pytest.raises(UserError, match="Another kvci run"), host.gpu_to_itself():
            pass
        assert (tmp_path / "lock").stat().st_mode & 0o777 == 0o644
    with host.gpu_to_itself():
        pass


def test_a_process_is_known_whatever_the_clock_says() -> None:
    """What psutil says of its start moves when the clock is set."""
    name = host.process()
    assert name == host.process() and not host.ended(name)
    known, rest = name.split("/")
    number, began = rest.split("@")
    boot, start, space = began.split(".")
    assert int(number) == os.getpid()
    assert Path("/proc/sys/kernel/random/boot_id").read_text().startswith(boot)
    later = f"{boot}.{int(start) + 1}.{space}"
    assert host.ended(f"{known}/{number}@{later}") and host.ended(f"{known}/{2**30}@{began}")
    assert host.ended(f"{known}/{number}@00000000.{start}.{space}"), "of an earlier boot"
    assert not host.ended(f"another/{number}@{later}") and not host.ended("")


def test_a_container_s_process_is_not_known_to_be_dead() -> None:
    """Its number is another process's here, and what it has was taken for left behind."""
    inside = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c"]
    program = "from kvci.host import process; print(process(), flush=True); input()"
    words = [*inside, program]
    with subprocess.Popen(words, stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True) as other:
        assert other.stdout
        if not (name := other.stdout.readline().strip()):
            pytest.skip("no process namespaces can be made here")
        assert not host.ended(name)
        other.communicate("\n")
