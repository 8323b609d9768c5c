"""The branch with the records and rows of all runs that are not merged yet.

The branch is always one commit on top of the base branch. This commit adds the records that only
the branch has, the new records, and BENCHMARKS.md rendered from all records. If another publisher
pushes first, kvci starts again from the new branch, so that no row is lost and no conflict arises.
"""

import base64
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import git

from kvci.errors import UserError
from kvci.github import FILES
from kvci.record.places import BENCHMARKS, RESULTS, misplaced
from kvci.record.schema import Record
from kvci.record.store import parse, read, read_all, trial_keys, write
from kvci.report.benchmarks import EMPTY
from kvci.report.update import render_again
from kvci.text import plain
from kvci.units import counted

TRIES = 40
WORKFLOW_REMEDY = (
    " Workflow files changed on the base branch since this branch was made; merge its pull "
    "request, or close it and delete the branch. Then publish again."
)
RETRY = " Correct the cause, and publish again."
BASE, BRANCH = "refs/kvci/base", "refs/kvci/branch"
BOT = ("kvci", "41898282+github-actions[bot]@users.noreply.github.com")
PUSHED_FIRST = (
    *("stale info", "fetch first", "non-fast-forward"),
    *("cannot lock ref", "failed to update ref", "reference already exists"),
)
"""Texts in git's message if another publisher pushed first. Any other rejection is final."""


@dataclass(frozen=True)
class Pushed:
    """The branch after a push. `rows` and `records` are not on the base branch yet."""

    commit: str
    rows: tuple[str, ...]
    records: tuple[Record, ...]


def push(
    origin: str,
    base: str,
    branch: str,
    records: Sequence[Record],
    token: str = "",
    dry_run: bool = False,
) -> Pushed:
    """Add the records to the branch. `origin` is a URL or a path.

    A dry run does everything except the push. Raises UserError if git fails, if the file of a
    record contains the record of another run, or if other publishers push first every time.
    """
    with tempfile.TemporaryDirectory(prefix="kvci-publish-") as folder:
        repository = git.Repo.init(folder)
        repository.git.update_environment(**_environment(origin, token))
        try:
            for _ in range(TRIES):
                old = _fetch(repository, origin, base, branch)
                pushed = _commit(repository, records, old)
                if dry_run or pushed.commit == old or _push(repository, origin, branch, old):
                    return pushed
                pause()
        except git.GitCommandError as error:
            why = " ".join(str(error.stderr).split())[-300:]
            remedy = WORKFLOW_REMEDY if "workflow" in why and "permission" in why else RETRY
            raise UserError(f"git cannot publish to {branch}: {why}.{remedy}") from None
    raise UserError(f"Other publishers pushed to {branch} first, {TRIES} times; publish again.")


def pause() -> None:
    """Wait for a random time, so that two publishers do not push at the same time again."""
    time.sleep(random.uniform(0.1, 2.0))


def _environment(origin: str, token: str) -> dict[str, str]:
    """Return git's environment. It contains the token, because a process list shows arguments."""
    name, mail = BOT
    variables = {"GIT_TERMINAL_PROMPT": "0"}
    for who in ("AUTHOR", "COMMITTER"):
        variables |= {f"GIT_{who}_NAME": name, f"GIT_{who}_EMAIL": mail}
    if token and origin.startswith("https://"):
        basic = base64.b64encode(f"x-access-token:{token}".encode()).decode()
        variables |= {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "http.extraHeader"}
        variables |= {"GIT_CONFIG_VALUE_0": f"AUTHORIZATION: basic {basic}"}
    return variables


def _fetch(repository: git.Repo, origin: str, base: str, branch: str) -> str:
    """Fetch both branches. Return the commit of `branch`; empty if the branch does not exist."""
    wanted = [f"+refs/heads/{base}:{BASE}"]
    exists = bool(str(repository.git.ls_remote(origin, f"refs/heads/{branch}")))
    if exists:
        wanted.append(f"+refs/heads/{branch}:{BRANCH}")
    repository.git.fetch("--quiet", "--depth=1", "--no-tags", origin, *wanted)
    return str(repository.git.rev_parse(BRANCH)) if exists else ""


