"""The values of a trial that are compared. An endpoint is yes or no, and yes is better."""

from collections.abc import Callable

from kvci.compare.side import ComparedTrial

Endpoint = Callable[[ComparedTrial], bool | None]
"""The value of one trial; None if it is not known."""


def _endpoint(value: Endpoint) -> Endpoint:
    """Return the endpoint with this value; it is False if the server failed only in this arm."""
    return lambda trial: value(trial) if trial.served else False


ENDPOINTS: dict[str, Endpoint] = {
    "resolved": _endpoint(lambda trial: trial.resolved),
    "no_loop": _endpoint(lambda trial: trial.loops == 0),
    "well_formed": _endpoint(lambda trial: trial.malformed == 0),
    "patched": _endpoint(lambda trial: trial.patched),
    "no_overflow": _endpoint(
        lambda trial: None if trial.overflowed is None else not trial.overflowed
    ),
    "applies": _endpoint(lambda trial: trial.applies),
    "tests_flipped": _endpoint(
        lambda trial: None if trial.flipped_share is None else trial.flipped_share == 1.0
    ),
}
"""Name -> endpoint. The specification names one endpoint as the primary one."""
MEASURES: dict[str, Callable[[ComparedTrial], float | None]] = {
    "steps": lambda trial: trial.steps,
    "answer tokens": lambda trial: trial.answer_tokens,
    "deepest context, tokens": lambda trial: trial.depth_tokens,
    "failing tests that pass, %": lambda trial: (
        None if trial.flipped_share is None else 100.0 * trial.flipped_share
    ),
}
"""Name -> measure, a number. For the last measure, more is better. For all other measures, neither
more nor less is better."""
