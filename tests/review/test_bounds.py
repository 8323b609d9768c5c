"""Whatever a pull request contains, the review ends soon, with a sentence."""

import io
import json
import os
import re
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import git
import pytest

from kvci.errors import UserError
from kvci.publish.pull_request import Target, with_evidence
from kvci.record.bundle import MAX_FILE_BYTES
from kvci.record.places import BENCHMARKS, PAGE_MAX_BYTES, RECORD_MAX_BYTES, RESULTS
from kvci.report.benchmarks import EMPTY
from kvci.review import evidence_check, job
from kvci.review.comment import comment
from kvci.review.page import check_page
from kvci.review.rows import Review, review
from kvci.spec import hash_of
from tests.fake_github import Fake
from tests.record.made import record
from tests.review.test_job import Opened
from tests.review.test_rows import BASE, Case, says, tree

SOON_S = 60.0
"""Each of these takes at most ten seconds on a machine that does nothing else."""
LINES = 49_000


@pytest.fixture(autouse=True)
def soon() -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < SOON_S


@pytest.fixture
def honest(tmp_path: Path) -> Case:
    return Case(tmp_path)


@pytest.fixture
def sent(fake: Fake, origin: Path, tmp_path: Path) -> Opened:
    return Opened(fake, origin, tmp_path)


PAGES = {
    "similar lines": "".join(f"Words about run {n}, which are similar\n" for n in range(LINES)),
    "one line": "word " * (3 << 18),
    "brackets": "[" * (1 << 20),
    "references": "[a]: b\n" * LINES,
    "open references": '[a]: b "\n' * LINES,
    "HTML": "<a\n" * LINES,
    "headers": "|a\n" * LINES,
    "separators": "|-\n" * LINES,
    "wide table": "|a" * 20_000 + "|\n" + "|-" * 20_000 + "|\n" + "|\n" * 1000,
    "headings": "a\n=\n" * (LINES // 2),
    "quotes": ("> " * 19 + "a\n") * (LINES // 4),
    "deep list": "".join("  " * depth + "- a\n" for depth in range(300)),
    "lazy lines": "- a\n" + "b\n" * LINES,
    "backticks": "`" * (1 << 20),
    "backslashes": "\\" * (1 << 20),
    "control characters": "\x1b[2J\x9b\u202e\x00" * (1 << 17),
}


@pytest.mark.parametrize("name", PAGES)
def test_page_is_read_soon(name: str) -> None:
    page = f"{EMPTY}\n{PAGES[name]}".encode()
    problems, notes = check_page(EMPTY.encode(), page, [])
    text = comment(Review((), tuple(problems), (), tuple(notes)), accepted=False)
    assert len(text) < 60_000 and (problems or notes)


def test_similar_edits_are_read_soon() -> None:
    old, new = (
        EMPTY + "\n" + "".join(f"Row {n} of the {word} results, with words\n" for n in range(5000))
        for word in ("first", "second")
    )
    problems, notes = check_page(old.encode(), new.encode(), [])
    assert problems == [] and len(notes) == 10_000


@pytest.mark.parametrize("more", ["x" * PAGE_MAX_BYTES, "\n" * 60_000, "\r" * 60_000])
def test_larger_page_is_refused(more: str) -> None:
    problems, _ = check_page(None, f"{EMPTY}{more}".encode(), [])
    assert "is larger than 4 MiB or 50000 lines" in problems[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m["spec"].update(seeds=list(range(100_000))), "names no evidence"),
        (lambda m: m.update(planned=[f"i{n}" for n in range(300_000)]), "was never planned"),
        (lambda m: m.update(spec=nested(150)), "model is missing"),
        (lambda m: m.update(spec=nested(5000)), "is not a record"),
        (lambda m: m["trials"][0].update(seed=int("9" * 4000)), "was never planned"),
        (lambda m: m["trials"].extend(m["trials"][:1] * 20_000), "is counted twice"),
        (lambda m: m.update(dataset="x" * (1 << 20)), "names no evidence"),
    ],
)
def test_hostile_record_is_read_soon(
    change: Callable[[dict[str, object]], object], words: str
) -> None:
    made = json.loads(record().model_dump_json())
    many = [f"i{n}" for n in range(100_000)]
    made["planned"] += many
    change(made)
    path = f"{RESULTS}/{record().row_id}.json"
    text = text_of(made)
    if words != "is not a record":
        made = json.loads(text)
        text = json.dumps(made | {"spec_sha256": hash_of(made["spec"])})
    content = text.encode()
    found = review(BASE, BASE | {path: content}, lambda _: b"")
    lines = [*found.problems, *found.unattested]
    assert any(words in line for line in lines), [line[:300] for line in lines]
    assert len(comment(found, accepted=False)) < 60_000