def _commit(repository: git.Repo, records: Sequence[Record], old: str) -> Pushed:
    """Make the branch's new commit. If nothing changes, keep `old`, its present commit."""
    tree = Path(repository.working_dir)
    for commit in filter(None, (BASE, old)):
        _check_places(repository, commit)
    repository.git.checkout("--quiet", "--force", "--detach", BASE)
    repository.git.clean("-qfdx")
    results = tree / RESULTS
    results.mkdir(parents=True, exist_ok=True)
    _apply(_records_at(repository, old), results)
    write(records, results)
    if not (tree / BENCHMARKS).exists():
        (tree / BENCHMARKS).write_text(EMPTY)
    render_again(results, tree / BENCHMARKS)
    repository.git.add("--all", RESULTS, BENCHMARKS)
    rows = tuple(
        Path(name).stem
        for name in repository.git.diff("--cached", "--name-only", BASE, "--", RESULTS).split("\n")
        if name
    )
    unmerged = tuple(
        one for one in read_all(results) if isinstance(one, Record) and one.row_id in set(rows)
    )
    if not rows and not old:
        return Pushed("", (), ())
    if old and repository.git.write_tree() == repository.git.rev_parse(f"{old}^{{tree}}"):
        return Pushed(old, rows, unmerged)
    repository.git.commit("--quiet", "--allow-empty", "--message", _message(rows))
    return Pushed(repository.head.commit.hexsha, rows, unmerged)


def _check_places(repository: git.Repo, commit: str) -> None:
    """Raise UserError if the commit has a link, file or folder at the path of a result."""
    listed = str(repository.git.ls_tree("-r", "-z", commit, "--", "ci", BENCHMARKS))
    found = {}
    for entry in filter(None, listed.split("\0")):
        what, _, path = entry.partition("\t")
        mode, _, blob = what.split()
        found[path] = blob if mode in FILES else ""
    for problem in misplaced(found):
        raise UserError(f"{problem}: remove it, and publish again.")


def _records_at(repository: git.Repo, commit: str) -> dict[str, bytes]:
    """Return file name -> content, for each record of the commit; empty without a commit."""
    if not commit:
        return {}
    names = repository.git.ls_tree("--name-only", commit, "--", f"{RESULTS}/").split("\n")
    tree = repository.commit(commit).tree
    return {
        Path(name).name: (tree / name).data_stream.read()
        for name in names
        if name.endswith(".json")
    }


def _apply(branch: dict[str, bytes], results: Path) -> None:
    """Write the branch's records over the records of the base branch.

    If the base branch has trials of a run that the branch lacks, the run's records stay as they are
    on the base branch. The records of a run change together, because they share one archive of
    evidence.
    """
    found = {name: parse(content, name) for name, content in branch.items()}
    stale = set()
    for name, one in found.items():
        base = read(results / name) if (results / name).exists() else one
        if not isinstance(one, Record) or not isinstance(base, Record) or one.key != base.key:
            if base != one:
                stale.add(name)
        elif not trial_keys(base) <= trial_keys(one):
            stale |= {n for n, o in found.items() if isinstance(o, Record) and o.key == one.key}
    for name in found.keys() - stale:
        (results / name).write_bytes(branch[name])


def _push(repository: git.Repo, origin: str, branch: str, old: str) -> bool:
    """Push the commit. Return False if another publisher pushed first."""
    lease = f"--force-with-lease=refs/heads/{branch}:{old}"
    try:
        repository.git.push("--quiet", lease, origin, f"HEAD:refs/heads/{branch}")
    except git.GitCommandError as error:
        if any(word in str(error.stderr) for word in PUSHED_FIRST):
            return False
        raise
    return True


def _message(rows: Sequence[str]) -> str:
    head = f"{counted(len(rows), 'new row')} of BENCHMARKS.md"
    return "\n".join([head, "", *map(plain, rows)])
