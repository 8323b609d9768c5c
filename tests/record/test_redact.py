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
    text = f"{tmp_path}/trials on {platform.node()}"
    assert redact(text, tmp_path) == "[run]/trials on [host]"
