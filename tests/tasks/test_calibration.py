"""Test the calibration suite. swebench grades the gold patch of each instance, and no patch."""

import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from swebench.harness.grading import get_eval_report
from swebench.harness.utils import make_test_spec

from kvci.errors import UserError
from kvci.tasks.bugs import BUGS, Bug
from kvci.tasks.calibration import (
    SHADOWED,
    SYLLABLES,
    TESTS,
    _Function,
    _name,
    generate,
    split_of,
    suite,
)
from kvci.tasks.instance import Instance

SUITE = [
    generate("test", seed, functions, files)
    for seed in range(20)
    for functions, files in ((4, 1), (16, 3))
]


def resolves(instance: Instance, folder: Path, patch: str) -> bool:
    """Return True if the patch resolves. kvci wrote the code, so it needs no sandbox."""
    tree = folder / "testbed"
    for name, text in instance.files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
    if patch:
        subprocess.run(["git", "apply", "-"], cwd=tree, input=patch, text=True, check=True)
    script = instance.row.eval_script.replace("cd /testbed", f"cd {tree}")
    out = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60)
    log = folder / "test_output.txt"
    log.write_text(out.stdout)
    name = instance.row.instance_id
    report = get_eval_report(
        test_spec=make_test_spec(instance.row.model_dump(mode="json")),
        prediction={"instance_id": name, "model_patch": patch or "x", "model_name_or_path": "x"},
        test_log_path=str(log),
        include_tests_status=True,
    )
    status = report[name]["tests_status"]
    assert not status["PASS_TO_PASS"]["failure"]
    return bool(report[name]["resolved"])


@pytest.mark.parametrize("instance", SUITE, ids=lambda instance: instance.row.instance_id)
def test_gold_resolves_and_empty_does_not(instance: Instance, tmp_path: Path) -> None:
    assert resolves(instance, tmp_path / "gold", instance.row.patch)
    assert not resolves(instance, tmp_path / "empty", "")


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.kind)
def test_every_kind_is_a_bug_for_every_constant(bug: Bug) -> None:
    for constant in range(2, 21):
        function = _Function("f", bug, constant, "m.py")
        assert any(function.call(c) != function.call(c, broken=True) for c in bug.calls)


def test_the_seed_determines_the_bytes() -> None:
    assert generate("test", 7) == generate("test", 7)
    assert generate("test", 7) != generate("test", 8)
    assert len({instance.row.instance_id for instance in SUITE}) == len(SUITE)


def test_the_splits_share_no_name() -> None:
    for split in ("train", "test"):
        for seed in range(20):
            one = generate(split, seed, functions=8, files=3)
            tests = one.row.FAIL_TO_PASS + one.row.PASS_TO_PASS
            names = {test.partition("::test_")[2] for test in tests}
            names |= {name.removesuffix(".py") for name in one.files if name != TESTS}
            assert len(names) == 11 and {split_of(name) for name in names} == {split}


def test_the_splits_share_no_random_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: dict[str, set[str]] = {"train": set(), "test": set()}
    real = random.Random
    for split in ("train", "test"):

        def noted(seed: str, split: str = split) -> random.Random:
            seeds[split].add(seed)
            return real(seed)

        monkeypatch.setattr("kvci.tasks.calibration.random.Random", noted)
        for seed in range(50):
            generate(split, seed)
    assert len(seeds["train"]) == len(seeds["test"]) == 50
    assert seeds["train"].isdisjoint(seeds["test"])


def test_half_of_the_issues_name_the_file() -> None:
    named = [".py" in generate("test", seed).row.problem_statement for seed in range(200)]
    assert 70 < sum(named) < 130
    words = r"[a-z]+\(.*\)( in [a-z]+\.py)? gives the wrong result\.\nExpected: .*\nGot: .*\n"
    issue = re.compile(words)
    assert all(issue.fullmatch(generate("test", s).row.problem_statement) for s in range(200))


def test_the_suite_has_ten_kinds_of_bug() -> None:
    assert len({generate("train", seed).kind for seed in range(200)}) >= 10


def test_a_suite_by_its_name() -> None:
    found = suite("calibration:split=train,functions=4,count=3,first=5")
    names = [instance.row.instance_id for instance in found]
    assert names == [f"calibration__train-4x1-{seed}" for seed in (5, 6, 7)]
    for bad in ("calibration:colour=3", "calibration:count=x", "calibration:split=dev"):
        with pytest.raises(UserError, match="is not an option of"):
            suite(bad)
    with pytest.raises(UserError, match="cannot fill"):
        suite("calibration:functions=2,files=3")


def test_no_module_hides_a_standard_module() -> None:
    """Python would import the standard module, which does not contain the function."""
    name = re.compile(f"(?:{'|'.join(SYLLABLES)}){{2,3}}")
    assert {module for module in sys.stdlib_module_names if name.fullmatch(module)} == SHADOWED
    rng = random.Random(0)
    assert SHADOWED.isdisjoint(_name(rng, "train") for _ in range(50_000))
