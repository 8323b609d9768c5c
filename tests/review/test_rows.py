"""The review checks results against their evidence, and reports forgeries."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kvci.errors import UserError
from kvci.files import sha256_of
from kvci.publish.pull_request import Target, with_evidence
from kvci.record.bundle import pack
from kvci.record.from_run import build
from kvci.record.places import BENCHMARKS, RESULTS
from kvci.record.schema import Imported, Record
from kvci.record.store import read, read_all
from kvci.report.benchmarks import EMPTY, render
from kvci.review.comment import comment, whole
from kvci.review.evidence_check import Fetch
from kvci.review.recompute import DatasetUnavailable
from kvci.review.rows import Files, review
from kvci.spec import hash_of
from kvci.taxonomy import Class, Verdict
from tests.conftest import GOLDEN, ROOT
from tests.on_github import active
from tests.record.made import record
from tests.record.test_from_run import made
from tests.record.test_merge import shard

Tree = dict[str, bytes]
BASE: Tree = {BENCHMARKS: EMPTY.encode()}


def tree(*records: Record) -> Tree:
    found = {f"{RESULTS}/{one.row_id}.json": one.model_dump_json(indent=1) for one in records}
    found[BENCHMARKS] = render(EMPTY, records)
    return {path: text.encode() for path, text in found.items()}


class Case:
    """An honest pull request of a finished run of two arms."""

    def __init__(self, folder: Path) -> None:
        self.run = folder / "run"
        shard(self.run, 1, ("a",))
        shard(self.run, 2, ("b",))
        self.archive = pack(self.run)
        target = Target("owner/name", "")
        self.records = with_evidence(build(self.run), self.archive, target)
        self.head = tree(*self.records)
        self.path = f"{RESULTS}/{self.records[1].row_id}.json"

    def fetch(self, url: str) -> bytes:
        assert url == self.records[0].evidence.where
        return self.archive


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def gone(url: str) -> bytes:
    raise UserError("GitHub answers 404: Not Found.")


def hostile(change: Callable[[dict[str, Any]], object]) -> bytes:
    """Return a record that kvci would not make; its hash fits its specification."""
    made = json.loads(record().model_dump_json())
    change(made)
    made["spec_sha256"] = hash_of(made["spec"])
    return json.dumps(made).encode()


def says(base: Files, head: Files, fetch: Fetch, words: str) -> None:
    found = review(base, head, fetch)
    assert not found.passes(accepted=True)
    assert any(words in line for line in found.problems), found.problems
    assert "They have problems" in comment(found, accepted=True)


def test_rows_that_match_their_evidence_pass(case: Case) -> None:
    found = review(BASE, case.head, case.fetch)
    assert (found.problems, found.unattested, len(found.new)) == ((), (), 2)
    assert found.passes(accepted=False)
    text = comment(found, accepted=False)
    assert text.startswith("**The rows match their evidence.**")
    first, table, *rest = text.split("\n\n")
    assert table.count("\n") == 3 and "| 2/2 | 2 | the baseline |" in table
    assert (
        first.count("**") == 2
        and rest[0] == "This review recomputed:"
        and rest[-1].endswith("</details>")
    )


def test_missing_evidence_needs_a_maintainer(case: Case) -> None:
    found = review(BASE, case.head, gone)
    assert not found.passes(accepted=False) and found.passes(accepted=True)
    assert "cannot be downloaded: GitHub answers 404" in found.unattested[0]
    bare = review(BASE, tree(record()), gone)
    assert not bare.passes(accepted=False) and "names no evidence" in bare.unattested[0]


def test_verdict_unlike_its_test_log_is_a_problem(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "kvci.review.evidence_check.differences", lambda run: ["f16-f16, a, seed 0: resolved"]
    )
    says(BASE, case.head, case.fetch, "run: f16-f16, a, seed 0: resolved")


def test_unavailable_dataset_needs_a_maintainer(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(run: Path) -> list[str]:
        raise DatasetUnavailable("the rows of x.jsonl are not available here")

    monkeypatch.setattr("kvci.review.evidence_check.differences", unknown)
    found = review(BASE, case.head, case.fetch)
    assert not found.passes(accepted=False) and found.passes(accepted=True)
    assert "were not recomputed: the rows of x.jsonl" in found.unattested[0]


def forged(case: Case, change: Callable[[dict[str, object]], None]) -> Tree:
    """Return the head with one changed record, and with the rows of this record."""
    made = json.loads(case.head[case.path])
    change(made)
    return tree(case.records[0], Record.model_validate(made))


def lost(made: dict[str, object]) -> None:
    trial = made["trials"][0]  # type: ignore[index]
    trial |= {"cls": "A11a", "verdict": "tests_fail"}


def test_forged_record_is_a_problem(case: Case) -> None:
    says(BASE, forged(case, lost), case.fetch, "does not match its evidence")
    says(BASE, forged(case, lambda m: m.update(gpu="H200")), case.fetch, "match its evidence")
    older = forged(case, lambda m: m.update(schema_version=3))
    says(
        BASE,
        older,
        case.fetch,
        "has the schema version 3 of an earlier kvci, and this kvci writes version 4",
    )
    unverified = forged(case, lambda m: m["trials"][0].update(verified=False))  # type: ignore[index]
    says(BASE, unverified, case.fetch, "is unverified")


def test_forged_evidence_is_a_problem(case: Case, tmp_path: Path) -> None:
    says(BASE, case.head, lambda _: case.archive + b"x", "sha256")
    digest = sha256_of(b"junk")
    junk = tree(
        *(
            one.model_copy(update={"evidence": one.evidence.model_copy(update={"sha256": digest})})
            for one in case.records
        )
    )
    says(BASE, junk, lambda _: b"junk", "gives no record")
    other = pack(made(tmp_path / "other"))
    wrong = tree(*with_evidence(case.records, other, Target("owner/name", "")))
    says(BASE, wrong, lambda _: other, "does not match its evidence")


def test_forged_row_is_a_problem(case: Case) -> None:
    text = case.head[BENCHMARKS].decode()
    for was, now in (("| 2/2 |", "| 1/2 |"), ("100.00%", "50.00%")):
        assert was in text
        head = case.head | {BENCHMARKS: text.replace(was, now, 1).encode()}
        says(BASE, head, case.fetch, "does not match the records")
    line = next(one for one in text.splitlines() if case.records[1].row_id in one)
    says(BASE, case.head | {BENCHMARKS: text.replace(line, "").encode()}, case.fetch, "records")
    doubled = text.replace(line, line.replace(case.records[1].row_id, "x-kv-f16-f16"))
    says(BASE, case.head | {BENCHMARKS: doubled.encode()}, case.fetch, "has no record")


@pytest.mark.parametrize(
    "lines",
    [
        "| Date | Run\u200b ID |\n|---|---|\n| 2026-01-01 | best |",
        "``` x`y\n| Date | Model |",
        "<!--",
    ],
)
def test_row_like_line_is_a_problem(lines: str, case: Case) -> None:
    text = case.head[BENCHMARKS].decode() + f"\n{lines}\n"
    says(
        BASE, case.head | {BENCHMARKS: text.encode()}, case.fetch, "looks like a row and is not one"
    )


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("2026-01-01 100 % resolved", "put an empty line above this line"),
        ("x-kv-q4 | 1", "has no record"),
        ("> a", ""),
    ],
)
def test_line_right_below_the_rows_is_a_row(line: str, words: str, case: Case) -> None:
    text = case.head[BENCHMARKS].decode()
    for row_id in (case.records[0].row_id, case.records[1].row_id):
        last = next(one for one in text.split("\n") if row_id in one)
        page = text.replace(last, f"{last}\n{line}", 1).encode()
        if words:
            says(BASE, case.head | {BENCHMARKS: page}, case.fetch, words)
        else:
            found = review(BASE, case.head | {BENCHMARKS: page}, case.fetch)
            assert line in comment(found, accepted=False)


def test_removed_empty_line_makes_no_row(case: Case) -> None:
    base = BASE | {BENCHMARKS: f"{EMPTY}\n2026-01-01 is a day.\n".encode()}
    head = tree(*case.records)
    page = render(base[BENCHMARKS].decode(), case.records)
    assert review(base, head | {BENCHMARKS: page.encode()}, case.fetch).passes(accepted=False)
    glued = page.replace("\n\n2026-01-01 is", "\n2026-01-01 is").encode()
    assert glued != page.encode()
    says(base, head | {BENCHMARKS: glued}, case.fetch, "put an empty line above this line")


FOOTNOTE = b"# Results\n\nSee below[^1].\n\n[^1]: Measured here\n\n"


@pytest.mark.parametrize("gap", ["", "\u00a0\n"])
def test_footnote_hides_no_table(gap: str, case: Case) -> None:
    """GitHub takes a table right below a footnote for a part of it, and may not show it."""
    base = {BENCHMARKS: FOOTNOTE + EMPTY.encode().split(b"\n", 2)[2]}
    page = render(base[BENCHMARKS].decode(), case.records)
    honest = case.head | {BENCHMARKS: page.encode()}
    assert review(base, honest, case.fetch).passes(accepted=False)
    hidden = page.replace("here\n\n| Date", f"here\n{gap}| Date").encode()
    says(base, case.head | {BENCHMARKS: hidden}, case.fetch, "put an empty line above the table")
    for heading in ("## How the trials ended", "## Effective configuration"):
        start = page.index("\n\n| ", page.index(heading))
        more = f"{page[:start]}\n\n[^1]: Results{page[start + 1 :]}".encode()
        says(base, case.head | {BENCHMARKS: more}, case.fetch, "put an empty line above the table")
    assert "[^2]:" in "".join(
        review(base, case.head | {BENCHMARKS: f"{page}\n[^2]: x\n".encode()}, case.fetch).problems
    )


@pytest.mark.parametrize("dashes", [":-", "-:", ":---:", " :- ", "> :-"])
def test_table_without_a_pipe_is_a_problem(dashes: str, case: Case) -> None:
    text = f"{case.head[BENCHMARKS].decode()}\nq4_0/q4_0 is harmless\n{dashes}\n20 of 20\n"
    says(BASE, case.head | {BENCHMARKS: text.encode()}, case.fetch, "looks like a row")


def test_changed_empty_line_is_told(case: Case) -> None:
    """It may put a paragraph into a footnote, or a row of the owner's table out of the table."""
    own = b"[^1]: Measured here\n\nAll arms are harmful.\n\n| a |\n|---|\n| 1 |\n\n"
    base = {BENCHMARKS: own + EMPTY.encode()}
    page = render(base[BENCHMARKS].decode(), case.records).encode()
    assert review(base, case.head | {BENCHMARKS: page}, case.fetch).edits == ()
    glued = page.replace(b"here\n\nAll", b"here\nAll")
    found = review(base, case.head | {BENCHMARKS: glued}, case.fetch)
    assert "All arms are harmful. (below an empty line)" in comment(found, accepted=False)
    apart = page.replace(b"|---|\n| 1 |", b"|---|\n\n| 1 |", 1)
    says(base, case.head | {BENCHMARKS: apart}, case.fetch, "looks like a row")


