"""Nightly chooses the next experiment, and jobs resume from evidence of earlier nights."""

import io
import json
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from kvci.errors import UserError
from kvci.files import sha256_of
from kvci.github import LAST_RUNS, GitHub
from kvci.jobs.inputs import inputs
from kvci.jobs.nightly import _model_sha256, _run_id, nightly
from kvci.jobs.prepare import prepare
from kvci.jobs.restore import artifact_name, fetch, restore
from kvci.record.bundle import pack
from kvci.record.from_run import build
from kvci.rundir.directory import RunDirectory
from kvci.rundir.documents import Manifest, Outcome
from kvci.spec import Spec, load
from kvci.tasks.dataset import dataset_sha256
from kvci.tasks.dataset import load as load_dataset
from tests.compare.made import run as run_of
from tests.conftest import ROOT
from tests.fake_github import Fake
from tests.record.test_from_run import made, put
from tests.record.test_merge import shard


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a checkout with two experiments, and change into it."""
    (tmp_path / "ci" / "results").mkdir(parents=True)
    (tmp_path / "ci" / "models").symlink_to(ROOT / "ci" / "models")
    experiments = tmp_path / "ci" / "experiments"
    experiments.mkdir()
    demo = (ROOT / "ci" / "experiments" / "demo.toml").read_text()
    for name, count in (("one", 2), ("two", 3)):
        (experiments / f"{name}.toml").write_text(demo.replace("count=20", f"count={count}"))
    (experiments / "nightly.toml").write_text('experiments = ["one", "two"]\ntime_budget = 9\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "output"))
    return tmp_path


LATER = "2026-01-01T00:00:07Z"
JOB: dict[str, Any] = {"id": 1, "name": "run 1/1", "runner_id": 7, "conclusion": "failure"}


def github(fake: Fake) -> GitHub:
    return GitHub("owner/name", "token", fake.url)


def finish(work: Path, name: str, trials: int) -> None:
    """Write the records of an experiment; `trials` of the second arm's two trials are done."""
    ends = {"f16/f16": ["ok"] * 2, "q8_0/q8_0": ["ok"] * trials}
    for one in run_of(ends, planned=2):
        ids = {"run_id": _run_id(name), "row_id": f"{name}-{one.arm}"}
        one.model_copy(update=ids).write(work / "ci" / "results" / f"{name}-{one.arm}.json")


def test_next_experiment_starts_when_one_is_done(fake: Fake, work: Path) -> None:
    fake.origin = bare(work)
    for trials, next_ in ((0, "one"), (1, "one"), (2, "two")):
        if trials:
            finish(work, "one", trials)
        assert nightly(github(fake), "main", "kvci/results")
        asked = fake.dispatched[-1]["inputs"]
        assert (asked["experiment"], asked["run_id"]) == (next_, _run_id(next_))
        assert inputs(json.dumps(asked)).time_budget_s == 540
        # GitHub adds the defaults of the repository's own form.
        file, changed = inputs(json.dumps({"context": "65536", "margin": "0.05"} | asked)).asked()
        assert _run_id(next_).endswith(hashed(load(file, changed)))
    finish(work, "two", 2)
    assert nightly(github(fake), "main", "kvci/results") and len(fake.dispatched) == 3
    assert "All experiments are done" in (work / "summary.md").read_text()


def hashed(spec: Spec) -> str:
    """Return the part of a specification's hash that is in a nightly run id."""
    return spec.hash(_model_sha256(spec), dataset_sha256(load_dataset(spec.dataset)))[:12]


def bare(work: Path) -> Path:
    import git

    git.Repo.init(work / "origin.git", bare=True)
    return work / "origin.git"


def started(at: int, status: str, *jobs: tuple[str, int | None]) -> tuple[str, str, list[Any]]:
    """Return a nightly workflow run, and its jobs with their runners."""
    ended = "skipped" if status == "completed" and jobs[-1][1] == -1 else None
    named = [
        {"id": 1, "name": name, "status": status, "runner_id": who if who != -1 else 0}
        | {"conclusion": ended if who == -1 else None}
        for name, who in jobs
    ]
    return f"2026-11-{at}T20:23:00Z", status, named


def half(at: int, status: str) -> tuple[str, str, list[Any]]:
    """Return a workflow run with one finished shard, and one that no runner takes."""
    made, _, jobs = started(at, status, ("run 1/2", 7), ("run 2/2", None))
    jobs[0]["status"] = "completed"
    return made, status, jobs


