"""Run the workflows, from a dispatch to the pull request."""

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import git
import psutil
import pytest

from kvci.jobs.nightly import _run_id
from kvci.record.schema import Record
from kvci.report.update import render_again
from kvci.review.job import LABEL
from kvci.rundir.documents import WAITS
from kvci.threads import background
from tests.conftest import ROOT
from tests.fake_github import serving
from tests.jobs.act import GitHubHere

INPUTS = {"experiment": "demo", "publish": "true"}


def form(count: int, options: str = "") -> dict[str, str]:
    """Return the form for `count` instances, with more options."""
    dataset = f"calibration:split=test,functions=4,files=3,count={count}"
    return INPUTS | {"options": f"--kv f16/f16 --kv q8_0/q8_0 --dataset {dataset} {options}"}


@pytest.fixture
def here(tmp_path: Path) -> Iterator[GitHubHere]:
    with serving() as fake:
        yield GitHubHere(tmp_path, fake)


def changed(here: GitHubHere) -> list[str]:
    names: str = git.Repo(here.origin).git.diff("--name-only", "main", "kvci/results")
    return names.split()


def dispatched(here: GitHubHere) -> list[str]:
    """Dispatch a run of two shards; return the files that its branch changes."""
    done = here.act("workflow_dispatch", "benchmark.yml", **form(2, "--shards 3"))
    assert done.code == 0, done.log[-5000:]
    jobs = {"plan", "run 1/2", "run 2/2", "collect", "publish"}
    assert done.jobs == dict.fromkeys(jobs, "success")
    names = changed(here)
    assert names[0] == "BENCHMARKS.md"
    assert [Path(name).name.split("-kv-")[1][:7] for name in names[1:]] == ["f16-f16", "q8_0-q8"]
    assert len(here.fake.pulls) == 1 and here.fake.dispatched[0]["inputs"] == {"number": "1"}
    assert "secret-token" not in done.log
    return names


def test_dispatch_opens_pull_request_that_passes_review(here: GitHubHere) -> None:
    dispatched(here)
    review = here.act("workflow_dispatch", "review.yml", number="1")
    assert (review.code, review.jobs) == (0, {"review": "success"}), review.log[-5000:]
    status = here.fake.statuses[-1]
    assert (status["state"], status["sha"]) == ("success", here.fake.head(1))
    (comment,) = here.fake.comments
    assert "The rows match their evidence" in comment["body"]


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_label_and_new_head_start_review(here: GitHubHere) -> None:
    names = dispatched(here)
    kept, here.fake.labels = dict(here.fake.assets), [LABEL]
    here.fake.assets.clear()
    pull = {"number": 1, "head": {"sha": here.fake.head(1)}}
    here.payload = {"action": "labeled", "label": {"name": LABEL}, "sender": {"login": "owner"}}
    here.payload |= {"pull_request": pull}
    label = here.act("pull_request_target", "review.yml")
    assert (label.code, label.jobs) == (0, {"review": "success"}), label.log[-5000:]
    (comment,) = here.fake.comments
    assert "accepted by a maintainer" in comment["body"]

    here.fake.assets |= kept
    _forge(here, names[1])
    pull["head"] = {"sha": here.fake.head(1)}
    here.payload = {"action": "synchronize", "pull_request": pull}
    again = here.act("pull_request_target", "review.yml")
    assert (again.code, again.jobs) == (1, {"review": "failure"}), again.log[-5000:]
    assert here.fake.statuses[-1]["state"] == "failure"
    (comment,) = here.fake.comments
    assert "does not match its evidence" in comment["body"]


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_lost_shard_keeps_earlier_evidence(here: GitHubHere) -> None:
    first = here.act("workflow_dispatch", "benchmark.yml", **form(2, "--shards 2"))
    assert first.code == 0, first.log[-5000:]
    (run,) = here.runs.iterdir()
    (
        run / ".shard-2-of-2-before"
    ).touch()  # kvci unpacks evidence at this path, so the restore fails
    shutil.rmtree(here.folder / "artifacts")
    asked = form(2, "--shards 2") | {"run_id": run.name}
    lost = here.act("workflow_dispatch", "benchmark.yml", **asked)
    # if one leg fails, act reports all later legs as failed
    assert lost.jobs["run 2/2"] == "failure" and lost.jobs["publish"] == "success", lost.log[-5000:]
    left = [path.name for path in here.folder.glob("artifacts/*/evidence-*")]
    assert left == [f"evidence-{run.name}-shard-1-of-2"]
    assert "| f16-f16 | 2/2 |" in lost.log and len(here.fake.pulls) == 1


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_cancelled_run_resumes_and_updates_pull_request(here: GitHubHere) -> None:
    asked = form(10)
    cancelled = background(here.act, "workflow_dispatch", "benchmark.yml", **asked)

    def outcomes() -> dict[Path, bytes]:
        found = here.runs.glob("*/trials/*/*/*/outcome.json")
        done = {path: path.read_bytes() for path in found}
        return {path: text for path, text in done.items() if WAITS.encode() not in text}

    until = time.monotonic() + 600
    while len(outcomes()) < 5:
        assert not cancelled.done() and time.monotonic() < until
        time.sleep(0.2)
    (entry,) = _kvci_runs(here)
    began = time.monotonic()
    os.kill(entry, signal.SIGINT)  # GitHub sends this signal to a step's first process
    while _kvci_runs(here):
        assert time.monotonic() - began < 5
        time.sleep(0.05)
    done, before = cancelled.result(), outcomes()
    assert done.jobs["run 1/1"] == "failure" and done.jobs["publish"] == "success", done.log[-5000:]
    assert 5 <= len(before) < 20
    records = [_record(here, name) for name in changed(here)[1:]]
    assert not any(record.complete for record in records)
    (pull,) = here.fake.pulls
    assert "interim" in pull["body"]

    again = here.act("workflow_dispatch", "benchmark.yml", **asked)
    assert again.code == 0, again.log[-5000:]
    after = outcomes()
    assert len(after) == 20 and before.items() <= after.items()
    records = [_record(here, name) for name in changed(here)[1:]]
    assert len(records) == 2 and all(record.complete for record in records)
    (pull,) = here.fake.pulls
    assert "interim" not in pull["body"]

    (run,) = (path.name for path in here.runs.iterdir())
    name = records[0].trials[0].instance
    rerun = here.act("workflow_dispatch", "rerun.yml", run=run, filter=name, publish="true")
    jobs = dict.fromkeys(("find", "run", "publish"), "success")
    assert (rerun.code, rerun.jobs) == (0, jobs), rerun.log
    records = [_record(here, name) for name in changed(here)[1:]]
    assert sorted(len(record.trials) for record in records) == [1, 1, 10, 10]
    assert len([record for record in records if record.rerun]) == 2
    assert len(here.fake.pulls) == 1 and len(here.fake.assets) == 3


