"""BENCHMARKS.md of kvci 0.1.0 is migrated in place, and all other text stays."""

import difflib
import shutil
import textwrap
from pathlib import Path

import pytest
from click.testing import CliRunner

from kvci.cli import main
from kvci.errors import UserError
from kvci.record.store import read_all
from kvci.report.benchmarks import has_tables, is_earlier_form, prose, render
from kvci.report.migrate import FORMS, FORMS_0_1_0, Form
from kvci.report.tables import find, lines_of, row, wrapped
from tests.conftest import GOLDEN, ROOT

OLD = GOLDEN / "kvci-0.1.0"
BEFORE = (OLD / "BENCHMARKS.md").read_text()
AFTER = (OLD / "BENCHMARKS.migrated.md").read_text()
RECORDS = read_all(OLD / "results")
OWNER = "\ufeff# Ours\n\nOur words: Smallest visible, Verdict.  \n\n"
"""Text of an owner, with a byte order mark and trailing spaces."""


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_old_file_is_migrated_in_place(end: str) -> None:
    old, new = (
        (OWNER + text.replace("\n## How", "\nMore words.\n\n## How") + "\nThe end").replace(
            "\n", end
        )
        for text in (BEFORE, AFTER)
    )
    assert render(old, RECORDS) == new
    assert render(new, RECORDS) == new


@pytest.mark.parametrize("width", [60, 9999])
def test_words_at_another_width_are_migrated(width: int) -> None:
    def formatted(text: str, forms: dict[str, Form]) -> str:
        for form in forms.values():
            made = textwrap.wrap(form.words, width, break_on_hyphens=False)
            text = text.replace("\n".join(wrapped(form.words)), "\n".join(made))
        return text

    old, new = formatted(BEFORE, FORMS_0_1_0), formatted(AFTER, FORMS) if width > 999 else AFTER
    assert old != BEFORE
    assert render(old, RECORDS) == new
    assert render(new, RECORDS) == new


def test_only_tables_and_words_of_kvci_change() -> None:
    changed = [
        line[2:]
        for line in difflib.ndiff(BEFORE.split("\n"), AFTER.split("\n"))
        if line.startswith("- ")
    ]
    ours = {line for form in FORMS_0_1_0.values() for line in wrapped(form.words)}
    headers = {row(form.header) for form in FORMS_0_1_0.values()}
    rest = [line for line in changed if line not in ours | headers]
    assert rest and all(line.startswith("| ") and "no" in line for line in rest)


@pytest.mark.parametrize("heading", FORMS_0_1_0)
def test_changed_words_are_kept(heading: str) -> None:
    old, new = FORMS_0_1_0[heading], FORMS[heading]
    above = "\n".join(["", *wrapped(old.words)[:-1], "And a word of ours."])
    text = f"\ufeff# R\n{above}\n\n{row(old.header)}\n{'|---' * len(old.header)}|\n"
    assert render(text + LOG, []) == text.replace(row(old.header), row(new.header)) + LOG


LOG = (
    "\n| Date | Model | KV Cache | Dataset | Submitted | Resolved | Rate | Errors | Run ID |\n"
    + "|---" * 9
    + "|\n"
)


def test_byte_order_mark_before_a_header_stays() -> None:
    old, new = (forms["Paired comparison"].header for forms in (FORMS_0_1_0, FORMS))
    text = f"\ufeff{row(old)}\n{'|---' * len(old)}|\n"
    assert render(text + LOG, []) == text.replace(row(old), row(new)) + LOG


def test_words_inside_a_longer_paragraph_are_kept() -> None:
    form = FORMS_0_1_0["Effective configuration"]
    text = f"# R\n\nOurs.\n{form.words}\n\n{row(form.header)}\n{'|---' * len(form.header)}|\n"
    assert render(text + LOG, []) == text + LOG


def test_old_header_in_a_code_block_is_kept() -> None:
    header = row(FORMS_0_1_0["Paired comparison"].header)
    text = f"{AFTER}\n```\n{header}\n{'|---' * 14}|\n```\n"
    assert render(text, RECORDS) == text and not is_earlier_form(text)


def test_old_and_new_table_together_are_an_error() -> None:
    table = f"{row(FORMS_0_1_0['Paired comparison'].header)}\n{'|---' * 14}|\n"
    with pytest.raises(UserError, match="twice"):
        render(f"{AFTER}\n{table}", RECORDS)


def test_old_tables_are_recognised() -> None:
    assert is_earlier_form(BEFORE) and not is_earlier_form(AFTER)
    alone = BEFORE[BEFORE.index("## Paired") : BEFORE.index("## How")]
    assert has_tables(alone) and prose(alone) == prose(
        AFTER[AFTER.index("## Paired") : AFTER.index("## How")]
    )
    for form in FORMS.values():
        if form.header != FORMS_0_1_0[form_heading(form.header)].header:
            assert find(lines_of(BEFORE), form.header) is None


def form_heading(header: tuple[str, ...]) -> str:
    return next(heading for heading, form in FORMS.items() if form.header == header)


def test_check_says_that_record_migrates(tmp_path: Path) -> None:
    file = tmp_path / "BENCHMARKS.md"
    shutil.copy(OLD / "BENCHMARKS.md", file)
    words = ["record", "--results", str(OLD / "results"), "--benchmarks", str(file)]
    done = CliRunner().invoke(main, [*words, "--check"])
    assert done.exit_code == 1 and file.read_text() == BEFORE
    assert done.output == (
        f"{file} has an older form, from an earlier kvci; kvci record migrates it.\n"
    )
    assert CliRunner().invoke(main, words).exit_code == 0
    assert file.read_text() == AFTER
    assert CliRunner().invoke(main, [*words, "--check"]).exit_code == 0


def test_repository_file_is_migrated() -> None:
    assert not is_earlier_form((ROOT / "BENCHMARKS.md").read_text())
