"""The runner's scripts: its configuration, its hook, and the removal of old runs."""

import fcntl
import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import HTTPServer
from pathlib import Path

import box
import clean
import pytest
import service
from githubkit_schemas.latest import models as schema
from steps import Failed

from kvci.cli import main
from kvci.files import remove_tree
from kvci.rundir.directory import RunDirectory
from kvci.serve.server import resolve
from tests.answers import Quiet, answer, listening
from tests.conftest import ROOT

RUNNER = ROOT / "ci" / "runner"
JIT = "it's for one job"


def script(name: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script of the runner. File permissions bind it, even if the tests run as root."""
    bound = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]
    return subprocess.run(
        [*(bound if os.geteuid() == 0 else ()), sys.executable, str(RUNNER / name), *words],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        timeout=100,
    )


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """Yield a folder that is removed even if a test fails. pytest cannot remove a deep tree."""
    yield tmp_path
    remove_tree(tmp_path)


def hostile(folder: Path) -> None:
    """Make what a model may leave in its folder."""
    folder.mkdir(parents=True)
    for name in (".lock", "spec.json", "shard-1-of-2"):
        os.mkfifo(folder / name)
    os.mknod(folder / "socket", stat.S_IFSOCK | 0o600)
    (folder / "link").symlink_to("/dev/zero")
    (folder / "loop").symlink_to(".")
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff\n::error::\x1b[31m")).touch()
    deep = os.open(folder, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("x", dir_fd=deep)
        inner = os.open("x", os.O_RDONLY, dir_fd=deep)
        os.close(deep)
        deep = inner
    os.close(deep)
    (folder / "no-rights").mkdir()
    (folder / "no-rights" / "file").touch()
    (folder / "no-rights").chmod(0)


@pytest.fixture
def github() -> Iterator[HTTPServer]:
    """Yield a server that answers as GitHub: 422 if GitHub would refuse the request.

    It gives configurations for the token `good`.
    """

    class Handler(Quiet):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers["Authorization"] != "Bearer good":
                return answer(self, 403, b"{}")
            if self.path != "/repos/owner/name/actions/runners/generate-jitconfig":
                return answer(self, 404, b"{}")
            kind = schema.ReposOwnerRepoActionsRunnersGenerateJitconfigPostBody
            request = kind.model_validate_json(body)
            if not set(json.loads(body)) <= set(kind.model_fields) or len(request.name) > 64:
                return answer(self, 422, b"{}")
            answer(self, 201, json.dumps({"encoded_jit_config": JIT}).encode())

    server = HTTPServer(("127.0.0.1", 0), Handler)
    with listening(server):
        yield server


def test_configuration_reaches_only_the_runner(github: HTTPServer, tmp_path: Path) -> None:
    api = f"http://127.0.0.1:{github.server_port}"
    (tmp_path / "token").write_text("good\n")
    settings = {"api": api, "repository": "owner/name", "labels": ["self-hosted", "gpu"]}
    (tmp_path / "runner.json").write_text(json.dumps(settings))
    to = tmp_path / "jit"
    environment = {"KVCI_ETC": str(tmp_path), "KVCI_JIT": str(to), "KVCI_USER": "root"}
    to.symlink_to(tmp_path / "token")  # a job may make a link so that root writes to another file
    dry = script("jit.py", "--dry-run", **environment)
    assert (dry.returncode, dry.stdout) == (
        0, f"would do   {to}, for one job: ask GitHub for it\n"
    ) and to.is_symlink()  # fmt: skip
    done = script("jit.py", **environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"done       {to}, for one job\n", "")
    to.unlink()
    (to / "folder").mkdir(parents=True)  # a job may make this, too
    assert script("jit.py", **environment).stdout == done.stdout, "each job gets its own"
    assert (tmp_path / "token").read_text() == "good\n"
    assert to.stat().st_mode & 0o777 == 0o400 and not to.is_symlink()
    shown = subprocess.run(
        ["sh", "-c", '. "$0" && exec printenv ACTIONS_RUNNER_INPUT_JITCONFIG', str(to)],
        capture_output=True,
        text=True,
    )
    assert shown.stdout == f"{JIT}\n"
    (tmp_path / "token").write_text("bad\n")
    refused = script("jit.py", **environment)
    assert refused.returncode == 1 and "Administration: write" in refused.stderr
    settings["api"] = "http://127.0.0.1:9"
    (tmp_path / "runner.json").write_text(json.dumps(settings))
    absent = script("jit.py", **environment)
    assert absent.returncode == 1 and "does not answer" in absent.stderr
    assert "Traceback" not in refused.stderr + absent.stderr


def test_hook_removes_leftovers_of_earlier_jobs(tmp_path: Path) -> None:
    workspace, temporary = tmp_path / "work", tmp_path / "tmp"
    (workspace / ".venv-kvci").mkdir(parents=True)
    (workspace / "link").symlink_to(tmp_path)
    for name, age_s in (("old", 100_000), ("new", 10)):
        (temporary / name).mkdir(parents=True)
        os.utime(temporary / name, (time.time() - age_s,) * 2)
    given = {"GITHUB_WORKSPACE": str(workspace), "TMPDIR": str(temporary)}
    dry = script("hook.py", "--dry-run", **given)
    assert (dry.returncode, dry.stdout.count("would do")) == (0, 3), dry.stderr
    assert len(list(workspace.iterdir())) == len(list(temporary.iterdir())) == 2
    done = script("hook.py", **given)
    assert (done.returncode, done.stdout.count("done ")) == (0, 3), done.stderr
    assert not list(workspace.iterdir()) and workspace.is_dir()
    assert [path.name for path in temporary.iterdir()] == ["new"]
    (line,) = script("hook.py", **given).stdout.splitlines()
    assert line == f"ok         20 GiB are free for {workspace}"


def test_full_disk_fails_the_job_with_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import hook

    monkeypatch.setattr(hook, "FREE_BYTES", 1 << 60)
    monkeypatch.setenv("GITHUB_WORKSPACE", str(tmp_path / "not" / "yet"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["hook.py"])
    with pytest.raises(SystemExit) as ended:
        hook.main()
    error = capsys.readouterr().err
    assert ended.value.code == 1 and "GiB are free" in error and "free space with" in error


def test_only_idle_runs_are_removed(tmp_path: Path) -> None:
    old_s = time.time() - 61 * 86_400
    for name in ("old", "sharded/shard-1-of-2", "locked", "touched", "other"):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / ("notes" if name == "other" else "spec.json")).touch()
        (folder / ".lock").touch()
    (tmp_path / "touched" / "trials").mkdir()
    for path in tmp_path.rglob("*"):
        os.utime(path, (old_s, old_s))
    os.utime(tmp_path / "touched" / "trials")
    dry = script("clean.py", "--runs", str(tmp_path), "--dry-run")
    assert dry.returncode == 0 and len(list(tmp_path.iterdir())) == 5
    with (tmp_path / "locked" / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = script("clean.py", "--runs", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"locked", "touched", "other"}
    assert [line.split()[0] for line in dry.stdout.splitlines()] == ["would"] * 3


def old_run(folder: Path) -> Path:
    """Make a run that is older than clean.py's limit."""
    folder.mkdir(parents=True)
    (folder / "spec.json").touch()
    for path in (folder / "spec.json", folder):
        os.utime(path, (time.time() - 61 * 86_400,) * 2)
    return folder


def test_whatever_a_model_left_is_removed_with_its_run(place: Path) -> None:
    for name in ("a", "z"):
        hostile(old_run(place / name) / ".kvci-scratch" / "tree")
        os.utime(place / name, (0, 0))
    done = script("clean.py", "--runs", str(place))
    assert (done.returncode, done.stderr) == (0, "")
    assert not list(place.iterdir())


def test_bad_run_does_not_keep_others_from_being_removed(tmp_path: Path) -> None:
    """What kvci never makes in these places is reported. It cannot be judged, so it stays."""
    os.mkfifo(old_run(tmp_path / "a fifo") / ".lock")
    (old_run(tmp_path / "a link") / ".lock").symlink_to("/dev/zero")
    old_run(tmp_path / "closed\n::error::").chmod(0)
    old_run(tmp_path / "fixed" / "x")
    old_run(tmp_path / "z")
    (tmp_path / "fixed" / "spec.json").touch()
    (tmp_path / "fixed" / "x").chmod(0)
    for path in (*tmp_path.rglob("*"), *tmp_path.iterdir()):
        os.utime(path, (0, 0), follow_symlinks=False)
    done = script("clean.py", "--runs", str(tmp_path))
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert len(lines) == 3 and all(line.startswith("failed     ") for line in lines), done.stderr
    assert "closed\\n::error::" in done.stderr and "Traceback" not in done.stderr
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["a fifo", "a link", "closed\n::error::"]
    (tmp_path / left[-1]).chmod(0o700)


def test_hook_removes_whatever_a_job_left(place: Path) -> None:
    workspace, temporary = place / "work", place / "tmp"
    for folder in (workspace / "a", temporary / "a"):
        hostile(folder)
    for folder in (workspace / "z", temporary / "z"):
        folder.mkdir()
    for path in temporary.iterdir():
        os.utime(path, (0, 0))
    done = script("hook.py", GITHUB_WORKSPACE=str(workspace), TMPDIR=str(temporary))
    assert (done.returncode, done.stderr) == (0, "")
    assert not list(workspace.iterdir()) and not list(temporary.iterdir())


def test_hook_removes_a_link_and_not_its_target(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    (tmp_path / "home" / "kept").mkdir(parents=True)
    (tmp_path / "work").symlink_to(tmp_path / "home")
    given = {"GITHUB_WORKSPACE": str(tmp_path / "work"), "TMPDIR": str(tmp_path / "tmp")}
    assert script("hook.py", **given).returncode == 0
    assert (tmp_path / "home" / "kept").is_dir() and not (tmp_path / "work").is_symlink()


def test_root_changes_no_target_of_a_link(tmp_path: Path) -> None:
    """The user of the runner owns the folder of the runs, so the user may put a link there."""
    (tmp_path / "target").mkdir(mode=0o777)
    before = (tmp_path / "target").stat()
    (tmp_path / "runs").symlink_to(tmp_path / "target")
    assert not box.is_private(tmp_path / "runs")
    with pytest.raises(Failed, match="is a link"):
        box.make_private(tmp_path / "runs")
    assert (tmp_path / "target").stat() == before


def test_scratch_folder_has_the_name_that_kvci_uses(tmp_path: Path) -> None:
    assert RunDirectory(tmp_path).scratch.name == clean.SCRATCH


def test_each_script_of_the_service_has_a_time_limit() -> None:
    assert "exec timeout " in service.HOOK
    assert "TimeoutStartSec=" in service.CLEAN and "TimeoutStartSec=" in service.RUNNER


def test_service_shows_its_plan_and_refuses_bad_arguments() -> None:
    given = ["--repository", "a/b", "--archive", "x.tar.gz", "--sha256", "0" * 64, "--dry-run"]
    done = script("service.py", *given)
    assert done.returncode == 0 and "kvci-runner.service: " in done.stdout
    for number, wrong in ((1, "a/b;c"), (5, "abc")):
        words = [*given]
        words[number] = wrong
        assert script("service.py", *words).returncode == 2


def test_job_uses_built_server_and_persistent_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for line in service.RUNNER.splitlines():
        name, _, value = line.removeprefix("Environment=").partition("=")
        if line.startswith("Environment="):
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", "/usr/local/bin:/usr/bin:/bin")
    assert resolve("auto") == "/opt/kvci/bin/llama-server"
    assert resolve("embedded") == "embedded"
    (out,) = [one for one in main.commands["run"].params if one.name == "out"]
    assert out.envvar == "KVCI_RUNS" and os.environ["KVCI_RUNS"] == "/var/lib/kvci/runs"


def test_unit_left_unread_by_killed_call_is_reloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the unit were not reloaded, its file would be right, and systemd would never read it."""
    program = tmp_path / "systemctl"
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for reload in ("yes", "no"):
        program.write_text(f"#!/bin/sh\necho NeedDaemonReload=no\necho NeedDaemonReload={reload}\n")
        program.chmod(0o755)
        assert service.needs_reload("kvci-runner.service", "kvci-clean.timer") is (reload == "yes")


def test_lock_files_are_never_removed(tmp_path: Path) -> None:
    """A lock file is as old as the first run. If it is removed, a second process gets the lock."""
    import hook

    for name in ("kvci-gpu.lock", "kvci-images.lock", "left"):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, 0))
    assert hook.leftovers(tmp_path / "none", tmp_path) == [tmp_path / "left"]
