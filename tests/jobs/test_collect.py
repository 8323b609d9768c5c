"""The collect job merges untrusted archives of shards into one run."""

import io
import json
import tarfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from kvci.cli import main
from kvci.errors import UserError
from kvci.jobs.collect import collect, summary_text
from kvci.jobs.pack import pack_shard
from kvci.record.bundle import pack
from kvci.record.from_run import build
from kvci.record.store import read_all, write
from kvci.rundir.documents import Manifest
from tests.record.made import SPEC
from tests.record.test_from_run import made
from tests.record.test_merge import shard


def test_summary_of_merged_shards_starts_with_claim(tmp_path: Path) -> None:
    shard(tmp_path / "run", 1, ("a",))
    shard(tmp_path / "run", 2, ("b",))
    for number in (1, 2):
        place = tmp_path / "evidence" / f"evidence-{number}"
        place.mkdir(parents=True)
        (place / "x.tar.gz").write_bytes(pack(tmp_path / "run", f"shard-{number}-of-2"))
    records = collect(tmp_path / "evidence", tmp_path / "made")
    assert [len(record.trials) for record in records] == [2, 2]
    claim, *_, plot = summary_text(records).strip().split("\n\n")
    assert claim.startswith("**q8_0-q8_0: ") and claim.endswith("**")
    assert plot.startswith("```mermaid\nxychart-beta") and 'x-axis ["f16-f16", "q8_0-q8_0"]' in plot
    assert "Resolved, %" in plot and "bar [100.0, 100.0]" in plot
    plot = summary_text(
        [record.model_copy(update={"trials": record.trials[:1]}) for record in records]
    )
    assert "Trials done, %" in plot and "bar [50.0, 50.0]" in plot, "no rate before the end"
    with pytest.raises(UserError, match="is not empty; give a new folder"):
        collect(tmp_path / "evidence", tmp_path / "made")


@pytest.mark.parametrize("left", [("shard-1-of-2", "shard-2-of-2"), ("",)], ids=["jobs", "release"])
def test_missing_shard_comes_from_earlier_job(left: tuple[str, ...], tmp_path: Path) -> None:
    """Otherwise, the published record and tonight's run would each lack trials of the other."""
    run, before, evidence = (tmp_path / name for name in ("run", "before", "evidence"))
    before.mkdir()
    evidence.mkdir()
    shard(run, 2, ("b",))
    late = shard(run, 1, ("a", "c")) / "trials"
    for trials in late.iterdir():
        (trials / "c").rename(tmp_path / trials.name)
    write(build(run), tmp_path / "results")
    for part in left:
        (before / f"evidence-run{part and '-'}{part}.tar.gz").write_bytes(pack(run, part))
    for trials in late.iterdir():
        (tmp_path / trials.name).rename(trials / "c")
    (evidence / "x.tar.gz").write_bytes(pack(run, "shard-1-of-2"))
    found = collect(evidence, tmp_path / "tonight", before)
    assert [len(record.counted) for record in found] == [3, 3] and found == build(run)
    write(found, tmp_path / "results")
    assert read_all(tmp_path / "results") == found
    assert pack(tmp_path / "tonight") == pack(run)
    assert not list(tmp_path.glob(".tonight*"))


def test_shard_summary_shows_progress_without_claims(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(tmp_path / "run")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    monkeypatch.setenv("RUNNER_TEMP", str(tmp_path))
    pack_shard(str(tmp_path), "run", "1/1")
    head, table, plot = (tmp_path / "summary.md").read_text().strip().split("\n\n")
    assert head == "**3 of 4 trials are done** (interim, no claim)"
    assert "| q8_0-q8_0 | 1/2 | 1 | 0 |" in table and plot.startswith("```mermaid")
    assert "Trials done, %" in plot and "bar [100.0, 50.0]" in plot
    assert (tmp_path / "evidence-run.tar.gz").exists()


@pytest.mark.parametrize("content", [b"", b"junk", b"\x1f\x8b\x08\x00junk"])
def test_artifact_without_evidence_is_refused(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="contains no evidence"):
        collect(tmp_path, tmp_path / "made")
    (tmp_path / "x.tar.gz").write_bytes(content)
    with pytest.raises(UserError, match="is not evidence of a run"):
        collect(tmp_path, tmp_path / "made")


TRIAL = "trials/f16-f16/a/0"


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("spec.json", {"max_steps": 77}, "the spec does not have the hash"),
        (f"{TRIAL}/outcome.json", {"start": "2026-99-99T00:00:00Z"}, "start: month must be in"),
        (f"{TRIAL}/outcome.json", {"end": "2026-99-99T00:00:00Z"}, "end: month must be in"),
        ("manifest.json", {"start": "2026-13-01T00:00:00Z"}, "start: month must be in"),
        (f"{TRIAL}/grade/report.json", b"[" * 200_000, "is not a test report"),
    ],
)
def test_hostile_evidence_is_reported_in_one_sentence(
    file: str,
    content: dict[str, object] | bytes,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = made(tmp_path / "run")
    manifest = Manifest.read(run / "manifest.json").model_dump() | {"redacted": True}
    if isinstance(content, dict):
        was = manifest if file == "manifest.json" else json.loads((run / file).read_bytes())
        content = json.dumps(was | content).encode()
    place = tmp_path / "evidence.tar.gz"
    packed = [path for folder in ("servers", "trials") for path in (run / folder).rglob("*.*")]
    packed = [path for path in [run / "spec.json", *packed] if path.is_file()]
    written = {str(path.relative_to(run)): path.read_bytes() for path in packed}
    written |= {"manifest.json": json.dumps(manifest).encode(), file: content}
    with tarfile.open(place, "w:gz") as archive:
        for name, text in written.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    done = CliRunner().invoke(main, ["ci", "collect", str(tmp_path), "--out", str(tmp_path / "x")])
    assert done.exit_code == 2 and done.output.count("\n") == 1 and says in done.output
    assert says in (tmp_path / "summary.md").read_text()


def test_two_archives_of_one_shard_are_refused(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    for name in ("a", "b"):
        (tmp_path / f"{name}.tar.gz").write_bytes(pack(run))
    with pytest.raises(UserError, match="give one archive per shard"):
        collect(tmp_path, tmp_path / "made")


def test_specification_unlike_the_plan_is_refused(tmp_path: Path) -> None:
    """A runner may change the margin when it knows the results."""
    evidence = tmp_path / "evidence"
    evidence.mkdir()
    archive = pack(made(tmp_path / "run"))
    (evidence / "evidence-run.tar.gz").write_bytes(archive)
    assert collect(evidence, tmp_path / "same", asked=SPEC.asked)
    other = SPEC.model_copy(update={"margin": 0.5})
    with pytest.raises(UserError, match="another specification than the plan"):
        collect(evidence, tmp_path / "other", asked=other.asked)
