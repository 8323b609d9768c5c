"""Test the preflight: it grades gold patch and base commit of each instance before any trial."""

from pathlib import Path

import pytest

from kvci.console import Terminal
from kvci.errors import UserError
from kvci.run import preflight as preflight_module
from kvci.run.experiment import run
from kvci.run.preflight import _grade_gold_and_base, preflight
from kvci.run.sandboxes import Sandboxes
from kvci.rundir.directory import RunDirectory
from kvci.rundir.documents import Ceiling, Graded, Manifest
from kvci.sandbox import Caps
from kvci.spec import load
from kvci.tasks.calibration import generate, suite
from kvci.tasks.instance import Instance
from kvci.tasks.script import script
from kvci.taxonomy import Verdict
from tests.made_images import calibration_image

GOOD = generate("test", 1, functions=4)


def changed(instance: Instance, **columns: object) -> Instance:
    return Instance(instance.row.model_copy(update=columns), instance.files, instance.kind)


def test_tests_that_pass_without_patch_are_invalid(tmp_path: Path) -> None:
    sandboxes = Sandboxes("bwrap", tmp_path, Caps())
    assert preflight(sandboxes, GOOD, tmp_path / "a", 20.0).verdict is Verdict.RESOLVED
    passing = changed(GOOD, FAIL_TO_PASS=GOOD.row.PASS_TO_PASS[:1])
    found = preflight(sandboxes, passing, tmp_path / "b", 20.0)
    assert (found.verdict, found.detail) == (
        Verdict.TESTS_FAIL,
        "the tests pass without any patch",
    )


def test_tests_that_need_network_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def grade_once(*asked: object, network: bool = False) -> Graded:
        verdict = Verdict.RESOLVED if network else Verdict.TESTS_FAIL
        return Graded(verdict=verdict, applies=True)

    monkeypatch.setattr(preflight_module, "grade_once", grade_once)
    found = _grade_gold_and_base(Sandboxes("docker", tmp_path, Caps()), GOOD, tmp_path, 1.0)
    assert found.verdict is Verdict.TESTS_FAIL and "only with a network" in found.detail


def test_container_has_network_only_for_network_check(tmp_path: Path) -> None:
    calibration_image()
    outside = "ls /sys/class/net | grep -qv lo || sed -i 's/assert/assert not/' tests/test_all.py\n"
    start = "echo '>>>>> Start Test Output'"
    needs = changed(GOOD, eval_script=GOOD.row.eval_script.replace(start, outside + start))
    found = _grade_gold_and_base(Sandboxes("docker", tmp_path, Caps()), needs, tmp_path, 60.0)
    assert found.verdict is Verdict.TESTS_FAIL and "only with a network" in found.detail
    online = Sandboxes("docker", tmp_path, Caps(), grade_network=True)
    assert _grade_gold_and_base(online, needs, tmp_path, 60.0).verdict is Verdict.RESOLVED


def test_only_gold_patches_that_resolve_are_cached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVCI_CACHE", str(tmp_path / "cache"))
    asked: list[float] = []
    images = {"image": "sha256:1"}

    result = Graded(verdict=Verdict.RESOLVED, applies=True)

    def answer(*rest: object) -> Graded:
        asked.append(1)
        return result

    monkeypatch.setattr(preflight_module, "_grade_gold_and_base", answer)
    monkeypatch.setattr(Sandboxes, "identity", lambda *_: images["image"])
    sandboxes = Sandboxes("docker", tmp_path, Caps())
    for _ in range(2):
        preflight(sandboxes, GOOD, tmp_path, 20.0)
    assert len(asked) == 1
    images["image"] = "sha256:2"
    preflight(sandboxes, GOOD, tmp_path, 20.0)
    preflight(sandboxes, GOOD, tmp_path, 40.0)
    preflight(sandboxes, changed(GOOD, version="other"), tmp_path, 20.0)
    monkeypatch.setattr(preflight_module, "host", lambda: "another, with the same home")
    preflight(sandboxes, GOOD, tmp_path, 20.0)
    assert len(asked) == 5
    monkeypatch.setattr("kvci.grade.eval_script.script_of", lambda row: "of another harness")
    preflight(sandboxes, GOOD, tmp_path, 20.0)
    assert len(asked) == 6
    for verdict, again in ((Verdict.TESTS_FAIL, True), (Verdict.RESOLVED, False)):
        result = Graded(verdict=verdict, applies=True)
        images["image"] = f"sha256:{verdict}"
        before = len(asked)
        assert {preflight(sandboxes, GOOD, tmp_path, 20.0).verdict for _ in "ab"} == {verdict}
        assert (len(asked) - before == 2) is again, "an invalid instance needs its logs"
    for cache in (tmp_path / "cache" / "preflight").iterdir():
        Graded(verdict=Verdict.TESTS_FAIL, applies=True).write(cache)  # as an earlier kvci did
    assert preflight(sandboxes, GOOD, tmp_path, 20.0).verdict is Verdict.RESOLVED


