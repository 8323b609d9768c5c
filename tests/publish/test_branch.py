"""The branch of rows that are not merged yet, in a real git repository."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import git
import pytest

from kvci.errors import UserError
from kvci.publish.branch import push
from kvci.record.schema import Record
from tests.record.made import record

BRANCH = "kvci/results"
PUBLISH = """
import sys
from kvci.publish.branch import push
from kvci.record.schema import Record
push(sys.argv[1], "main", "kvci/results", [Record.model_validate_json(sys.argv[2])])
"""


def at(hour: int, position: int = 0, **other: Any) -> Record:
    """Return the record of a run that starts at this hour."""
    return record(position, start=f"2026-02-01T{hour:02}:00:00Z", **other)


def shown(origin: Path, name: str, branch: str = BRANCH) -> str:
    return str(git.Repo(origin).git.show(f"{branch}:{name}"))


def files(origin: Path, branch: str = BRANCH) -> set[str]:
    return set(str(git.Repo(origin).git.ls_tree("-r", "--name-only", branch)).split("\n"))


def merge(origin: Path) -> None:
    """Merge with a squash: the base branch gets the branch's files, but not its commit."""
    bare = git.Repo(origin)
    tree = bare.git.rev_parse(f"{BRANCH}^{{tree}}")
    words = ["git", "-c", "user.name=x", "-c", "user.email=x@localhost"]
    made = bare.git.execute([*words, "commit-tree", str(tree), "-p", "main", "-m", "merged"])
    bare.git.update_ref("refs/heads/main", str(made))


def test_branch_adds_only_rows_and_records(origin: Path) -> None:
    one = at(10)
    pushed = push(str(origin), "main", BRANCH, [one])
    assert pushed.rows == (one.row_id,) and pushed.records == (one,)
    assert files(origin) - files(origin, "main") == {f"ci/results/{one.row_id}.json"}
    text = shown(origin, "BENCHMARKS.md")
    assert one.row_id in text and text.startswith("Ours.") and "And prose." in text
    assert shown(origin, "other.txt") == "not touched"
    assert push(str(origin), "main", BRANCH, [one]).commit == pushed.commit, "nothing new"


def test_unmerged_rows_stay_on_the_branch(origin: Path) -> None:
    one, two, three = at(10), at(11), at(12)
    push(str(origin), "main", BRANCH, [one])
    assert push(str(origin), "main", BRANCH, [two]).rows == (one.row_id, two.row_id)
    assert str(git.Repo(origin).git.rev_list("--count", f"main..{BRANCH}")) == "1"
    merge(origin)
    pushed = push(str(origin), "main", BRANCH, [three])
    assert pushed.rows == (three.row_id,)
    assert all(one.row_id in shown(origin, "BENCHMARKS.md") for one in (one, two, three))


def test_continued_run_replaces_its_earlier_record(origin: Path) -> None:
    early, late = at(10, trials=1), at(10, trials=2)
    push(str(origin), "main", BRANCH, [early])
    merge(origin)
    push(str(origin), "main", BRANCH, [late])
    push(str(origin), "main", BRANCH, [at(11)])
    assert "interim" in shown(origin, "BENCHMARKS.md", "main")
    name = f"ci/results/{late.row_id}.json"
    assert Record.model_validate_json(shown(origin, name)) == late


def test_no_record_of_another_run_is_overwritten(origin: Path) -> None:
    push(str(origin), "main", BRANCH, [at(10)])
    with pytest.raises(UserError, match="is the record of another run"):
        push(str(origin), "main", BRANCH, [at(10, run_id="another")])


def test_twelve_parallel_publishers_lose_no_row(origin: Path) -> None:
    records = [at(hour) for hour in range(12)]

    def publish(one: Record) -> int:
        words = [sys.executable, "-c", PUBLISH, str(origin), one.model_dump_json()]
        return subprocess.run(words, timeout=300).returncode

    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(publish, records)) == [0] * 12
    text = shown(origin, "BENCHMARKS.md")
    assert all(one.row_id in text for one in records)
    assert files(origin) - files(origin, "main") == {f"ci/results/{o.row_id}.json" for o in records}