def test_edits_hide_no_note(case: Case) -> None:
    more = "".join(f"\nWords {n}.\n" for n in range(60))
    alone = tree(case.records[0])
    found = review(BASE, alone | {BENCHMARKS: (alone[BENCHMARKS].decode() + more).encode()}, gone)
    text = comment(found, accepted=False)
    assert "1 of 2 arms have no record" in text and "and 20 more; see the job's log" in text
    assert set(found.edits) | set(found.notes) <= set(whole(found))


def test_front_matter_is_a_problem(case: Case) -> None:
    """GitHub shows it as a table at the top of the page."""
    page = b"---\nModel: best\nResolved: 300\n---\n" + case.head[BENCHMARKS]
    says(BASE, case.head | {BENCHMARKS: page}, case.fetch, "shows its first lines as a table")


def test_owners_page_is_free_before_the_first_record(case: Case) -> None:
    own = {BENCHMARKS: b"# Ours\n\n| Engine | ms |\n|---|---|\n| v8 | 3 |\n"}
    found = review({BENCHMARKS: own[BENCHMARKS].replace(b"3", b"4")}, own, gone)
    assert found.passes(accepted=False) and "changed by hand: | v8 | 3 |" in found.edits[0]
    log = render(own[BENCHMARKS].decode(), case.records).encode()
    assert review(own, case.head | {BENCHMARKS: log}, case.fetch).passes(accepted=False)
    says(own, case.head | own, case.fetch, "does not match the records")
    says(BASE, own, gone, "has a line that looks like a row")


