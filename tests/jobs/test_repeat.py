"""A rerun repeats trials of a run, on the machine that ran them or on another machine."""

import gzip
import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from kvci.cli import main
from kvci.errors import UserError
from kvci.jobs.inputs import rerun_inputs
from kvci.jobs.repeat import find, repeat
from kvci.jobs.restore import artifact_name, restore
from kvci.record.bundle import pack, unpack
from kvci.run.rerun import rerun_spec
from kvci.rundir.directory import RunDirectory
from kvci.rundir.documents import Manifest
from kvci.serve.gguf import locate
from kvci.spec import Spec
from tests.fake_github import Fake
from tests.jobs.test_nightly import artifact, github
from tests.record.made import SPEC
from tests.record.test_from_run import made
from tests.record.test_merge import shard

ASKED = rerun_inputs('{"run": "run", "filter": "."}')


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a repository with a file of the runs' model."""
    (tmp_path / "ci" / "models").mkdir(parents=True)
    text = 'name = "small"\nweights = "Q4_K_M"\npath = "/here/small.gguf"\n'
    (tmp_path / "ci" / "models" / "small.toml").write_text(text)
    monkeypatch.chdir(tmp_path)


def test_rerun_prefers_run_of_this_machine(tmp_path: Path) -> None:
    made(tmp_path / "run")
    spec = repeat(ASKED, str(tmp_path), "again", tmp_path / "none")
    assert spec.rerun and spec.rerun.of == "run"


@pytest.mark.parametrize("shards", [1, 2])
def test_rerun_takes_evidence_of_all_shards(
    shards: int, fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / "there" / "run"
    if shards == 1:
        made(there)
        artifact(fake, "evidence-run", pack(there))
    else:
        for number, name in ((1, "a"), (2, "b")):
            shard(there, number, (name,))
            content = pack(there, f"shard-{number}-of-2")
            artifact(fake, f"evidence-run-shard-{number}-of-2", content)
    artifact(fake, "evidence-run-2", b"of another run")
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "output"))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    find(ASKED, "main", tmp_path / "before", github(fake))
    assert (tmp_path / "output").read_text() == "before=true\n"
    text = (tmp_path / "summary.md").read_text()
    assert text.startswith("**Rerun of `run`: .**") and f"artifacts of {shards} job" in text
    spec = repeat(ASKED, str(tmp_path / "here"), "again", tmp_path / "before")
    assert spec.rerun and spec.rerun.of == "run" and spec.instances == ("a", "b")
    assert spec.shard == "1/1" and spec.engine == "auto"


def test_machine_with_one_shard_takes_both_from_evidence(fake: Fake, tmp_path: Path) -> None:
    there, out = tmp_path / "there" / "run", tmp_path / "out"
    for number, name in ((1, "a"), (2, "b")):
        shard(there, number, (name,))
        packed = pack(there, f"shard-{number}-of-2")
        artifact(fake, f"evidence-run-shard-{number}-of-2", packed)
    (out / "run").mkdir(parents=True)
    (out / "run" / "shard-1-of-2").symlink_to(there / "shard-1-of-2")
    alone = repeat(ASKED, str(out), "again", tmp_path / "before")
    assert alone.instances == ("a",), "the other shard has no evidence yet"
    find(ASKED, "main", tmp_path / "before", github(fake))
    assert repeat(ASKED, str(out), "again", tmp_path / "before").instances == ("a", "b")
    (out / "run" / "shard-2-of-2").symlink_to(there / "shard-2-of-2")
    assert repeat(ASKED, str(out), "again", tmp_path / "none").instances == ("a", "b")


def test_old_artifact_is_found_by_name(fake: Fake, tmp_path: Path) -> None:
    there = made(tmp_path / "there" / "run")
    artifact(fake, "evidence-run", pack(there))
    ours = fake.artifacts.pop()
    fake.artifacts = [*(ours | {"name": f"other-{n}"} for n in range(1000)), ours]
    find(ASKED, "main", tmp_path / "before", github(fake))
    assert repeat(ASKED, str(tmp_path / "here"), "again", tmp_path / "before").instances


def test_second_attempt_repeats_trials_of_first(fake: Fake, tmp_path: Path) -> None:
    """The run has more trials by then. With another choice, kvci would refuse the attempt."""
    there, here = tmp_path / "there" / "run", tmp_path / "here"
    made(there)
    for path in (there / "trials").rglob("outcome.json"):
        if path.parts[-3] != "a":
            path.unlink()
    artifact(fake, "evidence-run", pack(there))
    find(ASKED, "main", tmp_path / "before", github(fake))
    first = repeat(ASKED, str(here), "again", tmp_path / "before")
    again = here / "again"
    again.mkdir(parents=True)
    first.write(again / "spec.json")
    manifest = Manifest.read(there / "manifest.json")
    manifest.model_copy(update={"run_id": "again"}).write(again / "manifest.json")
    made(here / "run")
    assert repeat(ASKED, str(here), "other", tmp_path / "none").instances == ("a", "b")
    second = repeat(ASKED, str(here), "again", tmp_path / "none")
    assert second == first and second.instances == ("a",)