def test_ceiling_is_known_before_any_trial(tmp_path: Path) -> None:
    instances = suite("calibration:split=test,functions=4,count=2")
    rows = [one.row for one in instances]
    broken = rows[1].model_copy(update={"FAIL_TO_PASS": ("tests/test_all.py::test_none",)})
    known = {one.row.instance_id: one for one in instances}
    known[broken.instance_id] = Instance(broken, instances[1].files)
    answers, _ = script(instances)
    answers.write(tmp_path / "script.json")
    spec = load(
        None,
        {
            "model": {"name": "scripted", "package": "kvci.demo.model:plain"},
            "arms": ["f16/f16"],
            "dataset": "calibration:split=test,functions=4,count=2",
            "engine": f"replay:{tmp_path / 'script.json'}",
            "context": 4096,
            "preflight_first": True,
            "out": str(tmp_path),
        },
    )
    with pytest.MonkeyPatch.context() as patch:
        loaded = (list(known.values()), "c0ffee")
        patch.setattr("kvci.run.experiment.load_with_revision", lambda *_: loaded)
        folder, _ = run(spec, "r", Terminal())
        ceiling = Ceiling.read(folder / "ceiling.json")
        run(spec, "r", Terminal())
    assert Ceiling.read(folder / "ceiling.json") == ceiling, (
        "of all blocks, not of the remaining ones"
    )
    assert Manifest.read(folder / "manifest.json").dataset_revision == "c0ffee"
    assert ceiling.valid == (rows[0].instance_id,)
    assert list(ceiling.invalid) == [broken.instance_id]
    assert "The gold patch resolves 1 of 2 instances on this machine" in ceiling.line()
    assert {str(one.cls) for one in RunDirectory(folder).outcomes()} == {"OK", "I0"}


def test_resume_with_another_dataset_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an earlier version, a resume used the dataset of the first start without a message."""
    one = suite("calibration:split=test,functions=3,count=2")[:1]
    script(one)[0].write(tmp_path / "script.json")
    asked = {
        "model": {"name": "scripted", "package": "kvci.demo.model:plain"},
        "arms": ["f16/f16"],
        "dataset": "a/b@first",
        "engine": f"replay:{tmp_path / 'script.json'}",
        "context": 4096,
        "out": str(tmp_path),
    }
    datasets = {"a/b@first": one, "a/b@second": [changed(one[0], version="other")]}
    known: list[str] = []

    def loads(name: str, commit: str) -> tuple[list[Instance], str]:
        known.append(commit)
        return datasets[name], "c0ffee"

    monkeypatch.setattr("kvci.run.experiment.load_with_revision", loads)
    run(load(None, asked), "r", Terminal(quiet=True))
    run(load(None, asked), "r", Terminal(quiet=True))
    with pytest.raises(UserError, match="made for another spec"):
        run(load(None, asked | {"dataset": "a/b@second"}), "r", Terminal(quiet=True))
    assert known == ["", "c0ffee", ""]


OK, FAILS = (
    Graded(verdict=Verdict.RESOLVED, applies=True),
    Graded(verdict=Verdict.TESTS_FAIL, applies=True),
)
INFRA = Graded(verdict=Verdict.GRADING_FAILED, detail="Docker: gone")
OURS = Graded(verdict=Verdict.NOT_GRADED, detail="a bug of kvci's")


@pytest.mark.parametrize(
    ("answers", "verdict"),
    [
        ([OK, FAILS], Verdict.RESOLVED),
        ([INFRA, INFRA, OK, FAILS], Verdict.RESOLVED),
        ([INFRA, FAILS, INFRA, OK, FAILS], Verdict.RESOLVED),
        ([FAILS, FAILS], Verdict.TESTS_FAIL),
        ([INFRA] * 3, Verdict.GRADING_FAILED),
        ([OURS] * 3, Verdict.NOT_GRADED),
        ([OK, INFRA, INFRA, FAILS], Verdict.RESOLVED),
        ([OK, INFRA, INFRA, INFRA], Verdict.GRADING_FAILED),
        ([OK, OK], Verdict.TESTS_FAIL),
    ],
)
def test_preflight_retries_infrastructure_failures(
    answers: list[Graded], verdict: Verdict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = list(answers)
    monkeypatch.setattr(preflight_module, "grade_once", lambda *asked, network=False: left.pop(0))
    assert (
        _grade_gold_and_base(Sandboxes("bwrap", tmp_path, Caps()), GOOD, tmp_path, 1.0).verdict
        is verdict
    )
    assert not left


def test_ungradable_gold_patch_drops_only_its_instance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an earlier version, such an instance prevented its whole block from running."""
    dataset = "calibration:split=test,functions=3,count=2"
    instances = suite(dataset)
    script(instances)[0].write(tmp_path / "script.json")
    asked = {
        "model": {"name": "kvci-calibration", "package": "kvci.demo.model:plain"},
        "arms": ["f16/f16"],
        "dataset": dataset,
        "engine": f"replay:{tmp_path / 'script.json'}",
        "context": 4096,
        "preflight_first": True,
        "out": str(tmp_path),
    }
    first = instances[0].row.model_copy(update={"log_parser": "none_such"})
    known = [Instance(first, instances[0].files), instances[1]]
    monkeypatch.setattr("kvci.run.experiment.load_with_revision", lambda *_: (known, ""))
    folder, summary = run(load(None, asked), "r", Terminal(quiet=True))
    found = {one.instance: str(one.cls) for one in RunDirectory(folder).outcomes()}
    assert found == {first.instance_id: "I0", instances[1].row.instance_id: "A11a"}
    assert summary.arms[0].done == 2
    assert "none_such" in Ceiling.read(folder / "ceiling.json").invalid[first.instance_id]


def test_no_instance_is_dropped_without_sandboxes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unavailable(_: Sandboxes) -> None:
        raise UserError("Docker does not answer; start it.")

    monkeypatch.setattr(Sandboxes, "wait", unavailable)
    monkeypatch.setattr(preflight_module, "grade_once", lambda *asked, network=False: INFRA)
    with pytest.raises(UserError, match="does not answer"):
        _grade_gold_and_base(Sandboxes("docker", tmp_path, Caps()), GOOD, tmp_path, 1.0)
