"""Run the harness (`swebench eval`) on the same patches, and compare its reports with kvci's."""

import contextlib
import json
import math
import re
import subprocess
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kvci.children import die_with_parent
from kvci.errors import UserError
from kvci.tasks.row import Row

NAME = "kvci"
"""The model's name in the files of the harness."""


def evaluate(
    rows: list[Row], patches: Mapping[str, str], folder: Path, test_s: float, workers: int = 1
) -> dict[str, dict[str, Any]]:
    """Return instance id -> the harness's report, for each instance that has a report.

    The harness writes its logs to `folder`. Raises UserError if the harness does not run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    chosen = [row for row in rows if row.instance_id in patches]
    (folder / "rows.jsonl").write_text("".join(f"{row.model_dump_json()}\n" for row in chosen))
    run_id = f"{NAME}-{uuid.uuid4().hex[:12]}"  # with a known id it only repeats reports
    lines = [
        {"instance_id": name, "model_patch": patch, "model_name_or_path": NAME}
        for name, patch in patches.items()
    ]
    (folder / "predictions.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    program = Path(sys.executable).with_name("swebench")
    words = [str(program), "eval", "rows.jsonl", "-p", "predictions.jsonl", "--run-id", run_id]
    words += ["-j", str(workers), "-t", str(math.ceil(test_s)), "--report-dir", "."]
    try:
        done = subprocess.run(
            words, cwd=folder, preexec_fn=die_with_parent(), capture_output=True, text=True
        )
    finally:
        _sweep(folder)
    if done.returncode:
        raise UserError(f"swebench eval does not run: {(done.stdout + done.stderr)[-500:]}")
    return {
        name: report
        for path in folder.glob(f"logs/run_evaluation/{run_id}/{NAME}/*/report.json")
        for name, report in json.loads(path.read_text()).items()
    }


def _sweep(folder: Path) -> None:
    """Remove the containers of harness runs in this folder that were killed.

    The name of a container contains the id of its harness run.
    """
    from kvci.docker import engine

    for place in folder.glob(f"logs/run_evaluation/{NAME}-*"):
        with contextlib.suppress(*engine.ENGINE_ERRORS):
            named = {"name": re.escape(place.name)}
            for container in engine.client().containers.list(all=True, filters=named):
                container.remove(force=True, v=True)


def differences(own: dict[str, Any], harness: dict[str, Any]) -> list[str]:
    """Return one line for each difference between kvci's and the harness's report of a patch.

    The comparison covers `resolved` and the status of each test.
    """
    found = []
    if own.get("resolved") != harness.get("resolved"):
        found.append(
            f"resolved is {own.get('resolved')}, the harness reports {harness.get('resolved')}"
        )
    ours, others = _statuses(own), _statuses(harness)
    for test in sorted(ours.keys() | others.keys()):
        if ours.get(test) != others.get(test):
            found.append(f"{test} is {ours.get(test)}, the harness reports {others.get(test)}")
    return found


def _statuses(report: dict[str, Any]) -> dict[str, str]:
    return {
        f"{kind} {test}": status
        for kind, by_status in report.get("tests_status", {}).items()
        for status, tests in by_status.items()
        for test in tests
    }
