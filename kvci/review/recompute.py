"""What a run's trials say, recomputed: verdicts from the logs of the tests and the dataset's own
rows, counts from the conversations."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from kvci.errors import UserError
from kvci.files import sha256_of
from kvci.grade.patch import UnreadableLog, counts, has_markers, report
from kvci.plan import Trial, select
from kvci.record.redact import PLACEHOLDERS
from kvci.rundir.directory import RunDirectory
from kvci.rundir.documents import WITHOUT_PATCH, Manifest, Outcome
from kvci.rundir.parts import Run
from kvci.rundir.trajectory import actions, answers, read
from kvci.tasks.dataset import NAMED, dataset_sha256, load
from kvci.tasks.row import Row, patched_files
from kvci.taxonomy import INFRASTRUCTURE, Class, Exit, Observed, Verdict, classify, repeats

TESTED = {Verdict.RESOLVED, Verdict.TESTS_FAIL, Verdict.TESTS_BROKEN, Verdict.SYNTAX_ERROR}
"""Of such a verdict there is a log; the others need the patch to be applied again."""


ROUNDED_S = 0.002
"""Outcomes give seconds in thousandths."""


class Unknown(Exception):
    """Nobody here can say: the dataset is not to be had."""


def unlike(run: Path) -> list[str]:
    """A line for each thing that the dataset's rows, and the logs of its tests, say otherwise.

    Raises UserError if the dataset is not what the run says, Unknown if it is not one that
    everybody has: the calibration suite, one of the hub's with a short name, a file of this work
    tree.
    """
    return [line for part in Run(run).parts for line in _unlike(part)]


def _unlike(directory: RunDirectory) -> Iterator[str]:
    spec, manifest = directory.spec, directory.manifest
    rows = _rows(spec.dataset, manifest)
    if tuple(select(list(rows), spec)) != manifest.planned:
        yield "what was planned is not what its spec selects"
    outcomes = directory.outcomes()
    tried = {(one.host, one.instance) for one in outcomes if one.cls not in INFRASTRUCTURE}
    for one in outcomes:
        if one.cls is Class.I0 and (one.host, one.instance) in tried:
            yield f"{one.instance} is invalid for {one.arm}, and another trial of it is not"
        folder = directory.trial(Trial(one.arm, one.instance, one.seed))
        row = rows[one.instance]
        said = _said(row, one, folder) if one.verdict in TESTED and one.cls is not Class.I0 else ""
        said = said or _other_class(row, one, folder, spec.prompt)
        if said := said or _other_counts(one, folder, spec.prompt):
            yield f"{one.arm}, {one.instance}, seed {one.seed}: {said}"


def _rows(dataset: str, manifest: Manifest) -> dict[str, Row]:
    name, file = dataset.partition("@")[0], Path(dataset)
    own = dataset.partition(":")[0] == "calibration"
    here = file.is_file() and not file.is_absolute() and ".." not in file.parts
    if not (own or here or name in {*NAMED, *NAMED.values()}):
        raise Unknown(f"the rows of {dataset} are not had here")
    try:
        instances = load(dataset, manifest.dataset_revision)
    except UserError as error:
        if own:
            raise
        raise Unknown(str(error).rstrip(".")) from None
    if dataset_sha256(instances) != manifest.dataset_sha256:
        raise UserError(f"{dataset} is not what the run had")
    rows = {one.row.instance_id: one.row for one in instances}
    if unknown := sorted(set(manifest.planned) - rows.keys()):
        raise UserError(f"{unknown[0]} is no instance of {dataset}")
    return rows


def _other_class(row: Row, one: Outcome, folder: Path, prompt: str) -> str:
    """How the class of a trial differs from what its conversation and its patch give."""
    if one.exit in WITHOUT_PATCH:
        invalid = one.exit is Exit.NOT_STARTED
        found, why = classify(Observed(one.exit, one.verdict, instance_invalid=invalid))
        return "" if found is one.cls else f"its class is {found} ({why}), not {one.cls}"
    if one.verdict in TESTED and one.applies is not True:
        return f"{one.verdict} of a patch that was not applied"
    trajectory, patch = folder / "trajectory.jsonl", folder / "patch.diff"
    if not (trajectory.exists() and patch.exists()):
        return f"{one.exit}, without a conversation and its patch"
    last = json.loads(trajectory.read_text().splitlines()[-1])
    if last.get("exit") != one.exit:
        return f"it says {one.exit}, and its conversation {last.get('exit', 'no end')}"
    evidence = Observed(
        exit=one.exit,
        verdict=one.verdict,
        last_actions=actions(trajectory, prompt, one.exit),
        server_failures=one.server_failures,
        patched_files=patched_files(patch.read_text(errors="replace")),
        gold_files=patched_files(row.patch),
    )
    possible = [classify(evidence)]
    if not _whole(trajectory.read_text()):  # redaction makes actions alike that were not
        possible.append(classify(replace(evidence, last_actions=())))
    if one.cls in [found for found, _ in possible]:
        return ""
    found, why = possible[0]
    return f"its class is {found} ({why}), not {one.cls}"


def _whole(text: str) -> bool:
    """Nothing of it was redacted."""
    return not any(shown in text for shown in PLACEHOLDERS)


def _other_counts(one: Outcome, folder: Path, prompt: str) -> str:
    """How what a trial counts differs from what its conversation gives."""
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
        said = getattr(one, name)
        if not abs(said - count) <= ROUNDED_S:  # nor is NaN any count
            return f"{name} is {said}, and its conversation gives {count:.12g}"
    did, malformed = read(steps, prompt, one.exit)
    unheard = one.malformed - malformed  # of these the server gave no answer that has an entry
    if not 0 <= unheard <= one.steps - len(steps) <= unheard + 1:
        return f"it counts {one.steps} steps, and its conversation {len(steps)}"
    messages = [entry["message"] for entry in steps]
    calls = [[call["function"] for call in each.get("tool_calls") or []] for each in messages]
    spoken = json.dumps(
        [[each["content"], called] for each, called in zip(messages, calls, strict=True)],
        sort_keys=True,
    )
    whole = _whole(spoken)
    loops = sum(repeats(tuple(did[:count])) for count in range(1, len(did) + 1))
    if loops != one.loops and (whole or one.loops > loops):  # redaction makes loops, and no end
        return f"it counts {one.loops} loops, and its conversation {loops}"
    if one.answers_sha256 and whole and sha256_of(spoken.encode()) != one.answers_sha256:
        return "what the model said is not what its digest says"
    return ""


def _said(row: Row, one: Outcome, folder: Path) -> str:
    """How the log of a trial's tests differs from its outcome; empty if it does not."""
    log, patch = folder / "grade" / "test_output.txt", folder / "patch.diff"
    if not (log.exists() and patch.exists()):
        return f"{one.verdict}, without a log of its tests"
    if not has_markers(log.read_bytes()):
        return "" if one.verdict is Verdict.TESTS_FAIL else f"{one.verdict}, and no test ended"
    try:
        found = report(row, patch.read_bytes(), log)
    except UnreadableLog as error:
        return "" if one.verdict is Verdict.TESTS_FAIL else f"{one.verdict}, and {error}"
    resolved, tests = bool(found.get("resolved")), counts(found)
    if resolved != (one.verdict is Verdict.RESOLVED):
        return f"{one.verdict}, and its tests say {'resolved' if resolved else 'not resolved'}"
    if tests != (one.fail_to_pass, one.pass_to_pass):
        return f"it counts {one.fail_to_pass} and {one.pass_to_pass} tests, and its log {tests}"
    return ""
