"""The verbs, where no image is needed."""

from click.testing import CliRunner

from kvci.cli import main


def test_a_shard_is_taken_of_the_dataset_once() -> None:
    """Taken again of itself, the second of two shards had nothing, and its job failed."""
    words = ["images", "pull", "--dataset", "calibration:functions=2,count=2", "--shard"]
    for shard in ("1/2", "2/2"):
        done = CliRunner().invoke(main, [*words, shard])
        assert done.exit_code == 0 and "need no images of their own" in done.output