def test_git_failure_is_a_sentence(origin: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="git cannot publish to kvci/results"):
        push(str(tmp_path / "none.git"), "main", BRANCH, [at(10)])
    hook = origin / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho protected; exit 1\n")
    hook.chmod(0o755)
    with pytest.raises(UserError, match="declined"):
        push(str(origin), "main", BRANCH, [at(10)])


def test_missing_benchmarks_page_is_created(origin: Path) -> None:
    bare = git.Repo(origin)
    words = ["git", "-c", "user.name=x", "-c", "user.email=x@localhost"]
    empty = bare.git.execute([*words, "hash-object", "-t", "tree", "-w", "/dev/null"])
    made = bare.git.execute([*words, "commit-tree", str(empty), "-m", "nothing"])
    bare.git.update_ref("refs/heads/main", str(made))
    one = at(10)
    push(str(origin), "main", BRANCH, [one])
    assert files(origin) == {"BENCHMARKS.md", f"ci/results/{one.row_id}.json"}
    assert one.row_id in shown(origin, "BENCHMARKS.md")


def test_owners_page_keeps_its_tables(origin: Path, tmp_path: Path) -> None:
    own = "# Ours\n\n| Engine | ms |\n|---|---|\n| v8 | 3 |\n"
    (tmp_path / "work" / "BENCHMARKS.md").write_text(own)
    work = git.Repo(tmp_path / "work")
    who = ["-c", "user.name=x", "-c", "user.email=x@localhost"]
    work.git.execute(["git", *who, "commit", "-qam", "own"])
    work.git.push(str(origin), "main")
    records = [at(10), at(11)]
    for one in records:
        push(str(origin), "main", BRANCH, [one])
    text = shown(origin, "BENCHMARKS.md")
    assert text.startswith(own) and all(one.row_id in text for one in records)


def test_regraded_and_repeated_trials_stay_until_merged(origin: Path) -> None:
    """The record has as many trials as on the base branch; another publisher pushes later."""

    def later(one: Record, trials: int) -> Record:
        old = tuple(trial.model_copy(update={"superseded": True}) for trial in one.trials)
        whole = at(10, one.position, trials=trials).trials
        new = tuple(t.model_copy(update={"start": "2026-02-02T10:00:00Z"}) for t in whole)
        return one.model_copy(update={"trials": (*new, *old)})

    was = [at(10, 0, trials=2), at(10, 1, trials=1)]
    push(str(origin), "main", BRANCH, was)
    merge(origin)
    better = tuple(t.model_copy(update={"detail": "again"}) for t in was[0].trials)
    graded = [was[0].model_copy(update={"trials": better}), was[1]]
    for now in (graded, [later(one, 2) for one in was]):
        push(str(origin), "main", BRANCH, now)
        push(str(origin), "main", BRANCH, [at(11)])
        names = [f"ci/results/{one.row_id}.json" for one in now]
        assert [Record.model_validate_json(shown(origin, name)) for name in names] == now


def test_file_in_a_subfolder_is_not_a_record(origin: Path, tmp_path: Path) -> None:
    work = git.Repo(tmp_path / "work")
    notes = tmp_path / "work" / "ci" / "results" / "notes"
    notes.mkdir(parents=True)
    (notes / "x.json").write_text("{}")
    work.git.add("--all")
    who = ["-c", "user.name=x", "-c", "user.email=x@localhost"]
    work.git.execute(["git", *who, "commit", "-qm", "notes"])
    work.git.push(str(origin), "main")
    for hour in (10, 11):
        push(str(origin), "main", BRANCH, [at(hour)])
    assert "ci/results/notes/x.json" in files(origin)


def test_no_branch_is_made_without_new_rows(origin: Path) -> None:
    push(str(origin), "main", BRANCH, [at(10)])
    merge(origin)
    bare = git.Repo(origin)
    bare.git.update_ref("-d", f"refs/heads/{BRANCH}")
    assert not push(str(origin), "main", BRANCH, [at(10)]).rows
    assert [head.name for head in bare.heads] == ["main"]


def test_rejected_workflow_files_have_a_remedy(origin: Path) -> None:
    hook = origin / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    why = "refusing to allow a GitHub App to update workflow w.yml without workflows permission"
    hook.write_text(f"#!/bin/sh\necho '{why}' >&2; exit 1\n")
    hook.chmod(0o755)
    with pytest.raises(UserError, match="merge its pull request, or close it and delete"):
        push(str(origin), "main", BRANCH, [at(10)])