def nested(depth: int) -> dict[str, object]:
    return {"": f"NESTED{depth}"}


def text_of(made: dict[str, object]) -> str:
    text = json.dumps(made)
    for depth in (150, 5000):
        text = text.replace(f'"NESTED{depth}"', "[" * depth + "]" * depth)
    return text


def with_files(archive: bytes, changed: dict[str, bytes | int]) -> bytes:
    """Return the archive with other files. A number stands for so many zeros."""
    out = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(archive)) as old,
        tarfile.open(fileobj=out, mode="w:gz") as new,
    ):
        for member in old:
            content = changed.pop(member.name, None)
            body = old.extractfile(member)
            assert body
            _add(new, member.name, body.read() if content is None else content)
        for name, content in changed.items():
            _add(new, name, content)
    return out.getvalue()


class Zeros(io.RawIOBase):
    def read(self, size: int = -1) -> bytes:
        return bytes(size)


def _add(archive: tarfile.TarFile, name: str, content: bytes | int) -> None:
    member = tarfile.TarInfo(name)
    member.size = content if isinstance(content, int) else len(content)
    archive.addfile(member, Zeros() if isinstance(content, int) else io.BytesIO(content))


def hostile_evidence(honest: Case, archive: bytes, words: str) -> None:
    head = tree(*with_evidence(honest.records, archive, Target("owner/name", "")))
    says(BASE, head, lambda _: archive, words)


OUTCOME = "shard-1-of-2/trials/f16-f16/a/0/outcome.json"
LOG = "shard-1-of-2/servers/f16-f16.0.log"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (OUTCOME, b"[" * 1_000_000, "gives no record"),
        (OUTCOME, b'{"steps": ' + b"9" * 1_000_000 + b"}", "gives no record"),
        (OUTCOME, MAX_FILE_BYTES + 1, "is too large"),
        ("shard-1-of-2/trials/x/b/0/grade/report.json", MAX_FILE_BYTES + 1, "is too large"),
        ("shard-1-of-2/trials/x/y/0/" + "a/" * 600 + "z", b"", "is not a file of a run"),
        ("shard-1-of-2/trials/f16-f16/a/0/grade/report.json", b"[" * 100_000, "gives no record"),
    ],
)
def test_hostile_evidence_is_read_soon(
    honest: Case,
    name: str,
    content: bytes | int,
    words: str,
) -> None:
    hostile_evidence(honest, with_files(honest.archive, {name: content}), words)