@pytest.mark.parametrize(
    ("runs", "says", "starts", "fine"),
    [
        ([started(21, "queued", ("plan", 1), ("run 1/1", None))], "since 2026-11-21", False, False),
        (
            [
                started(21, "queued", ("plan", 1), ("run 1/1", None)),
                started(20, "completed", ("plan", 1), ("benchmark / run 1/1", 0)),
                started(19, "completed", ("plan", 1), ("run 1/1", 7)),
            ],
            "since 2026-11-20",
            False,
            False,
        ),
        ([started(21, "completed", ("run 1/1", None))], "since 2026-11-21", True, False),
        ([started(21, "completed", ("run 1/1", 7))], "Tonight: one", True, True),
        ([started(21, "completed", ("plan", 1))], "Tonight: one", True, True),
        (
            [started(21, "completed", ("plan", 1), ("run ${{ matrix.shard }}", -1))],
            "Tonight: one",
            True,
            True,
        ),
        (
            [started(21, "in_progress", ("run 1/2", 7), ("run 2/2", None))],
            "is running",
            False,
            True,
        ),
        (
            [half(21, "in_progress")],
            "No runner has taken 1 of 2 shards of the benchmark from 2026-11-21T20:23:00Z",
            False,
            False,
        ),
        (
            [started(22, "completed", ("run 1/1", 7)), half(21, "in_progress")],
            "The benchmark from 2026-11-21T20:23:00Z waits for a runner",
            False,
            False,
        ),
        (
            [half(21, "completed")],
            "No runner has taken 1 of 2 shards of the benchmark from 2026-11-21T20:23:00Z",
            True,
            False,
        ),
        ([started(21, "in_progress", ("plan", 1))], "is running", False, True),
        (
            [
                started(21, "queued", ("run 1/1", None)),
                started(20, "in_progress", ("run 1/1", 7)),
            ],
            "2026-11-20T20:23:00Z is running",
            False,
            True,
        ),
    ],
)
def test_nightly_tells_idle_runner_from_busy_one(
    runs: list[Any], says: str, starts: bool, fine: bool, fake: Fake, work: Path
) -> None:
    fake.origin, fake.runs = bare(work), runs
    assert nightly(github(fake), "main", "kvci/results") is fine
    assert says in (work / "summary.md").read_text()
    assert bool(fake.dispatched) is starts


def test_nightly_keeps_number_of_shards(fake: Fake, work: Path) -> None:
    fake.origin = bare(work)
    text = (work / "ci" / "experiments" / "nightly.toml").read_text()
    (work / "ci" / "experiments" / "nightly.toml").write_text(f"{text}shards = 2\n")
    assert nightly(github(fake), "main", "kvci/results")
    assert fake.dispatched[-1]["inputs"]["options"] == "--time-budget 9m --shards 2"
    finish(work, "one", 1)
    assert nightly(github(fake), "main", "kvci/results")
    assert fake.dispatched[-1]["inputs"]["options"] == "--time-budget 9m --shards 1"
    run_id = _run_id("one")
    form = {"experiment": "one", "run_id": run_id, "options": "--shards 2"}
    with pytest.raises(UserError, match=f"{run_id} has 1 shard; resume it with --shards 1"):
        prepare(inputs(json.dumps(form)), work / "before", github(fake))


def test_run_with_fewer_instances_than_shards_finishes(fake: Fake, work: Path) -> None:
    fake.origin = bare(work)
    text = (work / "ci" / "experiments" / "nightly.toml").read_text()
    (work / "ci" / "experiments" / "nightly.toml").write_text(f"{text}shards = 3\n")
    run, run_id = work / "run", _run_id("one")
    form = {"experiment": "one", "run_id": run_id, "options": "--shards 3"}
    for number, name in ((1, "a"), (2, "b")):
        assert nightly(github(fake), "main", "kvci/results")
        assert fake.dispatched[-1]["inputs"]["experiment"] == "one"
        for asked in (form, fake.dispatched[-1]["inputs"]):
            planned = prepare(inputs(json.dumps(asked)), work / "before", github(fake))
            assert planned.shards == ("1/2", "2/2")
        shard(run, number, (name,))
        for one in build(run):
            there = one.model_copy(update={"run_id": run_id})
            there.write(work / "ci" / "results" / f"{one.row_id}.json")
    assert nightly(github(fake), "main", "kvci/results")
    assert fake.dispatched[-1]["inputs"]["experiment"] == "two"


