from pathlib import Path

import pytest

from kvci.errors import UserError
from kvci.plan import blocks, select
from tests.test_spec import spec

IDS = [f"repo__{name}-{number}" for name in ("flask", "sympy") for number in range(10)]


def test_filter_then_limit_then_shard(tmp_path: Path) -> None:
    chosen = select(IDS, spec(tmp_path, filter="sympy", limit=5, shard="2/2"))
    assert chosen == ["repo__sympy-1", "repo__sympy-3"]
    with pytest.raises(UserError, match="No instance"):
        select(IDS, spec(tmp_path, filter="django"))


def test_shards_split_instances_never_arms(tmp_path: Path) -> None:
    seen: list[str] = []
    for shard in ("1/3", "2/3", "3/3"):
        for block in blocks(IDS, spec(tmp_path, shard=shard)):
            assert sorted(block.arms) == ["f16-f16", "q8_0-q8_0"]
            seen += block.instances
    assert sorted(seen) == sorted(IDS)
    with pytest.raises(UserError, match="give at most 20"):
        select(IDS, spec(tmp_path, shard="1/21"))


def test_arm_order_is_random_and_repeatable(tmp_path: Path) -> None:
    asked = spec(tmp_path, block_size=1)
    orders = [block.arms for block in blocks(IDS, asked)]
    assert len(set(orders)) == 2
    assert orders == [block.arms for block in blocks(IDS, asked)]
