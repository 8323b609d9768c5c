"""Compare what the logs of a run's servers show about the model that they load."""

import re
from collections import defaultdict
from collections.abc import Iterator

from kvci.rundir.directory import RunDirectory
from kvci.serve.effective import BUILD

FACT = re.compile(r"print_info: ((?:file type|file size|model params|general\.name) += .*)")
FILE = re.compile(r"loading model '(?:[^'\n]*/)?([^'/\n]+)'")


def other_models(directory: RunDirectory) -> Iterator[str]:
    """Yield a line if the servers' logs show models of different sizes or names.

    The digest of the model's file is the runner's word, but all servers load the same file.
    """
    yield from _differences(directory, FACT, "show different models")


def other_files(directory: RunDirectory) -> Iterator[str]:
    """Yield a line if the servers' logs name different files. A file may have been renamed."""
    yield from _differences(directory, FILE, "name different files of the model")


def _differences(directory: RunDirectory, shown: re.Pattern[str], what: str) -> Iterator[str]:
    """Yield a line if the texts that a pattern finds differ in the logs of one build.

    Another build may write other texts. A log without such a text differs from no other log.
    """
    builds: dict[str, dict[tuple[str, ...], str]] = defaultdict(dict)
    for log in sorted((directory.path / "servers").glob("*.log")):
        text = log.read_text(errors="replace")
        build = BUILD.search(text)
        if texts := {" ".join(found.split()) for found in shown.findall(text)}:
            builds[build[0] if build else ""][tuple(sorted(texts))] = log.stem
    for found in builds.values():
        if len(found) > 1:
            sides = (f"{name}: {', '.join(texts)}" for texts, name in found.items())
            yield f"the servers' logs {what} ({'; '.join(sides)})"
