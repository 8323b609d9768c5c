"""Comparisons of the arms of one run, and of runs that are only matched."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from kvci.cli import main
from kvci.compare.compare import compare
from kvci.compare.findings import Comparison
from kvci.compare.side import Side, side_of
from kvci.importer.mini import read_run
from kvci.record.store import file_name
from kvci.serve.effective import Effective
from kvci.taxonomy import DOUBTFUL
from tests.compare.made import compared, run, sides
from tests.importer.test_mini import F16, Q8, earlier  # noqa: F401  (a fixture)


def test_harm_and_non_inferiority_in_one_run() -> None:
    found = compared(
        {
            "f16/f16": ["ok"] * 100 + ["fail"] * 100,
            "q8_0/q8_0": ["ok"] * 99 + ["fail"] * 101,
            "q4_0/q4_0": ["ok"] * 80 + ["empty"] * 20 + ["fail"] * 100,
        },
        margin=0.05,
    )
    assert found.paired and found.complete
    q8, q4 = found.arms
    assert (q8.claim, q4.claim) == ("non-inferior within the margin", "harm shown")
    assert (q4.valid.both, q4.valid.only_baseline, q4.valid.only_arm) == (80, 20, 0)
    assert q4.valid.inference and q4.valid.inference.difference == pytest.approx(0.1)
    assert [(f.baseline, f.arm) for f in q4.flips] == [("OK", "A6")] * 20
    assert q4.p_holm is not None and q4.p_holm < 1e-5
    lines = {line.name: line for line in q4.endpoints}
    assert (lines["patched"].baseline, lines["patched"].arm) == (200, 180)
    assert not lines["resolved"].exploratory and lines["patched"].exploratory


def test_infrastructure_drops_pair_and_fails_in_everything() -> None:
    found = compared({"f16/f16": ["ok", "ok", "fail"], "q8_0/q8_0": ["infra", "ok", "fail"]})
    (arm,) = found.arms
    assert arm.valid.pairs == 2 and arm.everything.pairs == 3
    assert (arm.valid.only_baseline, arm.everything.only_baseline) == (0, 1)
    assert arm.dropped == {"arm I3": 1}


def test_pair_never_crosses_a_block() -> None:
    records = run({"f16/f16": ["ok", "ok"], "q8_0/q8_0": ["ok", "ok"]})
    moved = records[1].trials[0].model_copy(update={"host": "another"})
    records[1] = records[1].model_copy(update={"trials": (moved, records[1].trials[1])})
    (arm,) = compare(sides(records)).arms
    assert arm.valid.pairs == 1 and list(arm.dropped) == ["the pair crosses a block"]


def test_control_arm_measures_noise_and_claims_nothing() -> None:
    same = {"f16/f16": ["ok", "fail"] * 20, "f16/f16 -ub 32": ["ok", "fail"] * 20}
    found = compared(same | {"q8_0/q8_0": ["fail", "ok"] * 20})
    control, arm = found.arms
    assert control.control and control.claim is None and control.identical
    assert not arm.control and arm.claim == "inconclusive"
    assert any("f16/f16 -ub 32 gives the same answers" in line for line in found.warnings)
    assert "noise floor" not in " ".join(
        compared(same | {"f16/f16 -ub 32": ["fail", "fail"] * 20}).warnings
    )


def test_differing_control_arm_is_the_first_warning() -> None:
    found = compared({"f16/f16": ["ok"] * 40, "f16/f16 -ub 32": ["fail"] * 20 + ["ok"] * 20})
    assert "differs from the baseline by more than chance" in found.warnings[0]


def test_seeds_are_clusters() -> None:
    found = compared(
        {"f16/f16": ["ok", "ok", "fail"] * 30, "q8_0/q8_0": ["ok", "fail", "fail"] * 30},
        seeds=[1, 2, 3],
        temperature=0.7,
    )
    (arm,) = found.arms
    assert (arm.valid.pairs, arm.valid.instances) == (90, 30)
    inferred = arm.valid.inference
    assert inferred and inferred.difference == pytest.approx(1 / 3)
    assert inferred.newcombe_95 is None and inferred.mid_p is None
    assert arm.claim == "harm shown"


def test_agreeing_seeds_detect_no_more_than_one() -> None:
    ends = [["ok"] * 30 + ["fail"] * 10, ["ok"] * 24 + ["fail"] * 16]
    one = compared(dict(zip(("f16/f16", "q8_0/q8_0"), ends, strict=True)))
    three = compared(
        {
            kv: [end for end in some for _ in range(3)]
            for kv, some in zip(("f16/f16", "q8_0/q8_0"), ends, strict=True)
        },
        seeds=[1, 2, 3],
        temperature=0.7,
    )
    seen = [found.arms[0].valid.inference for found in (one, three)]
    assert (
        seen[0]
        and seen[1]
        and seen[0].minimum_detectable_effect == seen[1].minimum_detectable_effect
    )


def test_matched_runs_are_inconclusive_and_name_differences() -> None:
    first = run({"f16/f16": ["ok"] * 50}, margin=0.05)
    other = run({"q8_0/q8_0": ["fail"] * 50}, margin=0.05, max_steps=9, processes=64)
    found = compare(sides([*first, *other]))
    assert not found.paired and [arm.claim for arm in found.arms] == ["inconclusive"]
    assert "matched, not paired" in found.warnings[0]
    assert "different step limit: f16/f16: 30; q8_0/q8_0: 9" in found.warnings
    assert "different processes: f16/f16: 256; q8_0/q8_0: 64" in found.warnings


def test_warning_names_runs_with_the_same_kv_type_apart() -> None:
    first, other = run({"f16/f16": ["ok"] * 9}, limit=2), run({"f16/f16": ["ok"] * 9})
    found = compare(sides([*first, other[0].model_copy(update={"row_id": "second"})]))
    names = first[0].row_id, "second"
    assert f"different limit: {names[0]}: 2; {names[1]}: none" in found.warnings


THREE = {
    "f16/f16": ["ok"] * 100,
    "q8_0/q8_0": ["ok"] * 95 + ["fail"] * 5,
    "q4_0/q4_0": ["ok"] * 98 + ["fail"] * 2,
}


def test_spec_gives_baseline_and_order() -> None:
    found = compared(THREE, margin=0.08)
    assert compare(sides(run(THREE, margin=0.08)[::-1])) == found
    assert [arm.claim for arm in found.arms] == ["harm shown", "inconclusive"]


def test_missing_arm_withholds_the_claim() -> None:
    base, q8, q4 = sides(run(THREE, margin=0.08))
    part = compare([base, q8])
    assert part.arms[0].claim is None and part.arms[0].valid.inference is None
    assert "arms of the run are left out (q4_0-q4_0), so nothing is inferred" in part.warnings
    with pytest.raises(ValueError, match="baseline"):
        compare([q8, q4])


def test_one_shard_is_not_complete() -> None:
    half = run({kv: some[:50] for kv, some in THREE.items()})
    for shards, complete in ((("1/2",), False), (("1/2", "2/2"), True)):
        records = [
            record.model_copy(
                update={
                    "trials": tuple(
                        trial.model_copy(update={"shard": shards[number % len(shards)]})
                        for number, trial in enumerate(record.trials)
                    )
                }
            )
            for record in half
        ]
        assert compare(sides(records)).complete is complete


def test_unreached_stages_count_as_failures() -> None:
    """An empty patch does not apply; tests that never ran did not pass."""
    ends = {"f16/f16": ["ok"] * 100, "q8_0/q8_0": ["ok"] * 40 + ["empty"] * 60}
    for primary in ("applies", "tests_flipped"):
        (arm,) = compared(ends, primary=primary, margin=0.05).arms
        assert (arm.valid.pairs, arm.valid.only_baseline) == (100, 60)
        assert arm.claim == "harm shown" and not arm.dropped


@pytest.mark.parametrize("primary", ["no_loop", "well_formed", "no_overflow", "tests_flipped"])
def test_server_failure_in_one_arm_reaches_no_endpoint(primary: str) -> None:
    ends = {"f16/f16": ["ok"] * 100, "q8_0/q8_0": ["ok"] * 40 + ["unserved"] * 60}
    (arm,) = compared(ends, primary=primary, margin=0.05).arms
    assert arm.claim == "harm shown" and arm.valid.only_baseline == 60


def test_overflow_counts_under_any_class() -> None:
    ends = {"f16/f16": ["ok"] * 100, "q8_0/q8_0": ["ok"] * 40 + ["loops full"] * 60}
    (arm,) = compared(ends, primary="no_overflow").arms
    assert arm.claim == "harm shown"


def test_better_control_arm_is_a_warning() -> None:
    found = compared(
        {"f16/f16": ["fail"] * 90, "f16/f16 -ub 32": ["ok"] * 90, "q4_0/q4_0": ["fail"] * 90},
        seeds=[1, 2, 3],
        temperature=0.7,
    )
    assert "differs from the baseline by more than chance" in found.warnings[0]


def test_more_arms_raise_the_minimum_effect() -> None:
    one = compared({kv: THREE[kv] for kv in ("f16/f16", "q8_0/q8_0")}).arms[0]
    two = compared(THREE).arms[0]
    seen = [
        arm.valid.inference.minimum_detectable_effect for arm in (one, two) if arm.valid.inference
    ]
    assert seen[0] and seen[1] and seen[0] < seen[1]


def test_repository_interval_contains_instance_interval() -> None:
    (arm,) = compared({"f16/f16": ["ok"] * 30, "q8_0/q8_0": ["ok"] * 24 + ["fail"] * 6}).arms
    inferred = arm.valid.inference
    assert inferred and inferred.repository_95 and inferred.repository_minimum_detectable_effect
    assert inferred.repository_95[0] <= inferred.interval_95[0]
    assert inferred.repository_minimum_detectable_effect >= (
        inferred.minimum_detectable_effect or 0
    )


def test_imported_runs_give_known_counts(earlier: Path) -> None:  # noqa: F811
    words = ["compare", str(earlier / F16), str(earlier / Q8), "--json"]
    found = Comparison.model_validate_json(CliRunner().invoke(main, words).output)
    (arm,) = found.arms
    every = arm.everything
    assert (every.both, every.only_baseline, every.only_arm, every.neither) == (3, 5, 2, 290)
    inferred = every.inference
    assert inferred and inferred.mid_p == pytest.approx(0.289, abs=5e-4)
    assert inferred.newcombe_95 == pytest.approx((-0.0107, 0.0332), abs=5e-5)
    assert (arm.claim, found.paired) == ("inconclusive", False)
    warnings = " ".join(found.warnings)
    assert "different step limit: f16/f16: 100; q8_0/q8_0: 250" in warnings
    assert "different request timeout s: f16/f16: 7200; q8_0/q8_0: not set" in warnings
    assert "not known for all sides: threads, dataset sha256, rotation" in warnings
    assert "matched, not paired" in warnings


def test_bad_names_are_user_errors(tmp_path: Path) -> None:
    one = run({"f16/f16": ["ok"]})[0]
    one.write(path := tmp_path / file_name(one.row_id))
    for words, says in (
        ([str(path)], "needs two sides"),
        ([str(path), str(path)], "named twice"),
        ([str(path), "nothing"], "is not a run folder, a record file or a row id"),
    ):
        done = CliRunner().invoke(main, ["compare", *words])
        assert done.exit_code == 2 and says in done.output, done.output


def imported(folder: Path, kv: str, names: list[str], resolved: int | None, total: int = 0) -> Side:
    """Return an earlier run of these instances.

    The first `resolved` instances are resolved; None if the run is not graded.
    """
    folder.mkdir()
    patch = "diff --git a/x b/x\n"
    predictions = {name: {"model_patch": patch} for name in names}
    (folder / "preds.json").write_text(json.dumps(predictions))
    if resolved is not None:
        counts = {"total_instances": total or len(names), "submitted_instances": len(names)}
        lists = {
            "resolved_ids": names[:resolved],
            "unresolved_ids": names[resolved:],
            "submitted_ids": names,
            "error_ids": [],
        }
        (folder / "report.json").write_text(json.dumps(counts | lists))
    side = side_of(read_run(folder, kv=kv))
    assert side
    return side


NAMES = [f"a__b-{number}" for number in range(60)]


def test_only_common_instances_are_compared(tmp_path: Path) -> None:
    f16 = imported(tmp_path / "f16", "f16/f16", NAMES, 30)
    some = imported(tmp_path / "q8", "q8_0/q8_0", NAMES[:40], 30)
    found = compare([f16, some])
    (arm,) = found.arms
    assert (arm.everything.pairs, arm.everything.only_baseline) == (40, 0)
    assert arm.dropped["only in the baseline"] == 20
    assert any("have different trials: 20 only in the baseline" in line for line in found.warnings)
    other = imported(tmp_path / "q4", "q4_0/q4_0", [f"c__d-{n}" for n in range(60)], 0)
    (arm,) = compare([f16, other]).arms
    assert arm.everything.pairs == 0 and arm.everything.inference is None


def test_ungraded_run_infers_nothing(tmp_path: Path) -> None:
    f16 = imported(tmp_path / "f16", "f16/f16", NAMES, 30)
    found = compare([f16, imported(tmp_path / "q8", "q8_0/q8_0", NAMES, None)])
    (arm,) = found.arms
    assert found.withheld and arm.claim is None
    assert arm.valid.inference is None and arm.everything.inference is None
    assert any("q8_0/q8_0: resolved is unknown for 60 trials" in w for w in found.warnings)


def test_unfinished_imported_run_is_interim(tmp_path: Path) -> None:
    f16 = imported(tmp_path / "f16", "f16/f16", NAMES, 30)
    found = compare([f16, imported(tmp_path / "q8", "q8_0/q8_0", NAMES, 30, total=300)])
    assert found.withheld == "interim, no claim" and found.arms[0].everything.inference is None


def test_unverified_run_is_inconclusive() -> None:
    ends = {"f16/f16": ["ok"] * 40, "q8_0/q8_0": ["fail"] * 40}
    records = run(ends)
    unproved = tuple(t.model_copy(update={"verified": False}) for t in records[1].trials)
    records[1] = records[1].model_copy(update={"trials": unproved})
    found = compare(sides(records))
    assert found.arms[0].claim == "inconclusive" and "unverified" in found.warnings[-1]
    assert compared(ends).arms[0].claim == "harm shown"


def test_one_sided_infrastructure_losses_are_a_warning() -> None:
    base = ["ok"] * 60 + ["fail"] * 40
    found = compared({"f16/f16": base, "q8_0/q8_0": ["ok"] * 50 + ["infra"] * 20 + ["fail"] * 30})
    assert "ended 20 trials only in q8_0/q8_0 and 0 only in the baseline" in found.warnings[0]
    even = compared({"f16/f16": ["infra", *base[1:]], "q8_0/q8_0": [*base[1:], "infra"]})
    assert not any("infrastructure" in warning for warning in even.warnings)


EFFECTIVE = {
    "kv_type": "q8_0/q8_0",
    "context_per_slot": 4096,
    "slots": 2,
    "cells": 4096,
    "unified": False,
    "flash_attention": "on",
    "kernel_path": "compiled",
    "rotation": "on",
    "kv_mib": 1.0,
    "kv_device": "CUDA0",
    "gpu": True,
    "graph_splits": 2,
    "build": "b1",
}


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"build": "b2"}, "server build: q8_0/q8_0: b1; q4_0/q4_0: b2"),
        ({"build": None}, "server build: q8_0/q8_0: b1; q4_0/q4_0: not shown"),
        ({"kernel_path": "not shown"}, "kernel path: q8_0/q8_0: compiled; q4_0/q4_0: not shown"),
        ({"flash_attention": "off"}, "flash attention"),
        ({"slots": 1}, "effective slots"),
        ({"context_per_slot": 2048}, "context per slot"),
        ({"unified": True}, "unified cache"),
        ({"kv_device": "CPU"}, "KV device"),
        ({"rotation": "off"}, "rotation of quantized caches: q8_0/q8_0: on; q4_0/q4_0: off"),
    ],
)
def test_different_effective_configuration_is_named(changed: dict[str, Any], says: str) -> None:
    records = run({"q8_0/q8_0": ["ok"] * 9, "q4_0/q4_0": ["ok"] * 9})
    met = [EFFECTIVE, EFFECTIVE | changed]
    records = [
        record.model_copy(update={"effective": (Effective.model_validate(one),)})
        for record, one in zip(records, met, strict=True)
    ]
    (warning,) = compare(sides(records)).warnings
    assert warning.startswith(f"different {says}")


@pytest.mark.parametrize(
    ("update", "says"),
    [
        ({"gpu": "H100"}, "GPU"),
        ({"dataset": "other"}, "dataset"),
        ({"kvci": "9"}, "agent"),
        ({"temperature": 0.7}, "temperature"),
        ({"dataset_sha256": "3" * 64}, "dataset sha256"),
        ({"model_sha256": "3" * 64}, "model sha256"),
        ({"context": 8192}, "context"),
        ({"host": "another"}, "host"),
        ({"sandbox": "bwrap, cgroup v2 (memory, processes, CPUs)"}, "CPU limit"),
        ({"sandbox": "docker 28.2.2"}, "CPU limit"),
    ],
)
def test_different_settings_of_runs_are_named(update: dict[str, Any], says: str) -> None:
    first = run({"f16/f16": ["ok"] * 9})
    (other,) = run({"q8_0/q8_0": ["ok"] * 9})
    if "host" in update:
        moved = tuple(trial.model_copy(update=update) for trial in other.trials)
        other = other.model_copy(update={"trials": moved})
    elif hasattr(other, next(iter(update))):
        other = other.model_copy(update=update)
    else:
        other = other.model_copy(update={"spec": other.spec | update})
    assert any(w.startswith(f"different {says}:") for w in compare(sides([*first, other])).warnings)


def test_rotation_is_compared_between_quantized_caches() -> None:
    records = run({"f16/f16": ["ok"] * 9, "q8_0/q8_0": ["ok"] * 9})
    effective = Effective.model_validate(EFFECTIVE)
    plain = effective.model_copy(update={"rotation": None, "kv_type": "f16/f16"})
    records = [
        record.model_copy(update={"effective": (one,)})
        for record, one in zip(records, (plain, effective), strict=True)
    ]
    assert not compare(sides(records)).warnings


def test_measures_use_instances_as_clusters() -> None:
    base, arm = run({"f16/f16": ["ok"] * 9, "q8_0/q8_0": ["ok"] * 9})
    grown = tuple(
        trial.model_copy(update={"steps": trial.steps + 2 + n % 2, "depth_tokens": 77})
        for n, trial in enumerate(arm.trials)
    )
    found = compare(sides([base, arm.model_copy(update={"trials": grown})])).arms[0]
    steps = {line.name: line for line in found.measures}["steps"]
    assert steps.arm_mean - steps.baseline_mean == pytest.approx(2 + 4 / 9)
    assert steps.interval_95 and steps.interval_95[0] < -(2 + 4 / 9) < steps.interval_95[1] < -2
    assert {line.name: line for line in found.measures}["deepest context, tokens"].arm_mean == 77


def test_tests_flipped_needs_all_tests() -> None:
    base, arm = run({"f16/f16": ["ok"] * 9, "q8_0/q8_0": ["ok"] * 9})
    half = {"fail_to_pass": (1, 2), "malformed": 1}
    changed = tuple(trial.model_copy(update=half) for trial in arm.trials)
    found = compare(sides([base, arm.model_copy(update={"trials": changed})])).arms[0]
    lines = {line.name: line.arm for line in found.endpoints}
    assert (lines["tests_flipped"], lines["well_formed"], lines["no_loop"]) == (0, 0, 9)


def test_repositories_are_clusters() -> None:
    """One of three repositories loses every instance. Only the test by instance shows harm."""
    ends = ["fail" if n % 3 == 0 else "ok" for n in range(90)]
    (arm,) = compared({"f16/f16": ["ok"] * 90, "q8_0/q8_0": ends}).arms
    seen = arm.valid.inference
    assert seen and seen.repository_95 and seen.repository_bootstrap_95
    assert seen.interval_95[0] > 0.2 and seen.repository_95[0] < -0.5
    assert seen.repository_bootstrap_95 == (0.0, 1.0)


def test_doubtful_test_output_is_shown() -> None:
    found = compared({"f16/f16": ["ok", "fail"], "q8_0/q8_0": ["ok", "doubtful"]})
    assert f"q8_0/q8_0: 1 resolved trials whose {DOUBTFUL}" in found.warnings
    (flip,) = found.arms[0].flips
    assert (flip.baseline, flip.arm) == ("A11a", f"OK ({DOUBTFUL})")
    assert not any(DOUBTFUL in warning for warning in compared(EQUAL).warnings)


EQUAL = {"f16/f16": ["ok", "ok"], "q8_0/q8_0": ["ok", "ok"]}


def test_arm_without_trials_causes_no_warning() -> None:
    effective = Effective.model_validate(EFFECTIVE)
    records = run({"q8_0/q8_0": ["ok"] * 9, "q4_0/q4_0": [], "iq4_nl/iq4_nl": []}, planned=9)
    started = records[0].model_copy(update={"effective": (effective,)})
    found = compare(sides([started, *records[1:]]))
    assert not found.complete and not found.warnings


def test_arm_with_trials_but_no_log_is_a_warning() -> None:
    effective = Effective.model_validate(EFFECTIVE)
    first, second = run({"q8_0/q8_0": ["ok"] * 9, "q4_0/q4_0": ["ok"]}, planned=9)
    found = compare(sides([first.model_copy(update={"effective": (effective,)}), second]))
    assert "different server build: q8_0/q8_0: b1; q4_0/q4_0: not shown" in found.warnings
