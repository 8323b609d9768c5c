"""What is compared of a trial. Each is a yes or no, and yes is better."""

from collections.abc import Callable

from kvci.compare.side import Seen


def _endpoint(value: Callable[[Seen], bool | None]) -> Callable[[Seen], bool | None]:
    """A trial whose server failed in this arm alone reached nothing."""
    return lambda seen: value(seen) if seen.served else False


ENDPOINTS: dict[str, Callable[[Seen], bool | None]] = {
    "resolved": _endpoint(lambda seen: seen.resolved),
    "no_loop": _endpoint(lambda seen: seen.loops == 0),
    "well_formed": _endpoint(lambda seen: seen.malformed == 0),
    "patched": _endpoint(lambda seen: seen.patched),
    "no_overflow": _endpoint(lambda seen: None if seen.overflowed is None else not seen.overflowed),
    "applies": _endpoint(lambda seen: seen.applies),
    "tests_flipped": _endpoint(lambda seen: None if seen.flipped is None else seen.flipped == 1.0),
}
"""Name -> the value; None is not known of this trial. One is the spec's primary endpoint."""
MEASURES: dict[str, Callable[[Seen], float | None]] = {
    "steps": lambda seen: seen.steps,
    "answer tokens": lambda seen: seen.answer_tokens,
    "deepest context, tokens": lambda seen: seen.depth_tokens,
    "failing tests that pass, %": lambda seen: (
        None if seen.flipped is None else 100.0 * seen.flipped
    ),
}
"""Numbers; of all but the last, neither more nor less is better."""
