"""The collect job: merge the evidence of all shards into one checked run, and summarize it."""

import shutil
from collections import Counter
from pathlib import Path

from kvci.compare.compare import compare_run
from kvci.errors import UserError
from kvci.jobs.outputs import summary
from kvci.record.bundle import unpack
from kvci.record.from_run import build_untrusted
from kvci.record.schema import Record
from kvci.report.claims import claim_text, without_claim
from kvci.report.plot import run_bars
from kvci.report.tables import table
from kvci.rundir.parts import Run
from kvci.taxonomy import INFRASTRUCTURE
from kvci.text import markdown

HEADER = ("Arm", "Trials", "Resolved", "Infrastructure", "Claim")


def collect(evidence: Path, run: Path, before: Path | None = None, asked: str = "") -> list[Record]:
    """Merge the untrusted archives below `evidence` into the new folder `run`; return its records.

    If no archive below `evidence` has a shard, the shard comes from an archive in `before`, the
    folder of earlier jobs. `asked` is the digest of the plan's specification; without it, any
    specification is accepted. Raises UserError if there is no archive, if `run` is not empty, if
    the archives do not belong together, or if a runner changed the specification.
    """
    new = sorted(evidence.rglob("*.tar.gz"))
    old = sorted(before.glob("*.tar.gz")) if before else []  # archives of shards, then of the run
    if not new and not old:
        raise UserError(
            f"{evidence} contains no evidence, because no shard ran or no shard uploaded its "
            "evidence; see the logs of the run jobs."
        )
    if run.exists() and any(run.iterdir()):
        raise UserError(f"{run} is not empty; give a new folder.")
    for number, archive in enumerate([*new, *old]):
        place = run.parent / f".{run.name}-{number}"
        place.mkdir(parents=True)
        _add(unpack(archive, place), run, earlier=number >= len(new))
    records = build_untrusted(run)
    if asked and any(part.spec.asked != asked for part in Run(run).parts):
        raise UserError(
            "The evidence has another specification than the plan, so its runner changed it; do "
            "not publish this run, and look at the runner."
        )
    return records


def summarize(records: list[Record]) -> None:
    """Write the summary of these records to the job's summary."""
    summary(summary_text(records))


def _add(found: Path, run: Path, earlier: bool) -> None:
    """Move the parts of an unpacked archive into the run's folder.

    If the folder already has a part, ignore a part of an `earlier` job, and raise UserError for
    any other part.
    """
    for part in (one.path for one in Run(found).parts):
        place = run / part.name if part != found else run
        if not (place.exists() and any(place.iterdir())):
            place.parent.mkdir(exist_ok=True)
            part.rename(place)
        elif not earlier:
            raise UserError(f"Two archives contain {place.name}; give one archive per shard.")
    shutil.rmtree(found, ignore_errors=True)


def summary_text(records: list[Record]) -> str:
    """Return the summary: the claims, one table and one plot."""
    made = compare_run(records)
    words = {arm.name: claim_text(made, arm) for arm in made.arms} if made else {}
    rows = []
    for record in records:
        count = Counter(trial.cls in INFRASTRUCTURE for trial in record.counted)
        rows.append(
            (record.arm, f"{len(record.counted)}/{record.total}", str(record.resolved),
             str(count[True]), words.get(record.row_id) or without_claim(record))
        )  # fmt: skip
    lines = [f"**{markdown(text)}**\n" for text in dict.fromkeys(_headlines(records, words))]
    lines += [f"- Warning: {markdown(warning)}" for warning in (made.warnings if made else ())]
    lines += ["", *table(HEADER, rows), ""]
    return "\n".join([*lines, run_bars(records)])


def _headlines(records: list[Record], words: dict[str, str]) -> list[str]:
    arms = [record for record in records if record.row_id in words]
    distinct = {words[record.row_id] for record in arms}
    if len(distinct) == 1 and len(arms) > 1:
        return [f"{', '.join(record.arm for record in arms)}: {distinct.pop()}"]
    alone = len(records) == 1 and not records[0].rerun
    why = "one arm" if alone else without_claim(records[0])
    return [f"{record.arm}: {words[record.row_id]}" for record in arms] or [f"{why}, no claim"]
