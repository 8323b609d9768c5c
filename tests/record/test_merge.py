"""The records of a run's shards become the records of the run."""

import shutil
from pathlib import Path

import pytest

from kvci.errors import UserError
from kvci.record.from_run import build
from kvci.report.update import record_run
from kvci.rundir.directory import RunDirectory
from kvci.rundir.documents import Manifest
from tests.record.made import SPEC
from tests.record.test_from_run import PROVED, put, serve
from tests.run.made import outcome

START, END = "2026-02-01T10:00:00Z", "2026-02-01T10:01:00Z"


def shard(run: Path, number: int, names: tuple[str, ...], start: str = START) -> Path:
    """Make one of the two shards of a run, with these instances, and return the shard's folder."""
    path, text = run / f"shard-{number}-of-2", f"{number}/2"
    spec = SPEC.model_copy(update={"shard": text})
    with RunDirectory(path) as directory:
        directory.open("run", spec, "1" * 64, "2" * 64, "bwrap", False, names, start=start)
    for arm in SPEC.arms:
        for name in names:
            put(path, outcome(arm.id, name, shard=text, start=START, end=END))
        serve(path, f"{arm.id}.0")
    return path


def test_shards_merge_into_one_record_per_arm(tmp_path: Path) -> None:
    run = tmp_path / "run"
    shard(run, 1, ("a", "c", "e"))
    assert [record.complete for record in build(run)] == [False, False]
    shard(run, 2, ("b", "d"))
    results, file = tmp_path / "results", tmp_path / "B.md"
    for record in record_run(run, results, file).records:
        assert record.planned == ("a", "b", "c", "d", "e")
        assert (record.complete, record.total, record.resolved) == (True, 5, 5)
        assert record.row_id.endswith("20260201_100000")
        assert record.effective == (PROVED[record.arm],)
        files = record.evidence.files
        assert f"shard-2-of-2/trials/{record.arm}/b/0/outcome.json" in files
        assert all((run / name).exists() for name in files)
    assert len(list(results.iterdir())) == 2 and file.read_text().count("5/5") >= 2


def test_shards_with_different_arms_are_refused(tmp_path: Path) -> None:
    shard(tmp_path / "run", 1, ("a",))
    two = shard(tmp_path / "run", 2, ("b",))
    spec = SPEC.model_copy(update={"shard": "2/2", "arms": SPEC.arms[:1]})
    spec.write(two / "spec.json")
    manifest = Manifest.read(two / "manifest.json")
    digest = {"spec_sha256": spec.hash("1" * 64, "2" * 64)}
    manifest.model_copy(update=digest).write(two / "manifest.json")
    shutil.rmtree(two / "trials" / SPEC.arms[1].id)
    with pytest.raises(UserError, match="The shards have different arms"):
        build(tmp_path / "run")


def test_shards_of_different_runs_are_refused(tmp_path: Path) -> None:
    shard(tmp_path / "run", 1, ("a",))
    shard(tmp_path / "run", 2, ("b",), start="2026-02-01T10:00:01Z")
    with pytest.raises(UserError, match="shard-2-of-2 and shard-1-of-2 belong to different runs"):
        build(tmp_path / "run")
