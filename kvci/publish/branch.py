"""A rolling branch that has the rows of all runs that are not merged yet.

It is always one commit on top of the base: the base's files, the records that the branch had and
the base has not, the new ones, and BENCHMARKS.md rendered from them all. Whoever was overtaken by
another publisher begins again from what is there then, so nothing is lost and nothing conflicts.
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

TRIES = 40
WORKFLOWS = (
    " Workflow files changed on the base since the branch was made: merge its pull request, or "
    "close it and delete the branch, and publish again."
)
BASE, BRANCH = "refs/kvci/base", "refs/kvci/branch"
BOT = ("kvci", "41898282+github-actions[bot]@users.noreply.github.com")
OVERTAKEN = (
    *("stale info", "fetch first", "non-fast-forward"),
    *("cannot lock ref", "failed to update ref", "reference already exists"),
)
"""Git's words when another has pushed meanwhile; all else it refuses for good."""


@dataclass(frozen=True)
class Pushed:
    """What the branch holds now; `rows` are those that the base has not."""

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
    """Put the records on the branch, together with what is there. `origin` is a URL or a path.

    In a dry run all is done but the push. Raises UserError if git refuses, or a record of another
    run is in the way.
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
            said = " ".join(str(error.stderr).split())[-300:]
            remedy = WORKFLOWS if "workflow" in said and "permission" in said else ""
            raise UserError(f"git cannot publish to {branch}: {said}.{remedy}") from None
    raise UserError(f"Others were faster {TRIES} times on {branch}; publish again.")


def pause() -> None:
    """Of random length, so that publishers who were overtaken do not meet again."""
    time.sleep(random.uniform(0.1, 2.0))


def _environment(origin: str, token: str) -> dict[str, str]:
    """The token goes to git in its environment, where no list of processes shows it."""
    name, mail = BOT
    found = {"GIT_TERMINAL_PROMPT": "0"}
    for who in ("AUTHOR", "COMMITTER"):
        found |= {f"GIT_{who}_NAME": name, f"GIT_{who}_EMAIL": mail}
    if token and origin.startswith("https://"):
        basic = base64.b64encode(f"x-access-token:{token}".encode()).decode()
        found |= {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "http.extraHeader"}
        found |= {"GIT_CONFIG_VALUE_0": f"AUTHORIZATION: basic {basic}"}
    return found


def _fetch(repository: git.Repo, origin: str, base: str, branch: str) -> str:
    """Have the base and the branch here; the branch's commit, empty if there is no branch."""
    wanted = [f"+refs/heads/{base}:{BASE}"]
    exists = bool(str(repository.git.ls_remote(origin, f"refs/heads/{branch}")))
    if exists:
        wanted.append(f"+refs/heads/{branch}:{BRANCH}")
    repository.git.fetch("--quiet", "--depth=1", "--no-tags", origin, *wanted)
    return str(repository.git.rev_parse(BRANCH)) if exists else ""


def _commit(repository: git.Repo, records: Sequence[Record], old: str) -> Pushed:
    """The branch as it is to be; `old` itself if there is nothing to change."""
    tree = Path(repository.working_dir)
    for commit in filter(None, (BASE, old)):
        _hold_straight(repository, commit)
    repository.git.checkout("--quiet", "--force", "--detach", BASE)
    repository.git.clean("-qfdx")
    results = tree / RESULTS
    results.mkdir(parents=True, exist_ok=True)
    _keep(_records_at(repository, old), results)
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
    mine = tuple(
        one for one in read_all(results) if isinstance(one, Record) and one.row_id in set(rows)
    )
    if not rows and not old:
        return Pushed("", (), ())
    if old and repository.git.write_tree() == repository.git.rev_parse(f"{old}^{{tree}}"):
        return Pushed(old, rows, mine)
    repository.git.commit("--quiet", "--allow-empty", "--message", _message(rows))
    return Pushed(repository.head.commit.hexsha, rows, mine)


def _hold_straight(repository: git.Repo, commit: str) -> None:
    """Raises UserError if something stands in the way of the commit's results."""
    listed = str(repository.git.ls_tree("-r", "-z", commit, "--", "ci", BENCHMARKS))
    found = {}
    for entry in filter(None, listed.split("\0")):
        what, _, path = entry.partition("\t")
        mode, _, blob = what.split()
        found[path] = blob if mode in FILES else ""
    for problem in misplaced(found):
        raise UserError(f"{problem}: take it away, and publish again.")


def _records_at(repository: git.Repo, commit: str) -> dict[str, bytes]:
    if not commit:
        return {}
    names = repository.git.ls_tree("--name-only", commit, "--", f"{RESULTS}/").split("\n")
    tree = repository.commit(commit).tree
    return {
        Path(name).name: (tree / name).data_stream.read()
        for name in names
        if name.endswith(".json")
    }


def _keep(branch: dict[str, bytes], results: Path) -> None:
    """Put the branch's records over the base's, but for runs of which the base has trials that the
    branch lacks: the arms of a run go together, for their evidence is one."""
    found = {name: parse(content, name) for name, content in branch.items()}
    lacking = set()
    for name, one in found.items():
        there = read(results / name) if (results / name).exists() else one
        if not isinstance(one, Record) or not isinstance(there, Record) or one.key != there.key:
            if there != one:
                lacking.add(name)
        elif not trial_keys(there) <= trial_keys(one):
            lacking |= {n for n, o in found.items() if isinstance(o, Record) and o.key == one.key}
    for name in found.keys() - lacking:
        (results / name).write_bytes(branch[name])


def _push(repository: git.Repo, origin: str, branch: str, old: str) -> bool:
    """False if another publisher was faster."""
    lease = f"--force-with-lease=refs/heads/{branch}:{old}"
    try:
        repository.git.push("--quiet", lease, origin, f"HEAD:refs/heads/{branch}")
    except git.GitCommandError as error:
        if any(word in str(error.stderr) for word in OVERTAKEN):
            return False
        raise
    return True


def _message(rows: Sequence[str]) -> str:
    head = f"{len(rows)} new row{'s' if len(rows) != 1 else ''} of BENCHMARKS.md"
    return "\n".join([head, "", *rows])
