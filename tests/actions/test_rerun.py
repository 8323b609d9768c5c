"""Trials of a run that another machine ran are run again."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from kvci.actions.inputs import rerun_inputs
from kvci.actions.rerun import find, rerun
from kvci.cli import main
from kvci.errors import UserError
from kvci.record.evidence import pack
from kvci.spec import Spec
from tests.actions.test_nightly import artifact, github
from tests.publish.fake_github import Fake
from tests.record.test_build import made
from tests.record.test_merge import shard

ASKED = rerun_inputs('{"run": "run", "filter": "."}')


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The repository's own word on the model of the runs here."""
    (tmp_path / "ci" / "models").mkdir(parents=True)
    text = 'name = "small"\nweights = "Q4_K_M"\npath = "/here/small.gguf"\n'
    (tmp_path / "ci" / "models" / "small.toml").write_text(text)
    monkeypatch.chdir(tmp_path)


def test_what_is_on_this_machine_is_taken_first(tmp_path: Path) -> None:
    made(tmp_path / "run")
    spec = rerun(ASKED, str(tmp_path), tmp_path / "none")
    assert spec.rerun and spec.rerun.of == "run"


@pytest.mark.parametrize("shards", [1, 2])
def test_else_the_evidence_of_all_its_shards(
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
    said = (tmp_path / "summary.md").read_text()
    assert said.startswith("**Run again of `run`: .**") and f"{shards} jobs left evidence" in said
    spec = rerun(ASKED, str(tmp_path / "here"), tmp_path / "before")
    assert spec.rerun and spec.rerun.of == "run" and spec.instances == ("a", "b")
    assert spec.shard == "1/1" and spec.engine == "auto"


def test_a_machine_that_had_one_shard_of_two_takes_the_evidence_of_both(
    fake: Fake, tmp_path: Path
) -> None:
    there, out = tmp_path / "there" / "run", tmp_path / "out"
    for number, name in ((1, "a"), (2, "b")):
        shard(there, number, (name,))
        packed = pack(there, f"shard-{number}-of-2")
        artifact(fake, f"evidence-run-shard-{number}-of-2", packed)
    (out / "run").mkdir(parents=True)
    (out / "run" / "shard-1-of-2").symlink_to(there / "shard-1-of-2")
    assert rerun(ASKED, str(out), tmp_path / "before").instances == ("a",), "nobody has the other"
    find(ASKED, "main", tmp_path / "before", github(fake))
    assert rerun(ASKED, str(out), tmp_path / "before").instances == ("a", "b")
    (out / "run" / "shard-2-of-2").symlink_to(there / "shard-2-of-2")
    assert rerun(ASKED, str(out), tmp_path / "none").instances == ("a", "b")


def test_what_another_machine_did_since_is_taken(fake: Fake, tmp_path: Path) -> None:
    there, here = tmp_path / "there" / "run", tmp_path / "here"
    made(there)
    made(here / "run")
    for path in (here / "run" / "trials").rglob("outcome.json"):
        if path.parts[-3] != "a":
            path.unlink()
    artifact(fake, "evidence-run", pack(there))
    find(ASKED, "main", tmp_path / "before", github(fake))
    assert rerun(ASKED, str(here), tmp_path / "none").instances == ("a",)
    assert rerun(ASKED, str(here), tmp_path / "before").instances == ("a", "b")


def test_an_artifact_does_not_say_what_is_executed(fake: Fake, tmp_path: Path) -> None:
    there = tmp_path / "there" / "run"
    made(there)
    asked = Spec.read(there / "spec.json")
    model = asked.model.model_copy(update={"path": None, "package": "os:getcwd"})
    given = {"engine": "/bin/echo", "mirror": "elsewhere:1", "model": model}
    asked.model_copy(update=given).write(there / "spec.json")
    artifact(fake, "evidence-run", pack(there))
    find(ASKED, "main", tmp_path / "before", github(fake))
    spec = rerun(ASKED, str(tmp_path / "here"), tmp_path / "before")
    assert (spec.engine, spec.mirror, spec.model.path) == ("auto", None, "/here/small.gguf")
    (tmp_path / "ci" / "models" / "small.toml").unlink()
    with pytest.raises(UserError, match="No file of ci/models has the model small"):
        rerun(ASKED, str(tmp_path / "here"), tmp_path / "before")


def test_a_run_that_nobody_has_is_a_sentence(fake: Fake, tmp_path: Path) -> None:
    find(ASKED, "main", tmp_path / "before", github(fake))
    with pytest.raises(UserError, match="rerun it on the machine that ran it"):
        rerun(ASKED, str(tmp_path), tmp_path / "before")
    form = json.dumps({"run": "run", "errors": True})
    words = ["ci", "rerun", "--inputs", form, "--out", str(tmp_path), "--run-id", "again"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 2 and "rerun it on the machine" in done.output
