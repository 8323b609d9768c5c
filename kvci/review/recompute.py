"""Recompute a run's trials from their files.

Verdicts come from the test logs and the dataset's rows, classes and counts from the conversations.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from kvci.errors import UserError
from kvci.files import sha256_of
from kvci.grade.doubt import doubt
from kvci.grade.patch import UnreadableLog, counts, has_markers, report
from kvci.plan import select
from kvci.review.invalid import invalid_difference
from kvci.review.opening import opening_difference
from kvci.review.tied import is_redacted
from kvci.rundir.directory import RunDirectory
from kvci.rundir.documents import WITHOUT_PATCH, Manifest, Outcome
from kvci.rundir.parts import Run
from kvci.rundir.trajectory import actions, answers, read
from kvci.tasks.dataset import NAMED, dataset_sha256, is_calibration, load
from kvci.tasks.row import Row, patched_files
from kvci.taxonomy import INFRASTRUCTURE, Class, Exit, Observed, Verdict, classify, repeats, titled

TESTED = {Verdict.RESOLVED, Verdict.TESTS_FAIL, Verdict.TESTS_BROKEN, Verdict.SYNTAX_ERROR}
"""The verdicts with a test log. Other verdicts cannot be recomputed without applying the patch."""
ROUNDED_S = 0.002
"""The allowed difference, because outcomes round seconds to thousandths."""


WITHOUT_DOUBTS = {"0.1.0"}
"""The versions of kvci that examined no test output for doubts."""


class DatasetUnavailable(Exception):
    """The dataset is not available here, so the verdicts cannot be recomputed."""


def differences(run: Path) -> list[str]:
    """Return a line for each trial whose outcome differs from the recomputed outcome.

    Raises UserError if the dataset is not the one that the run used. Raises DatasetUnavailable if
    the dataset is not public. Public are the calibration suite, datasets of the hub that have a
    short name, and files of this work tree.
    """
    return [line for part in Run(run).parts for line in _differences(part)]


def _differences(directory: RunDirectory) -> Iterator[str]:
    spec, manifest = directory.spec, directory.manifest
    rows = _rows(spec.dataset, manifest)
    if tuple(select(list(rows), spec)) != manifest.planned:
        yield "the planned instances are not the instances that its specification selects"
    outcomes = directory.outcomes()
    tried = {(one.host, one.instance) for one in outcomes if one.cls not in INFRASTRUCTURE}
    for one in outcomes:
        if one.cls is Class.I0 and (one.host, one.instance) in tried:
            yield f"{one.instance} is invalid for {one.arm}, but not for another trial"
        folder = directory.trial(one.trial)
        row = rows[one.instance]
        tested = one.verdict in TESTED and one.cls is not Class.I0
        difference = (
            (_log_difference(row, one, folder, manifest.kvci) if tested else "")
            or (invalid_difference(row, one, directory) if one.cls is Class.I0 else "")
            or opening_difference(row, one, folder / "trajectory.jsonl", spec.prompt)
            or _class_difference(row, one, folder, spec.prompt)
            or _count_difference(one, folder, spec.prompt)
        )
        if difference:
            yield f"{one.trial}: {difference}"


def _rows(dataset: str, manifest: Manifest) -> dict[str, Row]:
    """Return instance id -> row. Raises the same exceptions as `differences`."""
    name, file = dataset.partition("@")[0], Path(dataset)
    own = is_calibration(dataset)
    here = file.is_file() and not file.is_absolute() and ".." not in file.parts
    if not (own or here or name in {*NAMED, *NAMED.values()}):
        raise DatasetUnavailable(f"the rows of {dataset} are not available here")
    try:
        instances = load(dataset, manifest.dataset_revision)
    except UserError as error:
        if own:
            raise
        raise DatasetUnavailable(str(error).rstrip(".")) from None
    if dataset_sha256(instances) != manifest.dataset_sha256:
        raise UserError(f"{dataset} is not the dataset that the run used")
    rows = {one.row.instance_id: one.row for one in instances}
    if unknown := sorted(set(manifest.planned) - rows.keys()):
        raise UserError(f"{unknown[0]} is not an instance of {dataset}")
    return rows


def _class_difference(row: Row, one: Outcome, folder: Path, prompt: str) -> str:
    """Return how a trial's class differs from the recomputed class; empty if they are equal."""
    if one.exit in WITHOUT_PATCH:
        invalid = one.exit is Exit.NOT_STARTED
        found, why = classify(Observed(one.exit, one.verdict, instance_invalid=invalid))
        return "" if found is one.cls else _wrong_class(one.cls, found, why)
    if one.verdict in TESTED and one.applies is not True:
        return f"its verdict is {one.verdict}, but its patch was not applied"
    trajectory, patch = folder / "trajectory.jsonl", folder / "patch.diff"
    if not (trajectory.exists() and patch.exists()):
        return f"its exit is {one.exit}, but its conversation or its patch is missing"
    last = json.loads(trajectory.read_text().splitlines()[-1])
    if last.get("exit") != one.exit:
        end = last.get("exit", "without an exit")
        return f"its exit is {one.exit}, but its conversation ends with {end}"
    evidence = Observed(
        exit=one.exit,
        verdict=one.verdict,
        last_actions=actions(trajectory, prompt, one.exit),
        server_failures=one.server_failures,
        patched_files=patched_files(patch.read_text(errors="replace")),
        gold_files=patched_files(row.patch),
    )
    possible = [classify(evidence)]
    if is_redacted(trajectory.read_text()):  # redaction can make different actions equal
        possible.append(classify(replace(evidence, last_actions=())))
    if one.cls in [found for found, _ in possible]:
        return ""
    return _wrong_class(one.cls, *possible[0])


