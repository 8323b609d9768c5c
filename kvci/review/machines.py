"""Check the machines that the trials name."""

from collections import Counter
from collections.abc import Iterator

from kvci.rundir.directory import RunDirectory
from kvci.rundir.documents import Graded, Outcome
from kvci.taxonomy import Class, Exit, Verdict


def unvalidated(directory: RunDirectory) -> Iterator[str]:
    """Yield a line for each trial that ran although its instance was not found to be valid there.

    Before the first trial of an instance, each machine grades the gold patch. It has nothing to
    grade if the instance has no image.
    """
    for one in directory.outcomes():
        if one.cls is Class.I0 or _without_image(one):
            continue
        file = directory.path / "preflight" / one.host / one.instance / "graded.json"
        if not file.exists():
            yield f"{one.trial}: the gold patch was not graded on its machine {one.host}"
        elif (verdict := Graded.read(file).verdict) is not Verdict.RESOLVED:
            yield f"{one.trial}: it ran, but the gold patch's verdict on its machine is {verdict}"


def on_other_machines(directory: RunDirectory) -> Iterator[str]:
    """Yield a line for each machine of trials that is not the one that the record describes."""
    hosts = Counter(one.host for one in directory.outcomes())
    manifest = directory.manifest
    for host, count in hosts.items():
        if host != manifest.host:
            yield (
                f"{count} trials ran on the machine {host}; the record describes only the machine "
                f"{manifest.host}, on which the run began"
            )


def _without_image(one: Outcome) -> bool:
    return one.exit is Exit.SANDBOX_FAILED and not one.attempts
