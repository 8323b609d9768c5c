"""The collect job: evidence of all shards -> one run, checked, and what it says so far."""

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
from kvci.report.tables import inert, table
from kvci.rundir.parts import Run
from kvci.taxonomy import INFRASTRUCTURE

HEADER = ("Arm", "Trials", "Resolved", "Infrastructure", "Claim")


def collect(evidence: Path, run: Path, before: Path | None = None) -> list[Record]:
    """The run that the archives below `evidence` hold, in the new folder `run`; a shard that none
    of them holds is as an earlier job left it in `before`.

    They are untrusted. Raises UserError if there is none, or they do not belong together.
    """
    new = sorted(evidence.rglob("*.tar.gz"))
    old = sorted(before.glob("*.tar.gz")) if before else []  # a shard's, then the whole run's
    if not new and not old:
        raise UserError(f"{evidence} holds no evidence: no shard has run, or none could upload it.")
    if run.exists() and any(run.iterdir()):
        raise UserError(f"{run} is there already; give a new folder.")
    for number, archive in enumerate([*new, *old]):
        place = run.parent / f".{run.name}-{number}"
        place.mkdir(parents=True)
        _take(unpack(archive, place), run, known=number >= len(new))
    return build_untrusted(run)


def summarize(records: list[Record]) -> None:
    summary(told(records))


def _take(found: Path, run: Path, known: bool) -> None:
    """A shard's folder goes beside the others, a whole run's files are the run. Of what was `known`
    before, those that are there stay."""
    for part in (one.path for one in Run(found).parts):
        place = run / part.name if part != found else run
        if not (place.exists() and any(place.iterdir())):
            place.parent.mkdir(exist_ok=True)
            part.rename(place)
        elif not known:
            raise UserError(f"Two archives hold {place.name}; give each shard's once.")
    shutil.rmtree(found, ignore_errors=True)


def told(records: list[Record]) -> str:
    """Verdict first, one table, one plot."""
    made = compare_run(records)
    words = {arm.name: claim_text(made, arm) for arm in made.arms} if made else {}
    rows = []
    for record in records:
        count = Counter(trial.cls in INFRASTRUCTURE for trial in record.counted)
        rows.append(
            (record.arm, f"{len(record.counted)}/{record.total}", str(record.resolved),
             str(count[True]), words.get(record.row_id) or without_claim(record))
        )  # fmt: skip
    lines = [f"**{text}**\n" for text in dict.fromkeys(_headlines(records, words))]
    lines += [f"- Warning: {inert(warning)}" for warning in (made.warnings if made else ())]
    lines += ["", *table(HEADER, rows), ""]
    return "\n".join([*lines, run_bars(records)])


def _headlines(records: list[Record], words: dict[str, str]) -> list[str]:
    arms = [record for record in records if record.row_id in words]
    said = {words[record.row_id] for record in arms}
    if len(said) == 1 and len(arms) > 1:
        return [f"{', '.join(record.arm for record in arms)}: {said.pop()}"]
    alone = len(records) == 1 and not records[0].rerun
    why = "one arm" if alone else without_claim(records[0])
    return [f"{record.arm}: {words[record.row_id]}" for record in arms] or [f"{why}, no claim"]