def test_notes_show_edited_prose_and_missing_arms(case: Case) -> None:
    text = case.head[BENCHMARKS].decode() + "\nAll of it is fine.\n"
    found = review(BASE, case.head | {BENCHMARKS: text.encode()}, case.fetch)
    assert found.passes(accepted=False)
    assert "changed by hand: All of it is fine." in comment(found, accepted=False)
    base = BASE | {BENCHMARKS: BASE[BENCHMARKS] + b"\nWhat a person wrote.\n"}
    less = review(base, case.head, case.fetch)
    assert less.passes(accepted=False)
    assert "removed by hand: What a person wrote." in comment(less, accepted=False)
    alone = review(BASE, tree(case.records[0]), case.fetch)
    assert "1 of 2 arms have no record" in comment(alone, accepted=False)


def test_imported_record_needs_a_maintainer(case: Case) -> None:
    """Otherwise, no pull request could add an imported record."""
    (path, *_) = sorted((ROOT / RESULTS).glob("2026*.json"))
    one = read(path)
    assert isinstance(one, Imported)
    name = f"{RESULTS}/{path.name}"
    head = {name: path.read_bytes(), BENCHMARKS: render(EMPTY, [one]).encode()}
    found = review(BASE, head, gone)
    assert found.unattested and found.passes(accepted=True) and not found.passes(accepted=False)
    assert not review(head, head, gone).unattested


