"""Evidence archives: they give the same records and contain nothing private."""

import gzip
import io
import json
import platform
import tarfile
import tracemalloc
from pathlib import Path

import pytest

from kvci.errors import UserError
from kvci.files import sha256_of
from kvci.record.bundle import unpack, write
from kvci.record.from_run import build
from kvci.rundir.documents import Outcome
from tests.record.made import SPEC
from tests.record.test_from_run import made
from tests.record.test_merge import shard

SECRET = "ghp_0123456789abcdefABCD"


def add_secrets(path: Path) -> None:
    """Write texts that must not be published into a run's files."""
    text = f'{Path.home()}/x "me@{platform.node()}" /home/jane\\n{SECRET} é \udc80'
    folder = path / "trials" / "f16-f16" / "a" / "0"
    lines = [json.dumps({"step": 1, "observation": text}), '{"half": "']
    (folder / "trajectory.jsonl").write_text("\n".join(lines))
    patch = b"+/home/jane \xff\n"
    (folder / "patch.diff").write_bytes(patch)
    outcome = Outcome.read(folder / "outcome.json")
    outcome.model_copy(update={"patch_sha256": sha256_of(patch), "patch_bytes": len(patch)}).write(
        folder / "outcome.json"
    )
    with (path / "servers" / "f16-f16.0.log").open("a", errors="surrogateescape") as log:
        log.write(f"{Path.home()}/x /home/jane\n{SECRET} é \udc80 user@{platform.node()}")


def test_archive_gives_same_records_without_secrets(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    add_secrets(run)
    digest = write(run, tmp_path / "a.tar.gz")
    assert write(run, tmp_path / "b.tar.gz") == digest
    again = unpack(tmp_path / "a.tar.gz", tmp_path / "again")
    assert [r.model_dump() for r in build(again)] == [r.model_dump() for r in build(run)]
    files = [path for path in again.rglob("*") if path.is_file()]
    for path in files:
        if path.name != "patch.diff":
            content = path.read_bytes()
            for word in (SECRET, "jane", str(Path.home()), str(tmp_path), platform.node()):
                assert word.encode() not in content, (path, word)
    patch = again / "trials" / "f16-f16" / "a" / "0" / "patch.diff"
    assert patch.read_bytes() == b"+/home/jane \xff\n"
    assert write(again, tmp_path / "c.tar.gz") == digest


def test_machine_settings_do_not_change_the_archive(tmp_path: Path) -> None:
    """If they did, the same run would have different evidence on each machine that resumes it."""
    run = made(tmp_path / "run")
    digest = write(run, tmp_path / "a.tar.gz")
    own = {"engine": "/opt/b1/llama-server", "mirror": "mirror:5000", "time_budget_s": 60.0}
    SPEC.model_copy(update=own).write(run / "spec.json")
    assert write(run, tmp_path / "b.tar.gz") == digest


def test_archive_has_all_shards(tmp_path: Path) -> None:
    for number, names in ((1, ("a", "c")), (2, ("b",))):
        shard(tmp_path / "run", number, names)
    write(tmp_path / "run", tmp_path / "a.tar.gz")
    again = unpack(tmp_path / "a.tar.gz", tmp_path / "again")
    assert build(again) == build(tmp_path / "run")


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, link
    return made


@pytest.mark.parametrize(
    "hostile",
    [
        member("../out"),
        member("trials/../../out"),
        member("other.json"),
        member("trials/f16-f16/a/0/patch.diff/x"),
        member("trials/f16-f16/a/0/grade/report.json/x"),
        member("servers/f16-f16.0.log/x"),
        member("/tmp/kvci-out"),
        member("link", tarfile.SYMTYPE, "/etc/passwd"),
        member("link", tarfile.LNKTYPE, "manifest.json"),
        member("device", tarfile.CHRTYPE),
        member("pipe", tarfile.FIFOTYPE),
    ],
    ids=lambda one: f"{one.name}-{one.type.decode()}",
)
def test_hostile_archive_is_refused(hostile: tarfile.TarInfo, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        archive.addfile(hostile, io.BytesIO())
    with pytest.raises(UserError, match="is not evidence of a run"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "x")
    assert [path.name for path in tmp_path.rglob("*")] == ["a.tar.gz"]
    assert not Path("/tmp/kvci-out").exists()


def test_broken_or_too_large_archive_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.tar.gz"
    path.write_bytes(b"not one")
    with pytest.raises(UserError, match="is not evidence"):
        unpack(path, tmp_path / "x")
    write(made(tmp_path / "run"), path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match="is not evidence"):
        unpack(path, tmp_path / "y")
    write(tmp_path / "run", path)
    unpack(path, tmp_path / "w")
    monkeypatch.setattr("kvci.record.bundle.MAX_BYTES", 100)
    with pytest.raises(UserError, match="too large"):
        unpack(path, tmp_path / "z")


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_header_that_would_fill_memory_is_refused(kind: bytes, tmp_path: Path) -> None:
    size = 64 << 20
    with gzip.open(tmp_path / "a.tar.gz", "wb") as out:
        header = tarfile.TarInfo("manifest.json")
        header.type, header.size = kind, size
        out.write(tarfile.TarInfo("images.json").tobuf())
        out.write(header.tobuf())
        out.write(bytes(size))
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="a header is too large"):
            unpack(tmp_path / "a.tar.gz", tmp_path / "x")
        assert tracemalloc.get_traced_memory()[1] < size / 4
    finally:
        tracemalloc.stop()


def test_run_that_is_not_redacted_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        archive.add(made(tmp_path / "run") / "manifest.json", "manifest.json")
    with pytest.raises(UserError, match="not redacted"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "x")