def _wrong_class(recorded: Class, found: Class, why: str) -> str:
    return f"its class should be {titled(found)} ({why}), not {titled(recorded)}"


def _count_difference(one: Outcome, folder: Path, prompt: str) -> str:
    """Return how a trial's counts differ from the recomputed counts; empty if they are equal."""
    if one.exit in WITHOUT_PATCH:
        return ""
    steps = answers(folder / "trajectory.jsonl")
    timings = [entry["timings"] for entry in steps]
    found = {
        "prefill_tokens": sum(int(each.get("prompt_n", 0)) for each in timings),
        "answer_tokens": sum(entry["answer_tokens"] for entry in steps),
        "depth_tokens": max((e["prompt_tokens"] + e["answer_tokens"] for e in steps), default=0),
        "prefill_s": sum(each.get("prompt_ms", 0.0) for each in timings) / 1000,
        "decode_s": sum(each.get("predicted_ms", 0.0) for each in timings) / 1000,
    }
    for name, count in found.items():
        recorded = getattr(one, name)
        if not abs(recorded - count) <= ROUNDED_S:  # written so that NaN differs, too
            return f"{name} is {recorded}, but its conversation gives {count:.12g}"
    did, malformed = read(steps, prompt, one.exit)
    unlogged = one.malformed - malformed  # malformed answers that have no entry
    if not 0 <= unlogged <= one.steps - len(steps) <= unlogged + 1:
        return f"it counts {one.steps} steps, but its conversation has {len(steps)}"
    messages = [entry["message"] for entry in steps]
    calls = [[call["function"] for call in each.get("tool_calls") or []] for each in messages]
    contents = json.dumps(
        [[each["content"], called] for each, called in zip(messages, calls, strict=True)],
        sort_keys=True,
    )
    redacted = is_redacted(contents)
    loops = sum(repeats(tuple(did[:count])) for count in range(1, len(did) + 1))
    added = redacted and loops > one.loops  # redaction can add loops, but removes none
    if loops != one.loops and not added:
        return f"it counts {one.loops} loops, but its conversation has {loops}"
    if one.answers_sha256 and not redacted and sha256_of(contents.encode()) != one.answers_sha256:
        return "the model's answers do not have their recorded digest"
    return ""


def _log_difference(row: Row, one: Outcome, folder: Path, version: str = "") -> str:
    """Return how a trial's outcome differs from its test log; empty if they agree.

    `version` is the version of kvci that made the run.
    """
    log, patch = folder / "grade" / "test_output.txt", folder / "patch.diff"
    failed = one.verdict is Verdict.TESTS_FAIL
    if not (log.exists() and patch.exists()):
        return f"its verdict is {one.verdict}, but its test log or its patch is missing"
    if not has_markers(log.read_bytes()):
        return "" if failed else f"its verdict is {one.verdict}, but its tests did not end"
    try:
        found = report(row, patch.read_bytes(), log)
    except UnreadableLog as error:
        return "" if failed else f"its verdict is {one.verdict}, but {error}"
    resolved, tests = bool(found.get("resolved")), counts(found)
    if resolved != (one.verdict is Verdict.RESOLVED):
        gives = "resolved" if resolved else "not resolved"
        return f"its verdict is {one.verdict}, but its test log gives {gives}"
    if tests != (one.fail_to_pass, one.pass_to_pass):
        recorded = f"{one.fail_to_pass} and {one.pass_to_pass}"
        return f"it counts {recorded} tests, but its test log gives {tests[0]} and {tests[1]}"
    doubtful = doubt(row, patch.read_bytes(), log, found)
    if doubtful != one.doubt and not (one.doubt is None and version in WITHOUT_DOUBTS):
        gives = f"gives {doubtful!r}" if doubtful else "gives no doubt"
        return f"its doubt is {one.doubt!r}, but its test log {gives}"
    return ""
