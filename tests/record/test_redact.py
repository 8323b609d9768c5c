"""Published text has no secrets, folders or names."""

import platform
import time
from pathlib import Path

import pytest

from kvci.record.redact import redact
from kvci.record.secrets import TOKENS


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


LETTERS = "AbCdEfGhIjKlMnOpQrSt0123456789uvwxyz"
EXAMPLES = {
    "GitHub": "ghp_" + LETTERS,
    "GitLab": "glpat-AbCdEfGhIjKlMnOpQrSt",
    "Hugging Face": "hf_" + LETTERS,
    "OpenAI, Anthropic and others": "sk-ant-" + LETTERS,
    "Slack": "xapp-1-A0000000000-0000000000-abc",
    "AWS": "ASIAABCDEFGHIJKLMNOP",
    "Google": "AIzaSyA1234567890abcdefghijklmnopqrstuv",
    "npm": "npm_abcdefghijklmnopqrstuvwxyz0123456789",
    "PyPI": "pypi-" + LETTERS * 2,
    "Docker": "dckr_pat_" + LETTERS,
    "Stripe": "sk_live_" + LETTERS,
    "SendGrid": f"SG.{LETTERS}.{LETTERS}",
    "JSON web token": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abcdefghijklmnop",
}


@pytest.mark.parametrize("service", TOKENS)
def test_token_of_each_service_is_redacted(service: str) -> None:
    token = EXAMPLES[service]
    for front in ("", "_", "\x1b[31m", "\x1b[0;1m", "%20", "x=", "\\n", "/tmp/"):
        assert redact(f"{front}{token} end", Path("/nowhere")) == f"{front}[token] end", front


KEY = f"-----BEGIN RSA PRIVATE KEY-----\n{LETTERS}\n{LETTERS}\nab==\n-----END RSA PRIVATE KEY-----"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"a {KEY} b", "a [token] b"),
        (KEY.replace("\n", "\\n"), "[token]"),
        (f"{KEY.partition('ab==')[0]}PASSED", "[token]\nPASSED"),
        ("Authorization: Basic YWxpY2U6c2VjcmV0", "Authorization: Basic [token]"),
        ("BEARER abcdefghijkl", "BEARER [token]"),
        ("https://0123abcd@github.com/x", "https://[token]@github.com/x"),
        ("https://jane:p@ss@host/x", "https://[token]@host/x"),
        ("https://x.y/z?token=abcdefabcdef&sig=zzzzzzzzzz", "https://x.y/z?token=[token]&sig=[token]"),
        ("HF_TOKEN=abcdefghijkl x", "HF_TOKEN=[token] x"),
        ("AWS_SECRET_ACCESS_KEY=wJalrXUtn/K7MDENG", "AWS_SECRET_ACCESS_KEY=[token]"),
        *((text, text) for text in (
            "ssh://git@github.com/x", "basic authentication", "npm_config_user_agent_of_package",
            "TOKEN=$(cat token.txt)", "HF_TOKEN=${SECRET_TOKEN}", "?page=abcdefghij", "http://a/b@c",
            "-----BEGIN PUBLIC KEY-----", "task-sk-learn", "eyJust.eyJust",
        )),
    ],
)  # fmt: skip
def test_secret_in_its_place_is_redacted(text: str, shown: str) -> None:
    assert redact(text, Path("/nowhere")) == shown


@pytest.mark.parametrize(
    "home",
    [
        "/var/home/bob", "/export/home/bob", "/usr/home/bob", "/mnt/c/Users/bob",
        "C:\\Users\\bob", "C:\\\\Users\\\\bob", "c:/Users/bob",
    ],
)  # fmt: skip
def test_home_of_another_is_redacted(home: str) -> None:
    assert redact(f"{home}/x", Path("/nowhere")) == "[home]/x"


def test_relative_home_is_redacted() -> None:
    assert redact("../../home/bob/x ../home/x", Path("/nowhere")) == "../[home]/x ../home/x"


@pytest.mark.parametrize("front", ["--model-", "(a)", "[x]", "${X}", "\x1b[1m"])
def test_home_right_after_a_sign_is_redacted(front: str) -> None:
    once = redact(f"{front}/home/bob/home/x", Path("/nowhere"))
    assert once == f"{front}[home]/home/x" == redact(once, Path("/nowhere"))


@pytest.mark.parametrize(
    "text", ["/" * 60_000, "/home/" * 10_000, "://a:" * 12_000, "sk-" * 20_000, "../" * 20_000,
             "TOKEN=" * 10_000, "-----BEGIN PRIVATE KEY-----\n" * 2000, "eyJaaaaaaaa." * 5_000,
             "1(a)," * 12_000, "-rwx " * 12_000],
    ids=lambda text: text[:8].strip(),
)  # fmt: skip
def test_redaction_takes_a_time_that_grows_with_the_text(text: str) -> None:
    started = time.monotonic()
    redact(text, Path("/nowhere"))
    assert time.monotonic() - started < 5


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
    ("uid=1000(jane) gid=1000(jane)", "uid=1000([user]) gid=1000([user])"),
    ("USER=jane HOSTNAME=lab", "USER=[user] HOSTNAME=[host]"),
    ("Linux lab 6.1.0", "Linux [host] 6.1.0"),
    ("-rw-r--r-- 1 jane jane 5 jane", "-rw-r--r-- 1 [user] [user] 5 jane"),
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