@pytest.mark.parametrize("count", [1, 2])
def test_expired_artifacts_are_replaced_by_published_evidence(
    count: int, fake: Fake, work: Path
) -> None:
    fake.origin = bare(work)
    run, here = work / "there" / "run", work / "here"
    if count == 1:
        made(run)
    for number, name in ((1, "a"), (2, "b")) if count == 2 else ():
        shard(run, number, (name,))
    content = pack(run)
    url = github(fake).attach("tag", "main", "run.tar.gz", content)
    for record in build(run):
        evidence = record.evidence.model_copy(update={"where": url, "sha256": sha256_of(content)})
        there = record.model_copy(update={"evidence": evidence})
        there.write(work / "ci" / "results" / f"{record.row_id}.json")
    form = json.dumps({"experiment": "one", "run_id": "run", "options": f"--shards {count}"})
    planned = prepare(inputs(form), work / "before", github(fake))
    (start,) = {record.start for record in build(run)}
    assert (planned.before, planned.start) == (count, start)
    for number in range(1, count + 1):
        line = one(restore(work / "before", str(here), "run", f"{number}/{count}"))
        assert "resumed from an earlier job" in line
    assert pack(here / "run") == content
    fake.assets["run.tar.gz"] = b"poison"
    with pytest.raises(UserError, match="does not have the SHA-256 of its record"):
        prepare(inputs(form), work / "before", github(fake))


def test_record_without_evidence_restores_nothing(fake: Fake, work: Path) -> None:
    """On some machine, `kvci record` wrote the record, and a person committed it."""
    fake.origin = bare(work)
    run = made(work / "there" / "run")
    for record in build(run):
        record.write(work / "ci" / "results" / f"{record.row_id}.json")
    form = inputs(json.dumps({"experiment": "one", "run_id": "run"}))
    planned = prepare(form, work / "before", github(fake))
    assert (planned.before, planned.start) == (0, build(run)[0].start)
    assert "names no evidence" in (work / "summary.md").read_text()
    artifact(fake, artifact_name("run", "1/1"), pack(run))
    assert prepare(form, work / "before", github(fake)).before == 1


def two_machines(work: Path) -> tuple[Path, Path, Path, Path]:
    """Return a run of another machine, this machine's runs with the same run, the path for its
    evidence, and a trial of this machine's run."""
    there, here, before = made(work / "there" / "run"), work / "here", work / "before"
    made(here / "run")
    before.mkdir()
    trial = here / "run" / "trials" / "f16-f16" / "b" / "0" / "outcome.json"
    return there, here, before / f"{artifact_name('run', '1/1')}.tar.gz", trial


def test_diverged_machine_takes_uploaded_evidence(work: Path) -> None:
    """Both machines ran the same trial, and only the other machine uploaded it."""
    there, here, archive, path = two_machines(work)
    before = archive.parent
    local = Outcome.read(path).model_copy(update={"start": LATER})
    local.write(path)
    archive.write_bytes(pack(there))
    assert "3 trials; this machine had 3" in one(restore(before, str(here), "run", "1/1"))
    assert build(here / "run") == build(there)
    (kept,) = here.glob(".run.*")
    assert local in RunDirectory(kept).outcomes()


def test_nightly_reports_run_that_waits_for_approval(fake: Fake, work: Path) -> None:
    fake.origin = bare(work)
    fake.runs = [started(21, "waiting", ("run 1/1", 7))]
    assert not nightly(github(fake), "main", "kvci/results") and fake.dispatched
    assert "2026-11-21T20:23:00Z needs an approval" in (work / "summary.md").read_text()


def test_report_of_idle_runner_says_or_before_if_all_runs_waited(fake: Fake, work: Path) -> None:
    fake.origin = bare(work)
    fake.runs = [started(21, "completed", ("run 1/1", None))] * LAST_RUNS
    assert not nightly(github(fake), "main", "kvci/results")
    assert "since 2026-11-21T20:23:00Z or before" in (work / "summary.md").read_text()


