"""Text from outside is inert in a terminal and in the log of a job."""

import io
import json
import os
import random
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

from kvci.cli import main
from kvci.console import Terminal
from kvci.record.store import file_name
from kvci.report.benchmarks import EMPTY, render
from kvci.text import Guarded, job_log, terminal
from tests.record.made import record
from tests.test_console import calls

HOSTILE = "a\x1b[2J\x07\x9b31m\r::error::x\n \t::stop-commands::t\n##[group]y\u202e\x85::warning::z"
KVCI = [sys.executable, "-c", "from kvci.cli import main; main()"]


SHOWN = (
    "\u200c\u200d"
    + "".join(map(chr, [*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD]))
    + "".join(map(chr, range(0x13430, 0x13440)))
)
"""Format characters that are joiners, or that people see."""


def commands(log: str) -> list[str]:
    """Return the lines of a log that GitHub's runner takes for commands.

    The runner ends a line at a carriage return, too; it looks for `::` after white space at the
    start of a line, and for `##[` in the whole line (ActionCommand.cs of actions/runner).
    """
    lines = log.replace("\r", "\n").replace("\x85", "\n").replace("\u2028", "\n").split("\n")
    return [one for one in lines if one.lstrip().startswith("::") or "##[" in one]


def active(text: str) -> set[str]:
    """Return the characters of a text that change what a terminal shows."""
    kinds = {"Cc", "Cs", "Zl", "Zp"}
    directions = {"LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"}
    return {
        one
        for one in text
        if (unicodedata.category(one) in kinds and one not in "\n\t")
        or (unicodedata.category(one) == "Cf" and one not in SHOWN)
        or unicodedata.bidirectional(one) in directions
    }


def test_every_active_character_is_shown() -> None:
    every = "".join(map(chr, range(sys.maxunicode + 1)))
    assert active(every) and not active(terminal(every))
    assert not active(job_log(every)) and not commands(job_log(every))
    assert terminal("\x1b[31m\u202e") == r"\x1b[31m\u202e"
    plain = "Prüfung 你好\tq8_0/q8_0 [x] a::b 👩‍🔬 ✓\n"
    assert terminal(plain) == job_log(plain) == plain
    assert terminal("a\r\nb\r\n") == "a\nb\n"
    for one in "\u200b\u200d\u2060\u00ad\ufeff\u3164\u115f\u2064\ufe0f":
        assert (
            terminal(f"a{one}b")
            == f"a\\{f'x{ord(one):02x}' if one == chr(173) else f'u{ord(one):04x}'}b"
        )


def test_no_line_of_a_log_is_a_command() -> None:
    assert len(commands(HOSTILE)) == 4 and not commands(job_log(HOSTILE))
    assert job_log("a::b ##x\n  ::c::") == "a::b ##x\n  : :c::"
    spaces = "".join(one for one in map(chr, range(sys.maxunicode + 1)) if one.isspace())
    assert not commands(job_log(f"{spaces}::error::x"))


@pytest.mark.parametrize("seed", range(20))
def test_no_sequence_of_writes_makes_a_command(seed: int) -> None:
    chance = random.Random(seed)
    parts = [":", "::", " ", "\n", "\r", "#", "##", "[", "x", "\t", "\r\n", "::error::", "\x1b", ""]
    for _ in range(300):
        out = io.StringIO()
        log = Guarded(out, job=True)
        written = chance.choices(parts, k=chance.randint(1, 12))
        for part in written:
            log.write(part)
        assert not commands(out.getvalue()), written
        assert not active(out.getvalue()), written
        assert out.getvalue().count(":") == "".join(written).count(":"), written


def test_progress_bar_redraws_only_a_terminal() -> None:
    class Tty(io.StringIO):
        def isatty(self) -> bool:
            return True

    for out, shown in ((Tty(), "\r 10%\r 20%"), (io.StringIO(), "\n 10%\n 20%")):
        for text in ("\r 10%", "\r 20%"):
            Guarded(out, job=False).write(text)
        assert out.getvalue() == shown


def test_console_shows_escape_sequences() -> None:
    out = io.StringIO()
    console = Terminal(file=out, force_terminal=True, color_system="standard", width=300)
    console.print("\x1b]0;title\x07 a\x9b31m", style="bold", highlight=False)
    assert out.getvalue() == "\x1b[1m\\x1b]0;title a\\x9b31m\x1b[0m\n"


def test_only_guarded_streams_are_written() -> None:
    """The stream below the guard would go around the guard."""
    around = ("sys.__stdout__.write", "sys.__stderr__.write", "get_binary_stream")
    assert [one for one in calls() if one[1].endswith(around)] == []
    assert main.main.__func__.__qualname__ == "Verbs.main"  # type: ignore[attr-defined]


def ran(*words: str, folder: Path, job: bool) -> str:
    """Return what a kvci process prints."""
    asked = os.environ | {"GITHUB_ACTIONS": "true" if job else "", "PYTHONUTF8": "1"}
    done = subprocess.run(
        [*KVCI, *words], cwd=folder, env=asked, capture_output=True, encoding="utf-8"
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize("job", [True, False])
def test_hostile_page_and_record_print_inert_text(job: bool, tmp_path: Path) -> None:
    one = record().model_copy(update={"host": HOSTILE, "gpu": HOSTILE})
    folder = tmp_path / "ci" / "results"
    one.write(folder / file_name(one.row_id))
    page = render(EMPTY, [one])
    (tmp_path / "BENCHMARKS.md").write_text(page.replace("| 1 |", f"| {HOSTILE} |", 1))
    (tmp_path / "x.json").write_text(json.dumps({"kind": HOSTILE}))
    for words in (
        ["record", "--check"],
        ["compare", "x.json"],
        ["compare", HOSTILE.replace("\n", "")],
        ["inspect", HOSTILE],
        ["evidence", "a\r::error::b", "--out", "x"],
    ):
        shown = ran(*words, folder=tmp_path, job=job)
        assert "::" in shown.replace(": :", "::") and not active(shown), (words, shown)
        assert not (job and commands(shown)), (words, shown)


@pytest.mark.parametrize("job", [True, False])
def test_traceback_prints_inert_text(job: bool) -> None:
    code = (
        "import kvci.cli.groups as groups, click\n"
        "@click.command(cls=groups.Verbs, invoke_without_command=True)\n"
        f"def main(): print({HOSTILE!r}); raise KeyError({HOSTILE!r}) from OSError({HOSTILE!r})\n"
        "main()\n"
    )
    asked = os.environ | {"GITHUB_ACTIONS": str(job).lower()}
    done = subprocess.run([sys.executable, "-c", code], env=asked, capture_output=True)
    shown = (done.stdout + done.stderr).decode()
    assert "Traceback" in shown and not active(shown)
    assert not (job and commands(shown)), shown
