"""Count the outcomes of each arm. Only the comparison interprets the counts."""

from collections import Counter
from collections.abc import Mapping

from rich.box import SIMPLE_HEAD
from rich.table import Table

from kvci.files import Document
from kvci.plan import INTERIM
from kvci.problems import brief
from kvci.rundir.documents import Outcome
from kvci.taxonomy import DOUBTFUL, INFRASTRUCTURE, Class, titled


class ArmSummary(Document):
    arm: str
    planned: int
    done: int
    submitted: int
    """The number of patches that are not empty."""
    resolved: int
    infrastructure: int
    classes: dict[str, int]
    answer_tokens: int
    solve_s: float


class Summary(Document):
    run_id: str
    complete: bool
    arms: tuple[ArmSummary, ...]
    late: bool = False
    """True if the time budget ended the run. Another job resumes it."""

    @property
    def succeeded(self) -> bool:
        """True if three conditions hold.

        The run is complete, or its time budget ended it. No trial has class I4 (kvci). Every arm
        has a trial that infrastructure did not end.
        """
        faults = any(arm.classes.get(Class.I4) for arm in self.arms)
        enough = self.complete or self.late
        return enough and not faults and all(a.done > a.infrastructure for a in self.arms)


def summarize(run_id: str, planned: Mapping[str, int], outcomes: list[Outcome]) -> Summary:
    """Return the counts of each arm. `planned` maps each arm to its number of trials."""
    made = []
    for arm, count in planned.items():
        of_arm = [outcome for outcome in outcomes if outcome.arm == arm]
        classes = Counter(outcome.cls for outcome in of_arm)
        made.append(
            ArmSummary(
                arm=arm,
                planned=count,
                done=len(of_arm),
                submitted=sum(outcome.patch_bytes > 0 for outcome in of_arm),
                resolved=classes[Class.OK],
                infrastructure=sum(classes[found] for found in INFRASTRUCTURE),
                classes={str(found): classes[found] for found in Class if classes[found]},
                answer_tokens=sum(outcome.answer_tokens for outcome in of_arm),
                solve_s=round(sum(outcome.solve_s for outcome in of_arm), 3),
            )
        )
    complete = all(arm.done == arm.planned for arm in made)
    return Summary(run_id=run_id, complete=complete, arms=tuple(made))


def infrastructure_lines(outcomes: list[Outcome]) -> list[str]:
    """Return a line for each trial that infrastructure ended, or that has class A12."""
    return [
        f"{titled(outcome.cls)}: {outcome.arm} {outcome.instance} seed {outcome.seed}: "
        f"{brief(outcome.detail or outcome.why)}"
        for outcome in outcomes
        if outcome.cls in INFRASTRUCTURE | {Class.A12}
    ]


def doubt_lines(outcomes: list[Outcome]) -> list[str]:
    """Return a line for each trial whose test output may not come from the test runner."""
    return [
        f"{DOUBTFUL}: {outcome.arm} {outcome.instance} seed {outcome.seed}: {outcome.doubt} "
        f"({titled(outcome.cls)})"
        for outcome in outcomes
        if outcome.doubt
    ]


def table(summary: Summary) -> Table:
    """Return a table for a terminal of 80 columns, with the counts of each arm in a row."""
    interim = "" if summary.complete else f" ({INTERIM})"
    title = f"Run {summary.run_id}{interim}"
    shown = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    shown.add_column("Arm")
    for column in ("Trials\ndone", "With\npatch", "Resolved", "Infrastructure\nfailures"):
        shown.add_column(column, justify="right")
    shown.add_column("How trials ended")
    for arm in summary.arms:
        ended = "\n".join(f"{count} {titled(found)}" for found, count in arm.classes.items())
        cells = (f"{arm.done}/{arm.planned}", arm.submitted, arm.resolved, arm.infrastructure)
        shown.add_row(arm.arm, *(str(cell) for cell in cells), ended)
    return shown