def test_stuck_experiment_does_not_block_next_one(fake: Fake, work: Path) -> None:
    """The experiment's trials are older than the last three nights, or it has no trial."""
    fake.origin = bare(work)
    nights = [(datetime.now(UTC) - timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ")
              for days in (1, 2, 3)]  # fmt: skip
    fake.runs = [(at, "completed", [JOB]) for at in nights]
    title_of_one = fake.title = f"benchmark one on the experiment ({_run_id('one')})"
    for trials in (0, 1):
        if trials:
            finish(work, "one", trials)
        assert not nightly(github(fake), "main", "kvci/results")
        assert fake.dispatched[-1]["inputs"]["experiment"] == "two"
        text = (work / "summary.md").read_text()
        assert "| one | " in text and "| **stuck**, 3 nights without a new trial" in text
        assert text.count('x-axis ["one", "two"]') and "Trials done, %" in text
    for runs, title in ((fake.runs[:2], fake.title), (fake.runs, "benchmark three (other)")):
        fake.runs, fake.title = runs, title
        assert nightly(github(fake), "main", "kvci/results")
        assert fake.dispatched[-1]["inputs"]["experiment"] == "one"
    fake.title, fake.actor = title_of_one, "somebody"
    assert nightly(github(fake), "main", "kvci/results"), "runs that a person starts are not nights"
    fake.actor = "github-actions[bot]"
    long_ago = [(f"2026-01-0{day}T20:23:00Z", "completed", fake.runs[0][2]) for day in (3, 2, 1)]
    lately, fake.runs = fake.runs[:1], long_ago
    assert nightly(github(fake), "main", "kvci/results"), "it is tried again after a week"
    fake.runs = [*lately, *long_ago[:2]]
    assert not nightly(github(fake), "main", "kvci/results"), "it is tried for one night only"
    file = work / "ci" / "experiments" / "one.toml"
    file.write_text(file.read_text().replace("margin = 0.25", "margin = 0.2"))
    assert _run_id("one") not in title_of_one and nightly(github(fake), "main", "kvci/results")
    assert fake.dispatched[-1]["inputs"]["experiment"] == "one", (
        "a changed experiment is another run"
    )


def artifact(fake: Fake, name: str, content: bytes, **run: object) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(f"{name}.tar.gz", content)
    number = len(fake.artifacts)
    where = {"id": 1, "head_branch": "main", "repository_id": 7, "head_repository_id": 7} | run
    fake.artifacts.append(
        {"id": number, "name": name, "created_at": f"2026-01-01T00:00:00.{number:03}Z",
         "expired": False, "workflow_run": where}
    )  # fmt: skip
    fake.zips[number] = packed.getvalue()


def test_other_machine_resumes_uploaded_evidence(
    fake: Fake, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = work / "there" / "run"
    shard(run, 1, ("a",))
    shard(run, 2, ("b",))
    for number in (1, 2):
        name = artifact_name("run", f"{number}/2")
        artifact(fake, name, pack(run, f"shard-{number}-of-2"))
        artifact(fake, name, b"poison", head_branch="other")
        artifact(fake, name, b"poison", head_repository_id=8)
        artifact(fake, name, b"poison")
        fake.artifacts[-1]["workflow_run"] = None
    monkeypatch.setenv("GITHUB_REF_NAME", "main")
    fake.origin = bare(work)
    form = {"experiment": "one", "run_id": "run", "options": "--shards 2"}
    planned = prepare(inputs(json.dumps(form)), work / "before", github(fake))
    assert planned.before == 2
    assert planned.start == Manifest.read(run / "shard-1-of-2" / "manifest.json").start
    for number in (1, 2):
        (line,) = restore(work / "before", str(work / "here"), "run", f"{number}/2")
        assert "resumed from an earlier job" in line
        (again,) = restore(work / "before", str(work / "here"), "run", f"{number}/2")
        assert "this machine has all trials of the evidence" in again
    assert pack(work / "here" / "run") == pack(run)
    assert [one.row_id for one in build(work / "here" / "run")] == [o.row_id for o in build(run)]
    assert not list((work / "here" / "run").glob(".*"))


@pytest.mark.parametrize(("left", "asked"), [("1/2", ""), ("1/1", "--shards 2")])
def test_resume_with_other_number_of_shards_is_refused(
    fake: Fake, work: Path, left: str, asked: str
) -> None:
    """The run is not published yet, so only its artifacts show its number of shards."""
    fake.origin = bare(work)
    artifact(fake, artifact_name("run", left), b"x")
    artifact(fake, artifact_name("run", "1/7"), b"poison", head_repository_id=8)
    form = json.dumps({"experiment": "one", "run_id": "run", "options": asked})
    shards = left.partition("/")[2]
    with pytest.raises(
        UserError, match=f"^run has {shards} shards?; resume it with --shards {shards}"
    ):
        prepare(inputs(form), work / "before", github(fake))


@pytest.mark.parametrize("state", ["in_progress", "queued", "completed", ""])
def test_resume_of_running_run_is_refused(state: str, fake: Fake, work: Path) -> None:
    """The first workflow run has uploaded nothing yet. A second one would get another start time,
    and the rows of the run would appear twice."""
    fake.origin = bare(work)
    fake.known_runs = {77: state}
    asked = inputs(json.dumps({"experiment": "one", "run_id": "calibration-small-77"}))
    if state in ("completed", ""):
        prepare(asked, work / "before", github(fake))
        return
    with pytest.raises(UserError, match="is still running; resume it when its jobs have ended"):
        prepare(asked, work / "before", github(fake))


def test_artifacts_of_forks_are_ignored(fake: Fake, work: Path) -> None:
    name = artifact_name("run", "1/1")
    for _ in range(120):
        artifact(fake, name, b"poison", head_repository_id=8)
    artifact(fake, name, b"ours")
    assert fetch(github(fake), "run", ["1/1"], "main", work / "before") == ["1/1"]
    assert (work / "before" / f"{name}.tar.gz").read_bytes() == b"ours"


def test_unreadable_artifact_is_explained(fake: Fake, work: Path) -> None:
    name = artifact_name("run", "1/1")
    artifact(fake, name, b"x" * 100)
    for was, now in ((b"\x00\x00\x00\x00", b"\x00\x00\x01\x00"), (b"PK\x01\x02", b"PK\x01\x03")):
        whole = fake.zips[0]
        fake.zips[0] = whole.replace(was, now)
        with pytest.raises(UserError, match="is not an archive of kvci"):
            fetch(github(fake), "run", ["1/1"], "main", work / "before")
        fake.zips[0] = whole
    for kind in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", kind) as archive:
            archive.writestr("x.tar.gz", bytes(range(256)) * 40)
        whole = packed.getvalue()
        fake.zips[0] = whole[:46] + bytes(one ^ 255 for one in whole[46:70]) + whole[70:]
        with pytest.raises(UserError, match="is not an archive of kvci"):
            fetch(github(fake), "run", ["1/1"], "main", work / "before")
    artifact(fake, name, b"x" * 100)
    fake.zips[0] = fake.zips.pop(1)
    fake.artifacts.pop()
    locked = bytearray(fake.zips[0])
    for head, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        locked[locked.index(head) + flags] |= 1
    fake.zips[0] = bytes(locked)
    with pytest.raises(UserError, match="is not an archive of kvci"):
        fetch(github(fake), "run", ["1/1"], "main", work / "before")


def one(lines: list[str]) -> str:
    (line,) = lines
    return line


def test_evidence_of_earlier_attempt_is_resumed(work: Path) -> None:
    """The plan found evidence of the last night; then an earlier attempt uploaded more trials."""
    before, name = work / "before", artifact_name("run", "1/1")
    (before / name).mkdir(parents=True)
    there = made(work / "there" / "run")
    (before / name / f"{name}.tar.gz").write_bytes(pack(there))
    next((there / "trials").rglob("outcome.json")).unlink()
    (before / f"{name}.tar.gz").write_bytes(pack(there))
    assert len(restore(before, str(work / "here"), "run", "1/1")) == 2
    assert len(RunDirectory(work / "here" / "run").outcomes()) == 3


def test_restore_keeps_more_complete_local_folder(work: Path) -> None:
    there, here, archive, _ = two_machines(work)
    before = archive.parent
    archive.write_bytes(pack(there))
    assert "has all trials of the evidence" in one(restore(before, str(here), "run", "1/1"))
    next((here / "run" / "trials").rglob("outcome.json")).unlink()
    assert "3 trials; this machine had 2" in one(restore(before, str(here), "run", "1/1"))
    assert len(RunDirectory(here / "run").outcomes()) == 3
    assert [path.name for path in here.glob(".*")] == [".run.2-of-3"]


@pytest.mark.parametrize(("run_id", "shard_"), [("../x", "1/1"), ("r", "x"), ("r", "0/2")])
def test_invalid_run_id_or_shard_is_refused(work: Path, run_id: str, shard_: str) -> None:
    with pytest.raises(UserError):
        restore(work, str(work), run_id, shard_)


def test_superseded_block_is_not_run_a_third_time(work: Path) -> None:
    """The first night ends inside a block. The second night runs this block again."""
    there, here, archive, old = two_machines(work)
    before = archive.parent
    whole, half = Outcome.read(old), Outcome.read(old).model_copy(update={"start": LATER})
    half.write(there / old.relative_to(here / "run"))
    archive.write_bytes(pack(there))
    put(here / "run", half, "superseded/0")
    assert "this machine has all trials of the evidence" in one(
        restore(before, str(here), "run", "1/1")
    )
    assert whole in RunDirectory(here / "run").outcomes()
    put(there, half, "superseded/0")
    whole.write(there / old.relative_to(here / "run"))
    half.write(old)
    archive.write_bytes(pack(there))
    assert "3 trials; this machine had 3" in one(restore(before, str(here), "run", "1/1"))
    assert not [o for o in RunDirectory(here / "run").outcomes() if o.start == half.start]