def test_moved_headings_are_noted(case: Case) -> None:
    """Otherwise, a person could put rows of one table under another table's heading."""
    page = case.head[BENCHMARKS].decode()
    one, two = "## Paired comparison", "## How the trials ended"
    moved = page.replace(one, "@").replace(two, one).replace("@", two)
    found = review(BASE, case.head | {BENCHMARKS: moved.encode()}, case.fetch)
    assert any(f"by hand: {one}" in line for line in found.edits), found.edits
    picture = case.head | {BENCHMARKS: f"{page}\n![Verdicts](https://x/y.png)\n".encode()}
    says(BASE, picture, case.fetch, "looks like a row and is not one")
    header = next(line for line in page.split("\n") if line.startswith("| Run ID | Baseline"))
    dashes = page.split("\n")[page.split("\n").index(header) + 1]
    raw = page.replace(f"{header}\n{dashes}", f"{header}\n|---|")
    assert review(BASE, case.head | {BENCHMARKS: raw.encode()}, case.fetch).problems


def test_arms_of_one_run_share_one_archive(case: Case) -> None:
    """Otherwise, an arm that was graded later than its baseline could show a false harm."""
    old = {"sha256": "0" * 64, "where": "https://x/old"}
    first = case.records[0]
    first = first.model_copy(update={"evidence": first.evidence.model_copy(update=old)})
    waits = {"cls": Class.I3, "verdict": Verdict.GRADING_FAILED}
    second = case.records[1].model_copy(
        update={"trials": tuple(t.model_copy(update=waits) for t in case.records[1].trials)}
    )
    base, head = tree(first, second), tree(first, case.records[1])
    says(base, head, case.fetch, "name different evidence")


