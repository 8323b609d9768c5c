"""Time in which kvci stands still does not count."""

import signal
import subprocess
import sys
import time

WAIT = """
from kvci import awake
from kvci.sandbox import Limits, capped
awake.TICK_S, awake.GAP_S = 0.1, 1.0
print(flush=True)
done = capped.run(["sleep", "4"], Limits(wall_s=5.0))
print(done.timed_out, done.wall_s)
"""


def test_stopped_kvci_does_not_end_its_command() -> None:
    words = [sys.executable, "-c", WAIT]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        process.stdout.readline()
        time.sleep(1)
        process.send_signal(signal.SIGSTOP)
        time.sleep(6)
        process.send_signal(signal.SIGCONT)
        timed_out, wall_s = process.stdout.read().split()
    assert timed_out == "False" and 0.5 < float(wall_s) < 3
