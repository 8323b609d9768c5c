"""The setup scripts of a runner: each script runs twice on a new system."""

import hashlib
import tarfile
from pathlib import Path

import git
import pytest

from kvci.docker import engine
from kvci.images.base import base
from kvci.images.image_build import _certificates
from tests.conftest import ROOT
from tests.made_images import calibration_image

SCRIPTS = "/made/kvci/ci/runner"
WRITTEN = "find /opt /etc /var/lib/kvci -newer /made/runner.tar.gz -type f | sort"
NVIDIA_SMI = "#!/bin/sh\necho 'GPU 0: one that answers'\n"
SYSTEMCTL = """#!/bin/sh
# What systemd knows: $state has the units' files as they were read, and UNIT.on if it is enabled.
state=/var/lib/systemctl; mkdir -p $state
case $1 in
show)
  for unit in "$@"; do
    case $unit in
    *.service|*.timer)
      cmp -s /etc/systemd/system/$unit $state/$unit && echo NeedDaemonReload=no ||
        echo NeedDaemonReload=yes
      [ -e $state/$unit.on ] && echo UnitFileState=enabled && echo ActiveState=active ;;
    esac
  done ;;
daemon-reload) cp /etc/systemd/system/kvci-* $state/ ;;
enable) touch $state/$3.on ;;
esac
true
"""


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_second_run_changes_nothing(tmp_path: Path) -> None:
    calibration_image()
    git.Repo.clone_from(str(ROOT), tmp_path / "kvci", depth=1)
    (tmp_path / "actions-runner").mkdir()
    (tmp_path / "actions-runner" / "run.sh").write_text("#!/bin/sh\n")
    with tarfile.open(tmp_path / "runner.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "actions-runner" / "run.sh", "run.sh")
    digest = hashlib.sha256((tmp_path / "runner.tar.gz").read_bytes()).hexdigest()
    (tmp_path / "certificates").write_bytes(_certificates())
    for name, text in (("nvidia-smi", NVIDIA_SMI), ("systemctl", SYSTEMCTL)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    service = f"service.py --repository a/b --archive /made/runner.tar.gz --sha256 {digest}"
    box = engine.client().containers.run(
        base("bookworm"),
        ["sleep", "1500"],
        network_mode="host",
        volumes={str(tmp_path): {"bind": "/made", "mode": "rw"}},
        detach=True,
    )

    def execute(line: str) -> tuple[int, str]:
        command = f"export PATH=/made:$PATH PIP_CERT=/made/certificates; cd {SCRIPTS} && {line}"
        done = box.exec_run(["bash", "-c", command])
        return done.exit_code, done.output.decode()

    try:
        for script in ("box.py", service):
            code, dry = execute(f"python3 {script} --dry-run")
            assert code == 0 and "would do" in dry and execute("ls /opt/kvci/runner")[0] != 0, dry
            if script == service:
                code, lacks = execute(f"python3 {script}")
                assert code == 1 and "that contains a token" in lacks
                assert execute("umask 077; echo secret > /etc/kvci/token")[0] == 0
            code, first = execute(f"python3 {script}")
            assert code == 0 and "done       " in first and "would" not in first, first
            before = execute(WRITTEN)
            code, second = execute(f"python3 {script}")
            assert code == 0 and {line.split()[0] for line in second.splitlines()} == {"ok"}, second
            assert len(second.splitlines()) == len(dry.splitlines())
            assert execute("kvci --version")[0] == 0
            assert before == execute(WRITTEN) and before[1].count("\n") > 9
    finally:
        box.remove(force=True, v=True)
