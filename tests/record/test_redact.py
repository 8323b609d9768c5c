"""Published text has no secrets, folders or names."""

import platform
from pathlib import Path

import pytest

from kvci.record.redact import redact


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("token ghp_0123456789abcdefABCD end", "token [token] end"),
        ("hf_abcdefghijklmnopqrst", "[token]"),
        ("Authorization: Bearer abc.def-ghi", "Authorization: Bearer [token]"),
        ("https://me:secret@example.org/x", "https://[token]@example.org/x"),
        ("/home/jane/models/x.gguf", "[home]/models/x.gguf"),
        ("File /root/x.py", "File [home]/x.py"),
        ("sky and task-force", "sky and task-force"),
    ],
)
def test_secrets_and_homes_are_redacted(text: str, shown: str) -> None:
    assert redact(text, Path("/nowhere")) == shown


def test_run_folder_and_machine_name_are_redacted(tmp_path: Path) -> None:
    text = f"{tmp_path}/trials on me@{platform.node()}"
    assert redact(text, tmp_path) == "[run]/trials on me@[host]"


NAMED = [
    ("[jane@lab ~]$ ls", "[[user]@[host] ~]$ ls"),
    (
        "/data/jane/models and /tmp/pytest-of-jane/x",
        "/data/[user]/models and /tmp/pytest-of-[user]/x",
    ),
    ("-I/scratch/jane/include", "-I/scratch/[user]/include"),
    ("http://lab:8080/x and lab:5000/image", "http://[host]:8080/x and [host]:5000/image"),
    ("http://lab.example.org/", "http://[host]/"),
    ("ssh jane@10.0.0.1", "ssh [user]@10.0.0.1"),
    ("PASSED jane/lab.py::test_jane[lab] jane lab", "PASSED jane/lab.py::test_jane[lab] jane lab"),
    ("/testbed/jane/lab.py", "/testbed/jane/lab.py"),
    ("diff --git a/jane/lab b/jane/lab", "diff --git a/jane/lab b/jane/lab"),
    ("jane = lab(jane)  # lab: 3", "jane = lab(jane)  # lab: 3"),
]


@pytest.mark.parametrize(("text", "shown"), NAMED)
def test_name_is_redacted_only_where_it_stands_as_a_name(
    text: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvci.record.redact._user", lambda: "jane")
    monkeypatch.setattr("platform.node", lambda: "lab.example.org")
    assert redact(text, Path("/nowhere")) == shown


@pytest.mark.parametrize(
    "text",
    [
        "PASSED app/home/tests.py::test_x",
        "tests/root/test_x.py and src/Users/x",
        "/rootfs/x",
        "https://example.org/home/page",
    ],
)
def test_relative_path_is_not_a_home_folder(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/root")
    assert redact(text, Path("/nowhere")) == text


def test_names_of_tests_stay_between_redacted_text(tmp_path: Path) -> None:
    name = "t.py::test_x[/home/jane/x hf_abcdefghijklmnopqrst]"
    text = f"PASSED {name} in /home/jane/x\nPASSED {name}\n/home/jane/y"
    kept = redact(text, tmp_path, keep={name, "t.py::test_y"})
    assert kept == f"PASSED {name} in [home]/x\nPASSED {name}\n[home]/y"
