"""Check the evidence of a run on the machine that has it, before anything is published."""

import tempfile
from pathlib import Path

from kvci.errors import UserError
from kvci.record.bundle import unpack, write
from kvci.record.from_run import build
from kvci.review.evidence_check import check_run

REMEDY = (
    " A review would refuse it, so nothing is published. If the files of the run were not changed, "
    "report this to the authors of kvci."
)


def check_own(run: Path, shard: str = "") -> None:
    """Check that the redacted evidence of a run, or of one of its shards, gives the run's records.

    The check is that of a review. Raises UserError if the evidence gives other records, if a trial
    differs from what its files give, or if the run itself gives no records.
    """
    records = build(run / shard, row=False)
    with tempfile.TemporaryDirectory(prefix="kvci-evidence-") as place:
        archive, target = Path(place, "evidence.tar.gz"), Path(place, "run")
        write(run, archive, shard)
        target.mkdir()
        redacted = unpack(archive, target) / shard
        if build(redacted, row=False) != records:
            raise UserError(f"The redacted evidence of {run} gives other records.{REMEDY}")
        wrong = check_run(redacted).problems
        own = check_run(run / shard).problems if wrong else []
    if wrong:
        cause = "The redacted evidence" if wrong != own else "The evidence"
        raise UserError(f"{cause} of {run} does not give its trials: {wrong[0]}.{REMEDY}")
