"""Both controls, live: what is harmless is not called harmful, what is harmful is."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from kvci.cli import main
from kvci.compare.compare import compare
from kvci.compare.side import side_of
from kvci.demo.known_answer import ENOUGH, MODELS, asked, right
from kvci.record.from_run import build
from kvci.record.schema import Record
from kvci.record.store import read_all
from kvci.run.experiment import run
from kvci.spec import load
from tests.compare import made
from tests.conftest import ROOT

INSTANCES = 6


def records(folder: Path) -> dict[str, Record]:
    found = [record for record in read_all(folder / "results") if isinstance(record, Record)]
    return {record.arm: record for record in found}


def test_what_is_known_comes_out(tmp_path: Path) -> None:
    words = ["demo", "--out", str(tmp_path), "--instances", str(INSTANCES), "--strong"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    assert "What is known came out" in done.output
    assert len(re.findall("NOT as known", done.output)) == 0
    plain, twin = (records(next(tmp_path.glob(f"demo-{name}-*"))) for name in ("plain", "twin"))
    for arm in plain.values():
        assert arm.resolved == INSTANCES, arm.arm
    assert twin["q8_0-q8_0"].resolved == INSTANCES
    assert twin["q4_0-q4_0"].resolved <= 1
    for one, other in zip(plain["f16-f16"].counted, twin["f16-f16"].counted, strict=True):
        assert one.answers_sha256 == other.answers_sha256, "the twin is not the same in f16"


def test_the_twin_says_in_f16_what_the_plain_model_says(tmp_path: Path) -> None:
    answers = []
    for model in MODELS:
        spec = load(None, asked(model, INSTANCES, str(tmp_path)) | {"arms": ("f16/f16",)})
        folder, _ = run(spec, model, Console(quiet=True))
        (record,) = build(folder, row=False)
        answers.append([trial.answers_sha256 for trial in record.counted])
    assert answers[0] == answers[1] and len(answers[0]) == INSTANCES


@pytest.mark.parametrize(
    ("model", "q4", "fine"),
    [
        ("plain", "ok", True),
        ("plain", "fail", False),
        ("twin", "ok", False),
        ("twin", "fail", True),
    ],
)
def test_a_verdict_that_is_not_as_known_is_said_to_be_so(model: str, q4: str, fine: bool) -> None:
    ends = {"f16/f16": ["ok"] * 12, "q8_0/q8_0": ["ok"] * 12, "q4_0/q4_0": [q4] * 12}
    found = compare([side for record in made.run(ends) if (side := side_of(record))])
    assert [right(model, arm, found.alpha) for arm in found.arms] == [True, fine]


@pytest.mark.parametrize(("lost", "fine"), [(2, True), (6, False)])
def test_a_control_beyond_chance_is_not_as_known(lost: int, fine: bool) -> None:
    control = ["fail"] * lost + ["ok"] * (12 - lost)
    ends = {"f16/f16": ["ok"] * 12, "f16/f16 -ub 32": control, "q4_0/q4_0": ["ok"] * 12}
    found = compare([side for record in made.run(ends) if (side := side_of(record))])
    assert [right("plain", arm, found.alpha) for arm in found.arms] == [fine, True]


def test_the_example_experiment_is_the_demo_without_its_control() -> None:
    example = load(ROOT / "ci" / "experiments" / "demo.toml", {})
    demo = load(None, asked("plain", ENOUGH, example.out))
    assert [arm.id for arm in example.arms] == [arm.id for arm in demo.arms if not arm.flags]
    same = {"model": demo.model, "arms": demo.arms}
    assert example.model_copy(update=same) == demo


def test_a_twin_that_cannot_be_made_is_said_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVCI_CACHE", "/proc/none")
    done = CliRunner().invoke(main, ["demo", "--out", str(tmp_path / "runs"), "--strong"])
    assert done.exit_code == 2 and "KVCI_CACHE" in done.output
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("words", "enough"), [(("19",), 20), (("5", "--strong"), 6)])
def test_too_few_instances_are_refused(tmp_path: Path, words: tuple[str, ...], enough: int) -> None:
    done = CliRunner().invoke(
        main, ["demo", "--out", str(tmp_path / "runs"), "--instances", *words]
    )
    assert done.exit_code == 2 and f"give at least {enough}" in done.output
    assert not (tmp_path / "runs").exists()