def test_graded_and_planned_trials_stay(case: Case) -> None:
    first, second = case.records
    waits = {"cls": Class.I3, "verdict": Verdict.GRADING_FAILED}
    some = [t.model_copy(update=waits) for t in second.trials]
    half = second.model_copy(update={"trials": (second.trials[0], *some[1:])})
    none = second.model_copy(update={"trials": tuple(some)})
    says(tree(first, half), tree(first, none), case.fetch, "is edited")
    more = half.model_copy(update={"planned": (*second.planned, "c")})
    says(tree(first, more), case.head, case.fetch, "is edited")


def test_finished_arm_changes_with_an_unfinished_one(case: Case) -> None:
    """Only the finished arm's evidence changes, because the run has a new archive."""
    first, second = (
        one.model_copy(update={"evidence": one.evidence.model_copy(update={"sha256": "0" * 64})})
        for one in case.records
    )
    lost = {"cls": Class.I3, "verdict": Verdict.GRADING_FAILED}
    trials = (second.trials[0].model_copy(update=lost), *second.trials[1:])
    base = tree(first, second.model_copy(update={"trials": trials}))
    assert not review(base, case.head, case.fetch).problems
    says(tree(first, second), case.head, case.fetch, "is edited")


def test_records_of_the_base_stay(case: Case) -> None:
    base = case.head
    only = tree(case.records[0])
    says(base, only, case.fetch, "is removed")
    says(base, forged(case, lost), case.fetch, "is edited")
    assert review(base, base, gone).passes(accepted=False), "nothing new needs no evidence"


@pytest.mark.parametrize(
    "before",
    [{"cls": Class.A11A, "verdict": Verdict.TESTS_FAIL}, {"depth_tokens": 9}, {"steps": 2}],
)
def test_stored_trial_keeps_its_result(before: dict[str, Any], case: Case) -> None:
    """The base has half of the run."""
    first, second = (one.model_copy(update={"trials": one.trials[:1]}) for one in case.records)
    other = second.trials[0].model_copy(update=before)
    base = tree(first, second.model_copy(update={"trials": (other,)}))
    says(base, case.head, case.fetch, "is edited")


def test_stored_trial_may_be_superseded_and_graded_again(case: Case) -> None:
    first, second = (one.model_copy(update={"trials": one.trials[:1]}) for one in case.records)
    free = {"superseded": True, "detail": "x", "why": "x", "eval_s": 9.0, "log_sha256": "0"}
    other = second.trials[0].model_copy(update=free)
    base = tree(first, second.model_copy(update={"trials": (other,)}))
    assert not review(base, case.head, case.fetch).problems


@pytest.mark.parametrize("hidden", [{}, {"trajectory_sha256": "0" * 64}, {"solve_s": 4.5}])
def test_run_under_two_names_is_a_problem(hidden: dict[str, Any], case: Case) -> None:
    """Two rows of one run look like a replication. One of two marks of a trial is enough."""
    stamp = {"run_id": "again", "start": "2026-02-01T10:00:01Z"}
    stored = [
        one.model_copy(
            update=stamp
            | {"row_id": one.row_id.replace("_100000", "_100001")}
            | {"trials": tuple(trial.model_copy(update=hidden) for trial in one.trials)}
        )
        for one in case.records
    ]
    says(tree(*stored), tree(*stored, *case.records), case.fetch, "share 2 trials")