def test_rerun_takes_newer_trials_of_other_machine(fake: Fake, tmp_path: Path) -> None:
    there, here = tmp_path / "there" / "run", tmp_path / "here"
    made(there)
    made(here / "run")
    for path in (here / "run" / "trials").rglob("outcome.json"):
        if path.parts[-3] != "a":
            path.unlink()
    artifact(fake, "evidence-run", pack(there))
    find(ASKED, "main", tmp_path / "before", github(fake))
    assert repeat(ASKED, str(here), "again", tmp_path / "none").instances == ("a",)
    assert repeat(ASKED, str(here), "again", tmp_path / "before").instances == ("a", "b")


def hostile(there: Path) -> Path:
    """Make a run whose specification names programs to execute, also in its archive."""
    made(there)
    manifest = Manifest.read(there / "manifest.json")
    manifest.model_copy(update={"redacted": True}).write(there / "manifest.json")
    asked = Spec.read(there / "spec.json")
    model = asked.model.model_copy(update={"path": None, "package": "os:getcwd"})
    given = {"engine": "/bin/echo", "mirror": "elsewhere:1", "model": model}
    asked.model_copy(update=given).write(there / "spec.json")
    return there


def test_artifact_does_not_choose_engine_or_model(fake: Fake, tmp_path: Path) -> None:
    there = hostile(tmp_path / "there" / "run")
    artifact(fake, "evidence-run", pack(there))
    find(ASKED, "main", tmp_path / "before", github(fake))
    spec = repeat(ASKED, str(tmp_path / "here"), "again", tmp_path / "before")
    assert (spec.engine, spec.mirror, spec.model.path) == ("auto", None, "/here/small.gguf")
    (tmp_path / "ci" / "models" / "small.toml").unlink()
    with pytest.raises(UserError, match="No file in ci/models has the model small"):
        repeat(ASKED, str(tmp_path / "here"), "again", tmp_path / "before")


def test_restored_run_does_not_choose_engine_or_model(tmp_path: Path) -> None:
    """This is true for both commands, before and after the run is resumed."""
    before, folder = tmp_path / "before", tmp_path / "runs" / "run"
    before.mkdir()
    there = hostile(tmp_path / "there" / "run")
    (before / f"{artifact_name('run', '1/1')}.tar.gz").write_bytes(pack(there))
    restore(before, str(tmp_path / "runs"), "run", "1/1")
    spec = repeat(ASKED, str(tmp_path / "runs"), "again", tmp_path / "none")
    assert (spec.engine, spec.mirror, spec.model.path) == ("auto", None, "/here/small.gguf")
    by_hand, kept = rerun_spec(folder, None, ".", False), Spec.read(folder / "spec.json")
    for spec in (by_hand, kept):
        assert (spec.engine, spec.mirror, spec.model.package) == ("auto", None, None)
    with pytest.raises(UserError, match="of another machine does not exist"):
        locate(by_hand.model)
    digests = "1" * 64, "2" * 64
    assert kept.hash(*digests) == SPEC.hash(*digests)


def test_resumed_run_uses_specification_of_this_machine(tmp_path: Path) -> None:
    run = hostile(tmp_path / "run")
    with RunDirectory(run) as directory:
        directory.open("run", SPEC, "1" * 64, "2" * 64, "bwrap", False, ("a", "b"))
    assert Spec.read(run / "spec.json") == SPEC
    spec = rerun_spec(run, None, ".", False)
    assert (spec.engine, spec.mirror, spec.model) == (SPEC.engine, None, SPEC.model)


def test_archive_with_run_and_shards_is_refused(tmp_path: Path) -> None:
    run, shards = made(tmp_path / "run"), tmp_path / "shards"
    shutil.copytree(run, shards / "shard-1-of-2")
    both = io.BytesIO(gzip.decompress(pack(run)))
    with (
        tarfile.open(fileobj=both, mode="a") as archive,
        tarfile.open(fileobj=io.BytesIO(pack(shards))) as more,
    ):
        for member in more:
            archive.addfile(member, more.extractfile(member))
    (tmp_path / "x.tar.gz").write_bytes(gzip.compress(both.getvalue()))
    (tmp_path / "place").mkdir()
    with pytest.raises(UserError, match="both a whole run and shards"):
        unpack(tmp_path / "x.tar.gz", tmp_path / "place")


def test_rerun_of_unknown_run_is_explained(fake: Fake, tmp_path: Path) -> None:
    find(ASKED, "main", tmp_path / "before", github(fake))
    with pytest.raises(UserError, match="rerun it on the machine that ran it"):
        repeat(ASKED, str(tmp_path), "again", tmp_path / "before")
    form = json.dumps({"run": "run", "errors": True})
    words = ["ci", "repeat", "--inputs", form, "--out", str(tmp_path), "--run-id", "again"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 2 and "rerun it on the machine" in done.output
