"""Runs, evidence and records that kvci 0.1.0 wrote: resumed, recorded, merged, reviewed, continued.

`golden/kvci-0.1.0` holds three runs of the embedded engine, with the records, evidence, rows and
comparisons that the version made of them: a whole run, one in two shards, and a nightly run of
which one block of three is done.
"""

import gzip
import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest

from kvci.compare.named import compare_named
from kvci.console import Terminal
from kvci.errors import UserError
from kvci.files import sha256_of
from kvci.github import GitHub
from kvci.jobs.collect import collect
from kvci.jobs.nightly import nightly
from kvci.jobs.restore import artifact_name, restore
from kvci.publish.pull_request import Target, with_evidence
from kvci.record.bundle import pack, unpack
from kvci.record.from_run import build
from kvci.record.places import BENCHMARKS, RESULTS
from kvci.record.schema import Record
from kvci.record.store import read, read_all
from kvci.report.benchmarks import EMPTY, render
from kvci.review.rows import review
from kvci.run.experiment import run
from kvci.rundir.directory import RunDirectory
from kvci.rundir.documents import Outcome
from kvci.spec import Spec, hash_of, load
from tests.conftest import GOLDEN, ROOT
from tests.fake_github import serving

OLD = GOLDEN / "kvci-0.1.0"
HALF = "nightly-golden-255ae19c70e6"
NAMES = {"whole": "whole", "shards": "shards", "half": HALF}
RENAMED = {
    "smallest_visible": "minimum_detectable_effect",
    "repository_smallest_visible": "repository_minimum_detectable_effect",
}
"""Fields of a comparison that had another name in 0.1.0."""


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """The folder of the three runs."""
    with tarfile.open(OLD / "runs.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "runs"


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout in which the half run is a nightly experiment."""
    experiments = tmp_path / "ci" / "experiments"
    experiments.mkdir(parents=True)
    (tmp_path / "ci" / "models").symlink_to(ROOT / "ci" / "models")
    (tmp_path / "ci" / "results").mkdir()
    shutil.copy(OLD / "golden.toml", experiments)
    (experiments / "nightly.toml").write_text('experiments = ["golden"]\ntime_budget = 9\n')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def asked(work: Path) -> Spec:
    return load(work / "ci" / "experiments" / "golden.toml", {"out": str(work / "runs")})


def outcomes(folder: Path) -> dict[str, Outcome]:
    return {f"{one.arm} {one.instance}": one for one in RunDirectory(folder).outcomes()}


def recorded(name: str) -> list[Record]:
    """The golden records of a run, in the arms' order."""
    found = [one for one in read_all(OLD / "results") if isinstance(one, Record)]
    mine = [one for one in found if one.run_id == NAMES[name]]
    return sorted(mine, key=lambda one: one.position)


@pytest.mark.parametrize("name", NAMES)
def test_golden_run_gives_same_record_bytes(name: str, runs: Path) -> None:
    made = build(runs / NAMES[name])
    for one in made:
        assert one.model_dump_json(indent=1) + "\n" == (
            OLD / "results" / f"{one.row_id}.json"
        ).read_text(encoding="utf-8")
    assert made == recorded(name) and len(made) == 2


@pytest.mark.parametrize("name", NAMES)
def test_golden_run_gives_same_evidence_bytes(name: str, runs: Path) -> None:
    old = gzip.decompress((OLD / f"{name}.tar.gz").read_bytes())
    assert gzip.decompress(pack(runs / NAMES[name])) == old


@pytest.mark.parametrize("name", NAMES)
def test_golden_evidence_gives_same_records(name: str, tmp_path: Path) -> None:
    assert build(unpack(OLD / f"{name}.tar.gz", tmp_path / "run")) == recorded(name)


def test_golden_benchmarks_are_migrated() -> None:
    records, migrated = read_all(OLD / "results"), (OLD / "BENCHMARKS.migrated.md").read_text()
    assert render((OLD / "BENCHMARKS.md").read_text(), records) == migrated
    assert render(EMPTY, records) == migrated


@pytest.mark.parametrize("name", NAMES)
def test_golden_run_gives_same_comparison(name: str, runs: Path) -> None:
    found = compare_named([str(runs / NAMES[name])], OLD / "results")
    old = json.loads(
        (OLD / f"{name}.compare.json").read_text(),
        object_hook=lambda fields: {RENAMED.get(key, key): fields[key] for key in fields},
    )
    old["withheld"] = old["withheld"].replace("verdict", "claim")
    assert json.loads(found.model_dump_json()) == old


def test_golden_half_run_is_resumed(runs: Path, work: Path) -> None:
    before = outcomes(runs / HALF)
    folder, summary = run(asked(work), HALF, Terminal(file=io.StringIO()))
    after = outcomes(folder)
    assert summary.complete and len(before) == 2 and len(after) == 6
    assert all(after[name] == one for name, one in before.items())
    assert [one.complete for one in build(folder)] == [True, True]


def test_golden_whole_run_needs_no_server(runs: Path, work: Path) -> None:
    logs = sorted((runs / "whole" / "servers").iterdir())
    spec = asked(work).model_copy(update={"limit": 2})
    folder, summary = run(spec, "whole", Terminal(file=io.StringIO()))
    assert summary.complete and sorted((folder / "servers").iterdir()) == logs
    assert build(folder) == recorded("whole")


def test_golden_run_of_another_spec_is_refused(runs: Path, work: Path) -> None:
    spec = asked(work).model_copy(update={"max_steps": 11})
    with pytest.raises(UserError, match="made for another spec"):
        run(spec, HALF, Terminal(file=io.StringIO()))


def test_golden_evidence_is_restored_and_resumed(work: Path) -> None:
    (work / "before").mkdir()
    shutil.copy(OLD / "half.tar.gz", work / "before" / f"{artifact_name(HALF, '1/1')}.tar.gz")
    assert "2 trials" in restore(work / "before", str(work / "runs"), HALF, "1/1")[0]
    folder, summary = run(asked(work), HALF, Terminal(file=io.StringIO()))
    assert summary.complete and len(outcomes(folder)) == 6


def test_golden_shards_are_collected(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "evidence").mkdir()
    for number in (1, 2):
        content = pack(runs / "shards", f"shard-{number}-of-2")
        (tmp_path / "evidence" / f"{number}.tar.gz").write_bytes(content)
    assert collect(tmp_path / "evidence", tmp_path / "run") == recorded("shards")


def test_golden_nightly_run_is_continued(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import git

    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(work / "summary.md"))
    for one in recorded("half"):
        one.write(work / "ci" / "results" / f"{one.row_id}.json")
    with serving() as fake:
        git.Repo.init(work / "origin.git", bare=True)
        fake.origin = work / "origin.git"
        assert nightly(GitHub("owner/name", "token", fake.url), "main", "kvci/results")
        assert fake.dispatched[-1]["inputs"]["run_id"] == HALF
    assert "2/6" in (work / "summary.md").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_golden_rows_pass_review(name: str, tmp_path: Path) -> None:
    archive = (OLD / f"{name}.tar.gz").read_bytes()
    records = with_evidence(recorded(name), archive, Target("owner/name", ""))
    assert records[0].evidence.sha256 == sha256_of(archive)
    head = {f"{RESULTS}/{one.row_id}.json": one.model_dump_json(indent=1) for one in records}
    head[BENCHMARKS] = render(EMPTY, records)
    files = {path: text.encode() for path, text in head.items()}
    found = review({BENCHMARKS: EMPTY.encode()}, files, lambda url: archive)
    assert (found.problems, len(found.new)) == ((), 2)
    assert ["do not name their patches" in line for line in found.unattested] == [True, False]
    assert "name no workflow run" in found.unattested[1], "0.1.0 did not write these facts"


def test_run_of_later_version_is_refused(runs: Path, work: Path) -> None:
    place = runs / HALF / "spec.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | {"schema_version": 9}))
    before = place.read_text()
    with pytest.raises(UserError, match=r"schema 9, .* use the kvci that wrote it"):
        run(asked(work), HALF, Terminal(file=io.StringIO()))
    assert place.read_text() == before


def test_outcome_of_later_version_is_refused(runs: Path, work: Path) -> None:
    place = next((runs / HALF / "trials").glob("*/*/*/outcome.json"))
    place.write_text(json.dumps(json.loads(place.read_text()) | {"later": 1}))
    with pytest.raises(UserError, match="If another version of kvci wrote it, use that version"):
        run(asked(work), HALF, Terminal(file=io.StringIO()))


@pytest.mark.parametrize(
    "change", [{"sandbox": "vm"}, {"primary": "cheapness"}, {"prompt": "plan"}, {"lanes": 3}]
)
def test_spec_with_later_words_names_the_remedy(change: dict[str, object], runs: Path) -> None:
    place = runs / HALF / "spec.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | change))
    with pytest.raises(UserError, match="If another version of kvci wrote it, use that version"):
        compare_named([str(runs / HALF)], runs)


def later_record(place: Path, spec: dict[str, object], **fields: object) -> Path:
    """A record of today with other fields; its hash is that of its specification."""
    record = json.loads(next((OLD / "results").glob("*.json")).read_text()) | fields
    record["spec"] |= spec
    record["spec_sha256"] = hash_of(record["spec"])
    place.write_text(json.dumps(record))
    return place


@pytest.mark.parametrize(
    ("spec", "fields", "says"),
    [
        ({"primary": "cheapness"}, {}, "'cheapness' is not one of .* use that version"),
        ({"lanes": 3}, {}, "field lanes, which this kvci does not know; use the kvci that wrote"),
        ({"model": {"name": "m", "weights": "", "top_k": 4}}, {}, "field top_k, which this kvci"),
        ({}, {"schema_version": 9}, "schema_version: 9 is not one of .* use that version"),
        ({}, {"later": 9}, "field run.later does not exist.* use that version"),
    ],
)
def test_record_of_later_version_names_the_remedy(
    spec: dict[str, object], fields: dict[str, object], says: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=says):
        read(later_record(tmp_path / "record.json", spec, **fields))


def test_file_that_is_no_record_says_what_to_give(runs: Path) -> None:
    with pytest.raises(UserError, match=r"field kind is missing. Give the file of a record"):
        compare_named([str(runs / HALF / "spec.json")], runs)
