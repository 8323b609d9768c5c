"""`kvci images` for a dataset that needs no images."""

from click.testing import CliRunner

from kvci.cli import main


def test_a_shard_is_taken_once() -> None:
    """Earlier, kvci took a shard of the shard: shard 2 of 2 was empty, and its job failed."""
    words = ["images", "pull", "--dataset", "calibration:functions=2,count=2", "--shard"]
    for shard in ("1/2", "2/2"):
        done = CliRunner().invoke(main, [*words, shard])
        assert done.exit_code == 0 and "need no images of their own" in done.output
