"""The gold patch, and the base without it, graded on this machine before any trial."""

import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

from kvci import __version__
from kvci.files import sha256_of
from kvci.host import cache_folder, host
from kvci.run.attempt import once, unknown
from kvci.run.sandboxes import Sandboxes
from kvci.rundir.documents import Graded
from kvci.tasks.instance import Instance
from kvci.taxonomy import ATTEMPTS_MAX, Verdict

GOLD_TRIES = 2
TRANSIENT = {Verdict.GRADING_FAILED, Verdict.NOT_GRADED, Verdict.TEST_TIMEOUT}
"""Of a gold patch another day may say otherwise: infrastructure or time had a part in it."""


def preflight(sandboxes: Sandboxes, instance: Instance, folder: Path, test_s: float) -> Graded:
    """The gold patch, which must resolve in one of two tries, and the base, which must not.

    What an image answers is kept on this machine, and not asked again by this kvci, but for what a
    network may have had a part in.
    """
    known = _known(sandboxes, instance, test_s)
    if known and known.exists():
        return Graded.read(known)
    graded = _asked(sandboxes, instance, folder, test_s)
    lasts = graded.verdict is Verdict.RESOLVED or not sandboxes.grade_network
    if known and lasts and graded.verdict not in TRANSIENT:
        with contextlib.suppress(OSError):  # then it is asked again, another day
            graded.write(known)
    return graded


def _asked(sandboxes: Sandboxes, instance: Instance, folder: Path, test_s: float) -> Graded:
    gold = instance.row.patch.encode()
    for _ in range(GOLD_TRIES):
        graded = _known_of(sandboxes, partial(once, sandboxes, instance, gold, folder, test_s))
        if graded.verdict is Verdict.RESOLVED or unknown(graded):
            break
    if graded.verdict is Verdict.RESOLVED:
        ask = partial(once, sandboxes, instance, None, folder / "base", test_s)
        bare = _known_of(sandboxes, ask)
        if unknown(bare):
            return bare
        if bare.verdict is Verdict.RESOLVED:
            why = {"verdict": Verdict.TESTS_FAIL, "detail": "the tests pass without any patch"}
            return graded.model_copy(update=why)
    elif graded.applies and sandboxes.kind == "docker" and not sandboxes.grade_network:
        online = once(sandboxes, instance, gold, folder / "online", test_s, network=True)
        if online.verdict is Verdict.RESOLVED:
            why = {"detail": "the gold patch resolves with a network alone; see grade_network"}
            return graded.model_copy(update=why)
    return graded


def _known_of(sandboxes: Sandboxes, ask: Callable[[], Graded]) -> Graded:
    """What infrastructure kept from being known is asked again, twice. Raises UserError where no
    sandbox can be made for so long that nothing is the instance's fault."""
    for _ in range(ATTEMPTS_MAX):
        if not unknown(graded := ask()):
            break
        sandboxes.wait()
    return graded


def _known(sandboxes: Sandboxes, instance: Instance, test_s: float) -> Path | None:
    """Where the answer of this image to this row's tests is kept."""
    try:
        image = sandboxes.identity(instance)
    except Exception:
        return None  # it is not here; asking for the sandbox will say so
    bounds = f"{sandboxes.caps} {sandboxes.grade_network} {test_s}"
    asked = f"{__version__} {host()} {image} {bounds} {instance.row.model_dump_json()}"
    return cache_folder() / "preflight" / f"{sha256_of(asked.encode())}.json" if image else None