def _kvci_runs(here: GitHubHere) -> list[int]:
    """Return the ids of the `kvci run` processes of these workflows."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline", "environ"]):
        words, environment = process.info["cmdline"] or [], process.info["environ"] or {}
        if environment.get("KVCI_RUNS") == str(here.runs) and words[1:3] == [
            str(Path(words[0]).with_name("kvci")),
            "run",
        ]:
            found.append(process.info["pid"])
    return found


def _record(here: GitHubHere, name: str) -> Record:
    with tempfile.TemporaryDirectory() as folder:
        clone = git.Repo.clone_from(str(here.origin), folder, branch="kvci/results", depth=1)
        assert clone.head.is_valid()
        return Record.read(Path(folder, name))


def test_nightly_starts_next_experiment(here: GitHubHere) -> None:
    done = here.act("schedule", "nightly.yml")
    assert (done.code, done.jobs) == (0, {"next": "success"}), done.log[-3000:]
    (asked,) = here.fake.dispatched
    assert asked["path"].endswith("/workflows/benchmark.yml/dispatches")
    assert asked["inputs"]["run_id"] == _run_id(asked["inputs"]["experiment"])
    job = {"id": 1, "name": "run 1/1", "status": "queued", "runner_id": None}
    job |= {"conclusion": None}
    here.fake.runs = [("2026-11-21T20:23:00Z", "queued", [job])]
    waits = here.act("schedule", "nightly.yml")
    assert waits.code == 1 and "No runner has taken the benchmark since 2026-11-21" in waits.log
    assert len(here.fake.dispatched) == 1


@pytest.mark.parametrize(
    ("name", "value"), [("kv", '"; touch pwned; "'), ("dataset", "$(touch pwned) | `touch pwned`")]
)
def test_plan_refuses_hostile_input(here: GitHubHere, name: str, value: str) -> None:
    filled = {"model": "calibration", "kv": "f16/f16", "dataset": "calibration", "limit": "2"}
    done = here.act("workflow_dispatch", "benchmark.yml", **filled | {name: value})
    assert (done.code, done.jobs) == (1, {"plan": "failure"}), done.log[-3000:]
    assert "kvci: " in done.log and "Traceback" not in done.log
    assert not list(here.folder.rglob("pwned")) and not here.runs.exists()


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_other_repository_publishes_through_app(
    tmp_path: Path,
) -> None:
    """The repository has only the files that ci/README.md names."""
    own = {
        f".github/workflows/{path.name}": path.read_text().replace(
            "    cache-mode: none\n",
            "",  # act does not know this key yet
        )
        for path in (ROOT / "ci" / "adopt").glob("*.yml")
    }
    own |= {"ci/models/calibration.toml": (ROOT / "ci" / "models" / "calibration.toml").read_text()}
    asked = {"kv": "f16/f16", "options": "--dataset calibration:count=1"}
    with serving() as fake:
        here = GitHubHere(tmp_path, fake, own)
        here.settings = [("--var", "KVCI_APP_CLIENT_ID=x"), ("-s", "KVCI_APP_PRIVATE_KEY=app-key")]
        done = here.act("workflow_dispatch", "benchmark.yml", **asked, publish="true")
        assert done.code == 0, done.log[-5000:]
        assert len(done.jobs) == 4 and set(done.jobs.values()) == {"success"}
        assert len(changed(here)) == 2 and len(fake.pulls) == 1
        assert not fake.dispatched, "an App's pull request starts its review by itself"
        assert fake.tokens == {"Bearer app-x-app-key", "Bearer secret-token"}
        review = here.act("workflow_dispatch", "review.yml", number="1")
        assert review.code == 0 and fake.statuses[-1]["state"] == "success", review.log[-5000:]


def _forge(here: GitHubHere, path: str) -> None:
    """Commit a changed record and its row to the branch."""
    with tempfile.TemporaryDirectory() as folder:
        clone = git.Repo.clone_from(str(here.origin), folder, branch="kvci/results")
        record = Record.read(Path(folder, path))
        first = record.trials[0].model_copy(update={"steps": record.trials[0].steps + 1})
        record.model_copy(update={"trials": (first, *record.trials[1:])}).write(Path(folder, path))
        render_again(Path(folder, "ci/results"), Path(folder, "BENCHMARKS.md"))
        clone.git.add("--all")
        who = ["-c", "user.name=x", "-c", "user.email=x@localhost"]
        clone.git.execute(["git", *who, "commit", "-qm", "better"])
        clone.git.push("origin", "kvci/results")
