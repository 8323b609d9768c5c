"""One run has the machine's GPU."""

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
