"""Evidence archives: they give the same records and contain nothing private."""

import gzip
import io
import json
import platform
import tarfile
from collections.abc import Callable
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


def header(name: str, kind: bytes, content: bytes, size: int | None = None) -> bytes:
    """Return a header of an archive, with the content after it."""
    made = tarfile.TarInfo(name)
    made.type, made.size = kind, len(content) if size is None else size
    return made.tobuf(tarfile.GNU_FORMAT) + content + b"\0" * (-len(content) % 512)


def pax(number: int, fields: dict[str, str], kind: bytes = tarfile.XHDTYPE) -> bytes:
    """Return a header with fields, and an empty file."""
    made = tarfile.TarInfo(f"servers/{number}")
    content = b"".join(
        made._create_pax_generic_header({name: text}, kind, "utf-8")[512:].rstrip(b"\0")  # type: ignore[attr-defined]
        for name, text in fields.items()
    )
    return header("h", kind, content) + header(f"servers/{number}", tarfile.REGTYPE, b"")


def holes(blocks: int) -> bytes:
    """Return an old sparse file of GNU tar, whose list of holes has so many blocks."""
    made = bytearray(header("servers/a", tarfile.GNUTYPE_SPARSE, b""))
    hole = b"00000000001\0" * 2
    made[386:482], made[482] = hole * 4, 1
    made[148:156] = b"        "
    made[148:156] = b"%06o\0 " % sum(made)
    return bytes(made) + (hole * 21 + b"\1" + bytes(7)) * blocks


MIB = "x" * (1 << 20)
HEADERS: dict[str, tuple[Callable[[], bytes], str]] = {
    "large": (lambda: header("h", tarfile.XHDTYPE, b"", 64 << 20), "a header is too large"),
    "global": (lambda: pax(0, {"k": "x"}, tarfile.XGLTYPE), "is not a file"),
    "long name": (lambda: header("h", tarfile.GNUTYPE_LONGNAME, b"", 64 << 20), "is not a file"),
    "long link": (lambda: header("h", tarfile.GNUTYPE_LONGLINK, b"", 64 << 20), "is not a file"),
    "solaris": (lambda: header("h", tarfile.SOLARIS_XHDTYPE, b"", 64 << 20), "is not a file"),
    "holes": (lambda: holes(1000), "is not a file"),
    "endless holes": (
        lambda: (
            pax(0, {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"})[:-512]
            + header("servers/0", tarfile.REGTYPE, b"99999999\n" + b"1" * (4 << 20))
        ),
        "is not evidence",
    ),
}


@pytest.mark.parametrize("name", HEADERS)
def test_header_that_would_fill_memory_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvci.record.bundle.UNPACK_MEMORY", 16 << 20)
    content, words = HEADERS[name]
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(content() + bytes(1024), 1))
    with pytest.raises(UserError, match=words):
        unpack(tmp_path / "a.tar.gz", tmp_path / "x")


def test_headers_of_many_files_need_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvci.record.bundle.UNPACK_MEMORY", 24 << 20)
    write(made(tmp_path / "run"), tmp_path / "a.tar.gz")
    more = b"".join(pax(n, {"comment": MIB[:-100]}) for n in range(24))
    (tmp_path / "a.tar.gz").write_bytes(
        gzip.compress(more + gzip.decompress((tmp_path / "a.tar.gz").read_bytes()), 1)
    )
    unpack(tmp_path / "a.tar.gz", tmp_path / "x")


def test_unpacking_has_a_time_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvci.record.bundle.UNPACK_S", 0.0)
    write(made(tmp_path / "run"), tmp_path / "a.tar.gz")
    with pytest.raises(UserError, match="it takes longer than"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "x")


def test_run_that_is_not_redacted_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        archive.add(made(tmp_path / "run") / "manifest.json", "manifest.json")
    with pytest.raises(UserError, match="not redacted"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "x")
