"""Both models, live: claims of harm where harm is known, and nowhere else."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from kvci.cli import main
from kvci.compare.compare import compare
from kvci.compare.side import side_of
from kvci.console import Terminal
from kvci.demo.known_answer import INSTANCES_MIN, MODELS, agrees, spec_fields
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


def test_the_demo_reproduces_the_known_answer(tmp_path: Path) -> None:
    words = ["demo", "--out", str(tmp_path), "--instances", str(INSTANCES), "--strong"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    assert "The known answer is reproduced" in done.output
    assert len(re.findall("DISAGREES", done.output)) == 0
    plain, twin = (records(next(tmp_path.glob(f"demo-{name}-*"))) for name in ("plain", "twin"))
    for arm in plain.values():
        assert arm.resolved == INSTANCES, arm.arm
    assert twin["q8_0-q8_0"].resolved == INSTANCES
    assert twin["q4_0-q4_0"].resolved <= 1
    for one, other in zip(plain["f16-f16"].counted, twin["f16-f16"].counted, strict=True):
        assert one.answers_sha256 == other.answers_sha256, "the twin differs in f16"


def test_the_twin_answers_the_same_in_f16(tmp_path: Path) -> None:
    answers = []
    for model in MODELS:
        spec = load(None, spec_fields(model, INSTANCES, str(tmp_path)) | {"arms": ("f16/f16",)})
        folder, _ = run(spec, model, Terminal(quiet=True))
        (record,) = build(folder, row=False)
        answers.append([trial.answers_sha256 for trial in record.counted])
    assert answers[0] == answers[1] and len(answers[0]) == INSTANCES


@pytest.mark.parametrize(
    ("model", "q4", "expected"),
    [
        ("plain", "ok", True),
        ("plain", "fail", False),
        ("twin", "ok", False),
        ("twin", "fail", True),
    ],
)
def test_a_claim_against_the_known_answer_disagrees(model: str, q4: str, expected: bool) -> None:
    ends = {"f16/f16": ["ok"] * 12, "q8_0/q8_0": ["ok"] * 12, "q4_0/q4_0": [q4] * 12}
    found = compare([side for record in made.run(ends) if (side := side_of(record))])
    assert [agrees(model, arm, found.alpha) for arm in found.arms] == [True, expected]


@pytest.mark.parametrize(("lost", "expected"), [(2, True), (6, False)])
def test_a_control_beyond_chance_disagrees(lost: int, expected: bool) -> None:
    control = ["fail"] * lost + ["ok"] * (12 - lost)
    ends = {"f16/f16": ["ok"] * 12, "f16/f16 -ub 32": control, "q4_0/q4_0": ["ok"] * 12}
    found = compare([side for record in made.run(ends) if (side := side_of(record))])
    assert [agrees("plain", arm, found.alpha) for arm in found.arms] == [expected, True]


def test_the_example_is_the_demo_without_control() -> None:
    example = load(ROOT / "ci" / "experiments" / "demo.toml", {})
    demo = load(None, spec_fields("plain", INSTANCES_MIN, example.out))
    assert [arm.id for arm in example.arms] == [arm.id for arm in demo.arms if not arm.flags]
    same = {"model": demo.model, "arms": demo.arms}
    assert example.model_copy(update=same) == demo


def test_a_missing_twin_stops_before_any_run(
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
