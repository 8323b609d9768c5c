"""Text from outside is inert in everything that kvci writes for GitHub, and reads as written."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from kvci.compare.compare import compare_run
from kvci.compare.findings import Comparison
from kvci.jobs.collect import summary_text
from kvci.jobs.outputs import failed
from kvci.publish.branch import _message
from kvci.publish.pull_request import Target, _body, _title
from kvci.record.schema import Derived, EvidenceFiles, Imported, ImportedTrial, Record
from kvci.report.benchmarks import EMPTY, LOG, render
from kvci.report.comparison import markdown as comparison
from kvci.report.tables import row
from kvci.review.comment import comment
from kvci.review.rows import Review
from kvci.spec import hash_of
from kvci.taxonomy import Class
from kvci.text import html, markdown, plain
from tests.on_github import RECOGNIZED, active, read
from tests.record.made import record

HOSTILE = [
    "@octocat", "a @octo/team b", "closes #1", "fixes GH-12", "o/r#7", "\\@octocat",
    "&#64;octocat", "&commat;octocat", "closes &#35;1", "https://x.example/a", "www.x.example",
    "ftp://x.example", "mailto:a@x.example", "<img src=x>", "<!--", "--> x", "<details>", "[a](b)",
    "![a](https://x.example/p.png)", "[a]: https://x.example", "<https://x.example>", "`a`", "``",
    "`@octocat", "```sh", "~~~", "a ` b `` c", "*a*", "_a_", "a_ _b", "__a__", "~~a~~", "$x$", "$$",
    "$`x`$", "# a", "> a", "- a", "+ a", "* a", "1. a", "1) a", "---", "===", "    a", ":tada:",
    ":+1:", "a|b", "a\\|b", "a\\\\|b", "\\", "|", "| a | b |", "|---|", "a\nb", "a\r\n\r\n# b",
    "a\x00b", "a\u202eb", "\u2028# a", "- [ ] a", "[^1]", "[!NOTE]", "&lt;b&gt;", "<b",
    "http:\u200b//x", "x_www.evil.example", "awww.evil.example", "pass@k.evil.example", "x_GH-12",
    "pass@k-a.evil.example", "a\u2060b", "a\u00adb", "\u3164", "x\u115f", "a\u200db",
    "GHSA-aaaa-bbbb-cccc", "\ufeff# a", "\t- a", "a@x.example", "@", "\\`@octocat\\`", "`` @o",
]  # fmt: skip
ORDINARY = [
    "", "2026-01-31", "qwen3-4b-instruct-2507", "small (Q4_K_M)", "f16/f16 -ub 32", "q8_0/q8_0",
    "SWE-bench Lite", "159/300", "2.67%", "...20260205_192813", "interim, no claim",
    "swe-lite-qwen3-4b-instruct-2507-kv-q8-q8-20260127_125632", "django__django-11099",
    "-67.13 to +67.13 (90%)", "+0.00", "2.4 of f16/f16's 2.7 points", "1 resolved (OK), 1 grading",
    "harm shown, smaller than the margin of 5 points", "2 A3 -> OK", "NVIDIA H200, 550.54.15",
    "not even 100 points", "Differences: pass@k, pass^k; 12:30:45", "The table's \"all\"? No!",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_inert_and_reads_as_written(text: str) -> None:
    shown = markdown(text)
    assert not active(shown) and not active(f"- {shown}", "style bullet") and "\n" not in shown
    plainly = shown.strip("`").strip() if shown.startswith("`") else shown
    assert read(shown).strip() == plainly
    for place in (f"**{shown}**", f"{shown} {shown}", f"a: {shown}."):
        assert not active(place), place
        assert place.replace(shown, plainly).replace("**", "") in read(place)
    table = "\n".join(("| a | b |", "|---|---|", row((text, text))))
    assert not active(table)
    assert read(table).split("\n")[2:] == [plainly.replace("\\|", "\\ |")] * 2
    assert "\\\\|" not in table  # GitHub ends the cell there
    assert not active(f"<summary>{html(text)}</summary>", r"html </?(summary|code)>")


@pytest.mark.parametrize("text", HOSTILE)
def test_title_is_inert(text: str) -> None:
    """GitHub looks for mentions and issues in titles and messages of commits, too."""
    shown = plain(text)
    assert shown.isprintable() or "\u200b" in shown
    assert not RECOGNIZED.search(shown.replace(":tada:", "").replace(":+1:", "").replace("$", ""))


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_stays(text: str) -> None:
    assert markdown(text) == text and plain(text).replace("\u200b", "") == text


@pytest.mark.parametrize("seed", range(10))
def test_mixtures_of_hostile_texts_are_inert(seed: int) -> None:
    chance = random.Random(seed)
    signs = [*HOSTILE, *"@#`\\|*_[]()<>&;:~$!-+=. \n\t", "octocat", "1"]
    for _ in range(300):
        text = "".join(chance.choices(signs, k=chance.randint(1, 8)))
        shown = markdown(text)
        assert not active(shown), text
        assert not active(f"- {shown}", "style bullet"), text
        table = "\n".join(("| a | b |", "|---|---|", row((text, "end"))))
        assert not active(table) and read(table).endswith("\nend"), text


KINDS = ["@octocat", "closes #1", "&#64;octocat", "https://x.example/a", "<img src=x>", "[a](b)"]
KINDS += ["`@octocat", "a\r\n\r\n# b", "a\\|b", "*a*", "- a"]


def hostile_run(text: str) -> list[Record]:
    """Return the records of a run, with this text in every free field that can have it."""
    made = []
    for position in (0, 1):
        one = record(position)
        spec = one.spec | {"model": one.spec["model"] | {"weights": text}}
        spec |= {"rerun": None, "primary": "resolved"}
        built = one.effective[0].model_copy(
            update={"build": f"{position} {text}", "kv_device": text, "kv_type": text}
            | {"warnings": (text,), "problems": (text,)}
        )
        trials = tuple(
            t.model_copy(update={"detail": text, "why": text, "server": text, "host": text})
            for t in one.trials
        )
        fields = dict.fromkeys(("dataset", "gpu", "kvci", "python", "sandbox"), text)
        fields |= {"host": f"{text} {position}", "spec_sha256": hash_of(spec)}
        where = EvidenceFiles(where=f"https://github.com/o/r/releases/download/{text}", files={})
        more = {"spec": spec, "effective": (built,), "trials": trials, "evidence": where}
        made.append(one.model_copy(update=fields | more))
    return made


def hostile_import(text: str) -> Imported:
    trial = ImportedTrial(
        instance="a", exit=text, classes=(Class.A1, Class.A2), why=text, steps=1, answer_tokens=1,
        depth_tokens=1, loops=0, malformed=0, patch_sha256="", patch_bytes=0,
        exception_as_patch=False,
    )  # fmt: skip
    derived = Derived(kv="f16/f16", total=1, settings={text: (text,)}, trials=(trial,))
    counts = {"Submitted": "1/2", "Resolved": "1", "Errors": "0", "KV Cache": "q8_0/q8_0"}
    reported = dict.fromkeys(LOG, text) | counts | {"Run ID": "old"}
    return Imported(row_id="old", table="log", reported=reported, derived=derived)


def baseline(text: str) -> Imported:
    one = hostile_import(text)
    reported = one.reported | {"KV Cache": "f16/f16", "Run ID": "older"}
    return one.model_copy(update={"row_id": "older", "reported": reported})


def compared(records: Sequence[Record]) -> Comparison:
    found = compare_run(list(records))
    assert found
    return found


def reviewed(text: str) -> str:
    lines = (text, f"BENCHMARKS.md, changed by hand: {text}")
    return comment(Review(tuple(hostile_run(text)), lines, lines, lines), accepted=False)


def rerun(text: str) -> list[Record]:
    again = {"rerun": {"filter": text, "of": text}}
    return [one.model_copy(update={"spec": one.spec | again}) for one in hostile_run(text)]


TARGET = Target("o/r", "", run_url="https://github.com/o/r/actions/runs/1")
OURS = r"style (heading|bullet_list|fence)_?\w* ?(mermaid)?$"
LINKS = r"|(link|text) https://github\.com/o/r/actions/runs/1$"
FOLD = r"|html </?(details|summary|code)>|html <details><summary><code>[\w.-]+</code>, compared"
SURFACES: dict[str, Callable[[str], str]] = {
    "BENCHMARKS.md": lambda text: render(EMPTY, hostile_run(text)),
    "BENCHMARKS.md, reruns": lambda text: render(EMPTY, rerun(text)),
    "BENCHMARKS.md, imported": lambda text: render(EMPTY, [hostile_import(text), baseline(text)]),
    "kvci compare": lambda text: comparison(compared(hostile_run(text))),
    "pull request": lambda text: _body(hostile_run(text), TARGET),
    "pull request, reruns": lambda text: _body(rerun(text), TARGET),
    "comment": reviewed,
    "summary of collect": lambda text: summary_text(hostile_run(text)),
}


@pytest.mark.parametrize("surface", SURFACES)
@pytest.mark.parametrize("text", KINDS)
def test_hostile_records_are_inert(surface: str, text: str) -> None:
    shown = SURFACES[surface](text)
    usual = SURFACES[surface]("ordinary")
    assert not active(shown, OURS + LINKS + FOLD)
    kinds = [
        sorted(one for one in active(page) if one.startswith("style")) for page in (shown, usual)
    ]
    assert kinds[0] == kinds[1], "the text makes no heading, list or style"


@pytest.mark.parametrize("text", HOSTILE)
def test_title_and_commit_of_hostile_records_are_inert(text: str) -> None:
    for shown in (_title(hostile_run(text)), _message([text])):
        assert (
            "@o" not in shown and "#1" not in shown and "://" not in shown and "GH-1" not in shown
        )


@pytest.mark.parametrize("text", KINDS)
def test_reason_of_a_failed_job_is_inert(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    failed(text)
    assert not active((tmp_path / "summary.md").read_text())


def test_hostile_rows_stay_rows() -> None:
    """Otherwise, the next publisher or the review could not read the page."""
    for text in HOSTILE:
        records = hostile_run(text)
        page = render(EMPTY, records)
        assert render(page, records) == page, text
        old = [hostile_import(text), baseline(text)]
        assert render(render(EMPTY, old), old) == render(EMPTY, old), text
