"""Tests downloads with the real client from a small server that imitates the hub."""

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
"""The model's content. It is larger than two of the chunks that the client writes."""


class Hub(Quiet):
    """Gives the answers of huggingface.co that a download needs, but cuts the first body."""

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
            info = {"id": repository, "sha": COMMIT, "siblings": siblings}
            answer(self, 200, json.dumps(info).encode())
            return
        content = self.files.get(self.path.replace("/main/", f"/{COMMIT}/"))
        if content is None:
            answer(self, 404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        etag = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
        if self.command == "HEAD":
            answer(self, 200, content, etag)
            return
        wanted = self.headers.get("Range")
        self.ranges.append(wanted)
        start = int(wanted.removeprefix("bytes=").partition("-")[0]) if wanted else 0
        status = 206 if wanted else 200
        span = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        answer(
            self, status, content[start:], etag | (span if wanted else {}), len(self.ranges) == 1
        )

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


def test_cut_download_is_completed_and_cached(
    hub: dict[str, str],
) -> None:
    for revision in (COMMIT, COMMIT, None):
        digest = python(hub, FETCH.format(file="m.gguf", revision=revision))
        assert digest == hashlib.sha256(MODEL).hexdigest()
    assert len(Hub.ranges) == 2 and Hub.ranges[1] and Hub.ranges[1] != "bytes=0-"


def test_killed_download_is_resumed(hub: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "hub" / "hub" / "kvci" / "a" / "b" / COMMIT
    folder.mkdir(parents=True)
    (folder / ".m.gguf.partial").write_bytes(MODEL[:1_000_000])
    digest = python(hub, FETCH.format(file="m.gguf", revision=None))
    assert digest == hashlib.sha256(MODEL).hexdigest()
    assert Hub.ranges[0] == "bytes=1000000-" and os.listdir(folder) == ["m.gguf"]
    (folder / "m.gguf").rename(folder / ".m.gguf.partial")
    for _ in range(2):
        assert python(hub, FETCH.format(file="m.gguf", revision=COMMIT)) == digest
    assert len(Hub.ranges) == 2, "the partial file was complete, and then cached"


def test_model_with_known_sha256_needs_no_hub(
    hub: dict[str, str],
) -> None:
    """Earlier, a later commit caused a second download, and a hub that was down stopped a run."""
    digest = hashlib.sha256(MODEL).hexdigest()
    by_content = FETCH.replace("{revision!r}", "None, sha256={revision!r}")
    assert python(hub, FETCH.format(file="m.gguf", revision=COMMIT)) == digest
    offline, requests = hub | {"HF_ENDPOINT": "http://127.0.0.1:9"}, len(Hub.ranges)
    assert python(offline, by_content.format(file="m.gguf", revision=digest)) == digest
    assert len(Hub.ranges) == requests
    other = digest.replace("0", "1")
    assert "check the names" in python(offline, by_content.format(file="m.gguf", revision=other))


def test_failed_download_is_user_error(hub: dict[str, str]) -> None:
    assert "cannot be downloaded" in python(hub, FETCH.format(file="none", revision=None))
    offline = hub | {"HF_ENDPOINT": "http://127.0.0.1:9"}
    assert "check the names and the network" in python(
        offline, FETCH.format(file="m.gguf", revision=None)
    )
    full = FETCH.replace("{revision!r}", "{revision!r}, reserve_bytes=1 << 60")
    assert "Free some space" in python(hub, full.format(file="m.gguf", revision=None))


DATASET = """
from kvci.errors import UserError
from kvci.tasks.dataset import load_with_revision
try:
    found, revision = load_with_revision("{name}", "{known}")
    print(len(found), found[0].row.instance_id, revision)
except UserError as error:
    print(error)
"""


def test_named_dataset_has_its_revision(hub: dict[str, str]) -> None:
    first = suite("calibration:count=3")[0].row.instance_id
    for name in ("lite", "verified", "multilingual"):
        assert python(hub, DATASET.format(name=name, known="")) == f"3 {first} {COMMIT}"
    named = f"SWE-bench/SWE-bench_Lite@{COMMIT}"
    assert python(hub, DATASET.format(name=named, known="")) == f"3 {first} {COMMIT}"
    offline = hub | {"HF_ENDPOINT": "http://127.0.0.1:9"}
    assert "cannot be loaded from the hub" in python(offline, DATASET.format(name="lite", known=""))
    cached = DATASET.format(name="lite", known=COMMIT)
    assert python(offline, cached) == f"3 {first} {COMMIT}"
    none = DATASET.format(name="lite", known=COMMIT.replace("0", "f"))
    assert "cannot be loaded from the hub" in python(offline, none)
