"""Files of a hub: a small stand-in for it, and the client that everybody uses."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from kvci.tasks.calibration import suite
from tests.answers import Quiet, answer, listening

COMMIT = "0123456789abcdef0123456789abcdef01234567"
MODEL = bytes(range(256)) * 120_000
"""Larger than twice the chunks in which the client writes."""


class Hub(Quiet):
    """The few answers of huggingface.co that a download asks for; the first body is cut."""

    files: dict[str, bytes]
    ranges: list[str | None]

    def do_GET(self) -> None:
        if self.path.startswith("/api/datasets/"):
            repository = "/".join(self.path.split("/")[3:5])
            folder = f"/datasets/{repository}/resolve/{COMMIT}/"
            siblings = [
                {"rfilename": name.removeprefix(folder)}
                for name in self.files
                if name.startswith(folder)
            ]
            found = {"id": repository, "sha": COMMIT, "siblings": siblings}
            answer(self, 200, json.dumps(found).encode())
            return
        content = self.files.get(self.path.replace("/main/", f"/{COMMIT}/"))
        if content is None:
            answer(self, 404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        etag = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
        if self.command == "HEAD":
            answer(self, 200, content, etag)
            return
        asked = self.headers.get("Range")
        self.ranges.append(asked)
        start = int(asked.removeprefix("bytes=").partition("-")[0]) if asked else 0
        status = 206 if asked else 200
        span = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        answer(self, status, content[start:], etag | (span if asked else {}), len(self.ranges) == 1)

    do_HEAD = do_GET


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[dict[str, str]]:
    rows = [json.loads(one.row.model_dump_json()) for one in suite("calibration:count=3")]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    content = (tmp_path / "rows.parquet").read_bytes()
    file = f"resolve/{COMMIT}/data/test-00000-of-00001.parquet"
    Hub.files = {f"/a/b/resolve/{COMMIT}/m.gguf": MODEL}
    for name in ("Lite", "Verified", "Multilingual"):
        Hub.files[f"/datasets/SWE-bench/SWE-bench_{name}/{file}"] = content
    Hub.ranges = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    with listening(server):
        yield os.environ | {
            "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
            "HF_HOME": str(tmp_path / "hub"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }


def python(hub: dict[str, str], program: str) -> str:
    words = [sys.executable, "-c", program]
    done = subprocess.run(words, env=hub, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


FETCH = """
import hashlib
from kvci.errors import UserError
from kvci.hub import fetch
try:
    print(hashlib.sha256(fetch("a/b", "{file}", {revision!r}).read_bytes()).hexdigest())
except UserError as error:
    print(error)
"""


def test_a_model_is_fetched_whole_though_the_connection_is_cut_and_then_cached(
    hub: dict[str, str],
) -> None:
    for revision in (COMMIT, COMMIT, None):
        said = python(hub, FETCH.format(file="m.gguf", revision=revision))
        assert said == hashlib.sha256(MODEL).hexdigest()
    assert len(Hub.ranges) == 2 and Hub.ranges[1] and Hub.ranges[1] != "bytes=0-"


def test_a_killed_fetch_goes_on_where_it_was(hub: dict[str, str], tmp_path: Path) -> None:
    place = tmp_path / "hub" / "hub" / "kvci" / "a" / "b" / COMMIT
    place.mkdir(parents=True)
    (place / ".m.gguf.partial").write_bytes(MODEL[:1_000_000])
    said = python(hub, FETCH.format(file="m.gguf", revision=None))
    assert said == hashlib.sha256(MODEL).hexdigest()
    assert Hub.ranges[0] == "bytes=1000000-" and os.listdir(place) == ["m.gguf"]
    (place / "m.gguf").rename(place / ".m.gguf.partial")
    for _ in range(2):
        assert python(hub, FETCH.format(file="m.gguf", revision=COMMIT)) == said
    assert len(Hub.ranges) == 2, "all of it was there, and then it was cached"


def test_a_model_that_is_here_needs_no_hub_whatever_commit_it_came_with(
    hub: dict[str, str],
) -> None:
    """A later commit fetched it again, and a hub that was down stopped a run."""
    digest = hashlib.sha256(MODEL).hexdigest()
    by_content = FETCH.replace("{revision!r}", "None, sha256={revision!r}")
    assert python(hub, FETCH.format(file="m.gguf", revision=COMMIT)) == digest
    away, asked = hub | {"HF_ENDPOINT": "http://127.0.0.1:9"}, len(Hub.ranges)
    assert python(away, by_content.format(file="m.gguf", revision=digest)) == digest
    assert len(Hub.ranges) == asked
    other = digest.replace("0", "1")
    assert "check the names" in python(away, by_content.format(file="m.gguf", revision=other))


def test_what_cannot_be_had_is_a_sentence(hub: dict[str, str]) -> None:
    assert "cannot be fetched" in python(hub, FETCH.format(file="none", revision=None))
    away = hub | {"HF_ENDPOINT": "http://127.0.0.1:9"}
    assert "check the names and the network" in python(
        away, FETCH.format(file="m.gguf", revision=None)
    )
    full = FETCH.replace("{revision!r}", "{revision!r}, reserve_bytes=1 << 60")
    assert "make room" in python(hub, full.format(file="m.gguf", revision=None))


DATASET = """
from kvci.errors import UserError
from kvci.tasks.dataset import load_with_revision
try:
    found, revision = load_with_revision("{name}", "{known}")
    print(len(found), found[0].row.instance_id, revision)
except UserError as error:
    print(error)
"""


def test_a_dataset_by_its_name_comes_with_its_revision(hub: dict[str, str]) -> None:
    first = suite("calibration:count=3")[0].row.instance_id
    for name in ("lite", "verified", "multilingual"):
        assert python(hub, DATASET.format(name=name, known="")) == f"3 {first} {COMMIT}"
    named = f"SWE-bench/SWE-bench_Lite@{COMMIT}"
    assert python(hub, DATASET.format(name=named, known="")) == f"3 {first} {COMMIT}"
    away = hub | {"HF_ENDPOINT": "http://127.0.0.1:9"}
    assert "cannot be had from the hub" in python(away, DATASET.format(name="lite", known=""))
    begun = DATASET.format(name="lite", known=COMMIT)
    assert python(away, begun) == f"3 {first} {COMMIT}"
    none = DATASET.format(name="lite", known=COMMIT.replace("0", "f"))
    assert "cannot be had from the hub" in python(away, none)