def test_log_that_takes_hours_is_a_problem(
    honest: Case,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each start of the repeated word is searched to the end of the line."""
    monkeypatch.setattr(evidence_check, "EVIDENCE_S", 3.0)
    archive = with_files(honest.archive, {LOG: b"llama_kv_cache" * 2_000_000})
    hostile_evidence(honest, archive, "kvci needs more than")


def test_filter_that_takes_hours_is_a_problem(
    honest: Case,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def hours(run: Path) -> list[str]:
        re.search(r"(\w+)+!", "a" * 60)
        return []

    monkeypatch.setattr(evidence_check, "EVIDENCE_S", 1.0)
    monkeypatch.setattr(evidence_check, "differences", hours)
    says(BASE, honest.head, honest.fetch, "kvci needs more than")


def pushed(sent: Opened, files: dict[str, bytes]) -> None:
    """Add files to the head of the pull request."""
    clone = git.Repo.clone_from(
        str(sent.origin), sent.origin.parent / "more", branch="kvci/results"
    )
    for name, content in files.items():
        path = Path(clone.working_dir, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    clone.git.add("--all")
    clone.git.execute(
        ["git", "-c", "user.name=x", "-c", "user.email=x@localhost", "commit", "-qm", "x"]
    )
    clone.git.push("--quiet", "origin", "HEAD:kvci/results")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (
            {f"{RESULTS}/x.json": b" " * (RECORD_MAX_BYTES + 1)},
            "ci/results/x.json is larger than 20",
        ),
        ({BENCHMARKS: b" " * (PAGE_MAX_BYTES + 1)}, "BENCHMARKS.md is larger than 4 MiB"),
        ({f"{RESULTS}/{n}.json": b"{}" for n in range(500)}, "reviews at most 400 at once"),
    ],
)
def test_too_large_pull_request_fails_with_a_sentence(
    sent: Opened,
    files: dict[str, bytes],
    words: str,
) -> None:
    pushed(sent, files)
    with pytest.raises(UserError, match=words):
        sent.review()
    status = sent.fake.statuses[-1]
    assert status["state"] == "failure" and words in status["description"]


def test_results_have_a_limit_together(
    sent: Opened,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(job, "MAX_CHANGED_BYTES", 1 << 20)
    pushed(sent, {f"{RESULTS}/{n}.json": b" " * (1 << 19) for n in range(3)})
    with pytest.raises(UserError, match="changes more than 1 MiB of results"):
        sent.review()
    assert sent.fake.statuses[-1]["state"] == "failure"


def test_ended_child_is_a_problem(honest: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system ends it if it needs too much memory."""
    monkeypatch.setattr(evidence_check, "differences", lambda run: os.kill(os.getpid(), 9))
    says(BASE, honest.head, honest.fetch, "process ended while it read it")


def test_endless_review_fails_with_a_sentence(
    sent: Opened,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def forever(*_: object) -> object:
        while True:
            time.sleep(0.01)

    monkeypatch.setattr(job, "REVIEW_S", 1.0)
    monkeypatch.setattr(job, "review", forever)
    with pytest.raises(UserError, match="The review takes longer than"):
        sent.review()
    assert sent.fake.statuses[-1]["state"] == "failure"


def naming(honest: Case, runs: int, url: str = "") -> dict[str, bytes]:
    """Return records of one arm of many runs. Each trial names a workflow run of its own."""
    one = json.loads(honest.records[0].model_dump_json())
    head = {}
    for n in range(runs):
        trials = [
            trial | {"workflow_run": str(1000 * n + number)}
            for number, trial in enumerate(one["trials"])
        ]
        evidence = one["evidence"] | {"where": url or f"https://x.example/{n}"}
        made = one | {"run_id": f"r{n}", "row_id": f"x-{n}", "trials": trials, "evidence": evidence}
        head[f"{RESULTS}/x-{n}.json"] = json.dumps(made).encode()
    return head


def test_invented_workflow_runs_are_not_looked_up(honest: Case) -> None:
    asked = list[int]()
    review(BASE, BASE | naming(honest, 3), lambda _: honest.archive, asked.append)
    assert asked == []


def test_evidence_of_two_runs_is_not_downloaded(honest: Case) -> None:
    fetched = list[str]()
    head = BASE | naming(honest, 5, "https://x.example/a")
    found = review(BASE, head, lambda url: fetched.append(url) or honest.archive)  # type: ignore[func-returns-value]
    assert fetched == []
    assert sum("names the evidence of another run" in line for line in found.problems) == 5


def test_all_runs_of_a_review_share_a_limit_of_lookups(
    honest: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvci.review.workflow.RUNS_MAX", 3)
    monkeypatch.setattr("kvci.review.evidence_check._mismatch", lambda *_: "")
    asked = list[int]()
    found = review(BASE, BASE | naming(honest, 4), lambda _: honest.archive, asked.append)
    assert len(asked) == len(set(asked)) == 3
    assert any(
        "names 2 workflow runs, and 1 of them were read; a review reads 3" in line
        for line in found.unattested
    ), found.unattested
