"""One run has the machine's GPU."""

import os
from pathlib import Path

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
    boot = Path("/proc/sys/kernel/random/boot_id").read_text()
    assert (int(number), began.split(".")[0]) == (os.getpid(), boot[:8])
    assert host.ended(f"{known}/{number}@{boot[:8]}.1") and host.ended(f"{known}/{2**30}@{began}")
    assert not host.ended(f"another/{number}@{boot[:8]}.1") and not host.ended("")
