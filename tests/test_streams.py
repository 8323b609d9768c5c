"""The work does not depend on the reader of the output."""

import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kvci.jobs.outputs import summary
from kvci.run.grader import _Task
from kvci.rundir.documents import Graded
from kvci.taxonomy import Verdict
from tests.conftest import ROOT

KVCI = [sys.executable, "-c", "from kvci.cli import main; main()"]
PLAN = ["plan", str(ROOT / "ci" / "experiments" / "demo.toml")]
LOST = "kvci: The output cannot be written ("


def ends(*words: str, out: int, err: int = subprocess.PIPE) -> tuple[int, str]:
    """Return a command's exit status and standard error."""
    done = subprocess.run([*KVCI, *words], stdout=out, stderr=err, text=True, timeout=300)
    return done.returncode, done.stderr or ""


def without_reader() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


@pytest.mark.parametrize("words", [["--help"], PLAN, [*PLAN, "--json"]], ids=lambda one: one[-1])
def test_command_that_prints_ends_quietly_without_reader(words: list[str]) -> None:
    assert ends(*words, out=without_reader()) == (0, "")


def test_run_without_reader_runs_to_its_end(tmp_path: Path) -> None:
    words = ["scripted", "--out", str(tmp_path), "--sandbox", "bwrap"]
    code, error = ends(*words, out=without_reader())
    assert code == 0, error
    assert error == f"{LOST}its reader is gone); the work does not stop.\n"
    assert len(list(tmp_path.glob("scripted/trials/*/*/*/outcome.json"))) == 28


def test_full_disk_of_output_is_an_error_at_the_end() -> None:
    with open("/dev/full", "w") as full:
        code, error = ends(*PLAN, out=full.fileno())
        assert code == 2 and error.startswith(f"{LOST}No space left on device)")
        assert len(error.splitlines()) == 1
        assert ends(*PLAN, out=full.fileno(), err=full.fileno()) == (2, "")
        assert ends("plan", "none.toml", out=full.fileno())[0] == 2


@pytest.mark.parametrize("number", [1, 2])
def test_no_file_gets_the_number_of_a_closed_stream(number: int, tmp_path: Path) -> None:
    """Otherwise the output of a child process would go into a file of the run."""
    program = "from kvci.streams import keep_streams as keep; keep(); open('opened', 'w'); "
    program += f"import os; print(os.readlink('/proc/self/fd/{number}'), file=open('shown', 'w'))"
    words = ["sh", "-c", f'"$@" {number}>&-', "sh", sys.executable, "-c", program]
    subprocess.run(words, check=True, cwd=tmp_path, timeout=100)
    assert (tmp_path / "shown").read_text() == "/dev/null\n"


def test_output_waits_for_slow_reader_of_non_blocking_pipe() -> None:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writer, False)
    words = [*KVCI, "run", "--help"]
    whole = subprocess.run(words, capture_output=True, timeout=100).stdout
    with subprocess.Popen(words, stdout=writer, stderr=subprocess.PIPE) as process:
        os.close(writer)
        time.sleep(0.5)
        with os.fdopen(reader, "rb") as file:
            assert file.read() == whole and len(whole) > 4096
        assert process.wait(60) == 0


def on_terminal(out: Path, prepare: Callable[[], None]) -> tuple[int, list[Path]]:
    """Start a run in a new terminal, close the terminal, and return the exit status and trials."""
    master, slave = pty.openpty()
    words = [*KVCI, "scripted", "--out", str(out), "--sandbox", "bwrap"]

    def attach() -> None:
        os.setsid()
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)  # the process gets SIGHUP when the terminal goes
        prepare()

    process = subprocess.Popen(words, stdin=slave, stdout=slave, stderr=slave, preexec_fn=attach)
    os.close(slave)
    trials = Path(out, "scripted", "trials")
    deadline = time.monotonic() + 60
    while not (found := list(trials.glob("*/*/*/outcome.json"))):
        assert time.monotonic() < deadline
        os.read(master, 1 << 16)
    os.close(master)
    code = process.wait(200)
    assert found
    return code, list(trials.glob("*/*/*/outcome.json"))


def test_closed_terminal_stops_run_cleanly(tmp_path: Path) -> None:
    code, trials = on_terminal(tmp_path, lambda: None)
    assert code == 2 and 0 < len(trials) < 28


@pytest.mark.long
def test_run_with_nohup_outlives_its_terminal(tmp_path: Path) -> None:
    code, trials = on_terminal(tmp_path, lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))  # type: ignore[arg-type]
    assert (code, len(trials)) == (0, 28)


WORK = """
import sys
from kvci import streams
from kvci.run.stop import Stopped, stopping
streams.PATIENCE_S = 1.0
streams.keep_streams()
try:
    with stopping():
        for number in range(100):
            print("x" * 10_000, flush=True)
        print("done", file=sys.stderr, flush=True)
        while True:
            print("x" * 10_000, flush=True)
except Stopped:
    print("Stopped.")
"""


@pytest.mark.parametrize("make", [os.pipe, pty.openpty])
def test_reader_that_does_not_read_delays_no_work(make: Callable[[], tuple[int, int]]) -> None:
    _, writer = ends = make()
    words = [sys.executable, "-c", WORK]
    with subprocess.Popen(words, stdout=max(ends), stderr=subprocess.PIPE) as process:
        assert process.stderr and process.stderr.readline() == b"done\n"
        process.terminate()
        assert process.wait(20) == 0 and writer


WORKER = """
import sys
from kvci.children import worker
if __name__ == "__main__":
    with worker() as pool:
        pool.submit(print, "x" * 100_000, flush=True).result(60)
"""


def test_print_in_worker_without_reader_fails_no_work(tmp_path: Path) -> None:
    """The log parsers of swebench print."""
    script = tmp_path / "script.py"
    script.write_text(WORKER)
    words = [sys.executable, str(script)]
    done = subprocess.run(words, stdout=without_reader(), stderr=subprocess.PIPE, timeout=100)
    assert done.returncode == 0, done.stderr


def test_any_end_of_a_callback_reaches_the_waiting_run() -> None:
    def leave(_: Graded) -> None:
        raise SystemExit(1)

    task = _Task(lambda: Graded(verdict=Verdict.RESOLVED), Path(), leave)
    task.end(task.work)
    assert isinstance(task.result.exception(0), SystemExit)


def test_summary_that_cannot_be_written_does_not_fail_the_job(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "/dev/full")
    summary("text")
    assert "summary cannot be written" in capsys.readouterr().err