def test_run_may_gain_trials(case: Case, tmp_path: Path) -> None:
    early = tree(*(one.model_copy(update={"trials": one.trials[:1]}) for one in case.records))
    assert review(early, case.head, case.fetch).passes(accepted=False)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "is not a record"),
        (b"\xff", "is not a record"),
        (b'{"kind": "run"}', "is not a record"),
        (b" " * (21 << 20), "is larger than"),
        (hostile(lambda m: m.update(spec={})), "the field run.model is missing"),
        (hostile(lambda m: m["spec"].update(arms=[])), "arms: it has 0 values"),
        (hostile(lambda m: m["spec"].update(seeds="x")), "seeds: 'x' is not a list"),
        (hostile(lambda m: m["spec"]["model"].update(name="|")), "does not have the form"),
        (hostile(lambda m: m["spec"].update(rerun={"of": 3})), "rerun.of: 3 is not text"),
        (hostile(lambda m: m.update(position=99)), "is not the spec's arm 99"),
        (hostile(lambda m: m.update(position=-1)), "position: -1 is too small"),
        (hostile(lambda m: m.update(arm="q4_0-q4_0")), "is not the spec's arm 1"),
        (hostile(lambda m: m["trials"][0].update(shard="x/y")), "does not have the form"),
        (hostile(lambda m: m["trials"][0].update(arm="f16-f16")), "was never planned"),
        (hostile(lambda m: m["trials"][0].update(instance="c")), "was never planned"),
        (hostile(lambda m: m["trials"][0].update(seed=7)), "was never planned"),
        (hostile(lambda m: m["trials"].append(m["trials"][0])), "is counted twice"),
        (b"[" * 100_000, "is not a record"),
    ],
)
def test_invalid_record_is_a_problem(case: Case, content: bytes, words: str) -> None:
    says(BASE, case.head | {f"{RESULTS}/x.json": content}, case.fetch, words)


def test_record_with_wrong_file_name_is_a_problem(case: Case) -> None:
    head = case.head | {f"{RESULTS}/x.json": case.head[case.path]}
    says(BASE, head, case.fetch, "contains the record")


def test_file_names_are_inert_in_the_comment(case: Case) -> None:
    head = case.head | {f"{RESULTS}/<img src=x>`@all\n# x.json": b"{"}
    text = comment(review(BASE, head, case.fetch), accepted=False)
    (line,) = [one for one in text.splitlines() if "<img" in one]
    assert line.startswith("- `` ") and line.endswith(" ``") and not active(line, "style bullet")


def test_migrated_tables_pass_review(case: Case) -> None:
    """The base branch has the tables of kvci 0.1.0, and text of its owner."""
    old = (GOLDEN / "kvci-0.1.0" / "BENCHMARKS.md").read_text() + "\nWords of the owner.\n"
    results = GOLDEN / "kvci-0.1.0" / "results"
    base = {f"{RESULTS}/{path.name}": path.read_bytes() for path in results.glob("*.json")}
    records = [*read_all(results), *case.records]
    migrated = render(old, records)
    head = base | case.head | {BENCHMARKS: migrated.encode()}
    base[BENCHMARKS] = old.encode()
    found = review(base, head, case.fetch)
    assert (
        found.passes(accepted=False)
        and not (*found.notes, *found.edits)
        and "Smallest" not in migrated
    )
    says(base, head | {BENCHMARKS: old.encode()}, case.fetch, "kvci record migrates it")
    forged = migrated.replace("Each row compares", "Each row below compares")
    edits = review(base, head | {BENCHMARKS: forged.encode()}, case.fetch).edits
    assert any("changed by hand: Each row below" in line for line in edits)


@pytest.mark.parametrize("value", ["0.05", -1.0, True, float("inf"), float("nan"), 10**400, []])
@pytest.mark.parametrize("field", ["margin", "alpha", "seeds"])
def test_odd_value_of_a_spec_is_a_problem(field: str, value: object) -> None:
    made = json.loads(record().model_dump_json())
    made["spec"][field] = [value] if field == "seeds" and value != [] and value != -1.0 else value
    content = json.dumps(made | {"spec_sha256": hash_of(made["spec"])}).encode()
    found = review(BASE, BASE | {f"{RESULTS}/{record().row_id}.json": content}, lambda _: b"")
    assert any("is not a record" in line for line in found.problems), found.problems
    comment(found, accepted=False)
