from pathlib import Path
from typing import Any

import pytest

from kvci.errors import UserError
from kvci.serve.gguf import Header, check
from kvci.spec import Arm, Spec, load


def spec(tmp_path: Path, **overrides: Any) -> Spec:
    model = tmp_path / "Tiny Model.gguf"
    model.touch()
    asked = {"model": str(model), "arms": ["f16/f16", "q8_0/q8_0"], "dataset": "rows.jsonl"}
    return load(None, asked | overrides)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("f16/f16", "f16-f16"),
        ("q8_0/q4_0", "q8_0-q4_0"),
        ("f16/f16 -ub 32", "f16-f16+ub32"),
        ("q4_0/q4_0 allow=converted", "q4_0-q4_0"),
    ],
)
def test_arm_id(text: str, name: str) -> None:
    assert Arm.parse(text).id == name


def test_defaults_are_the_rules(tmp_path: Path) -> None:
    found = spec(tmp_path)
    assert (found.context, found.max_steps, found.max_tokens) == (65536, 30, 4096)
    assert (found.temperature, found.seeds, found.baseline.id) == (0.0, (0,), "f16-f16")
    assert found.model.name == "tiny-model"


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"arms": ["f16/f17"]}, "'f17' is not a KV type"),
        ({"arms": ["f16"]}, "write K/V"),
        ({"arms": ["f16/f16", "f16/f16"]}, "two arms are the same"),
        ({"arms": ["f16/f16 -c 9"]}, "may not set -c"),
        ({"arms": ["f16/f16 --lora x"]}, "may not set --lora"),
        ({"arms": ["f16/f16 -ubb 32"]}, "may not set -ubb"),
        ({"arms": ["f16/f16 --temp 1"]}, "may not set --temp"),
        ({"arms": [""]}, "write K/V"),
        ({"prompt": "nope"}, "prompt"),
        ({"filter": "("}, "not a regular expression"),
        ({"shard": "3/2"}, "not a shard"),
        ({"shard": "0/2"}, "not a shard"),
        ({"seeds": [1, 2]}, "several seeds at temperature 0"),
        ({"seeds": [1, 1], "temperature": 1}, "differ from each other"),
        ({"colour": "blue"}, "the field colour does not exist"),
        ({"model": "no-such.gguf"}, "does not exist"),
        ({"model": {"name": "m", "path": "m", "chat_template": "gemma"}}, "is not a chat template"),
        ({"limit": 0}, "limit"),
        ({"disk_reserve_gb": float("inf")}, "disk_reserve"),
        ({"mirror": "https://mirror/"}, "mirror"),
    ],
)
def test_refusals_are_one_sentence(tmp_path: Path, overrides: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says.replace("(", r"\(")) as caught:
        spec(tmp_path, **overrides)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


def test_toml_with_flags_over_it(tmp_path: Path) -> None:
    (tmp_path / "m.toml").write_text('name = "m"\npath = "m.gguf"\n')
    path = tmp_path / "e.toml"
    path.write_text('model = "m.toml"\narms = ["f16/f16"]\ndataset = "d.jsonl"\nslots = 2\n')
    found = load(path, {"slots": 4, "limit": None})
    assert (found.model.name, found.slots) == ("m", 4)
    path.write_text("slots = [")
    with pytest.raises(UserError, match="is not TOML"):
        load(path, {})
    with pytest.raises(UserError, match="cannot be read"):
        load(tmp_path / "none.toml", {})


def test_hash_covers_what_can_change_a_trial(tmp_path: Path) -> None:
    base = spec(tmp_path).hash("m", "d")
    for outside in ({"shard": "1/2"}, {"time_budget_s": 9.0}, {"out": "elsewhere"}):
        assert spec(tmp_path, **outside).hash("m", "d") == base
    for inside in ({"slots": 2}, {"limit": 3}, {"test_s": 9.0}, {"arms": ["f16/f16"]}):
        assert spec(tmp_path, **inside).hash("m", "d") != base
    assert spec(tmp_path).hash("other", "d") != base
    assert spec(tmp_path).hash("m", "other") != base


def test_model_header_limits(tmp_path: Path) -> None:
    check(spec(tmp_path), Header("llama", 65536, 8, 64, 64, 8, True, True))
    with pytest.raises(UserError, match="trained with"):
        check(spec(tmp_path), Header("llama", 65535, 8, 64, 64, 8, True, True))
    with pytest.raises(UserError, match="head size 80"):
        check(spec(tmp_path), Header("llama", 65536, 8, 80, 64, 8, True, True))
    check(spec(tmp_path, arms=["f16/bf16"]), Header("llama", 65536, 8, 80, 80, 8, True, True))


def test_field_under_two_names_is_explained(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").touch()
    path = tmp_path / "e.toml"
    head = f'model = "{tmp_path}/m.gguf"\narms = ["f16/f16"]\ndataset = "d"\n'
    path.write_text(head + 'time_budget = "5m"\ntime_budget_s = 6\n')
    with pytest.raises(UserError, match="gives time_budget and time_budget_s, which are one field"):
        load(path, {})


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"memory_mib": "32MiB"}, "memory: 32MiB is too small; give at least 64MiB"),
        ({"memory_mib": "100.5"}, "memory: 100.5 is not a whole number of MiB"),
        ({"trial_s": "2d"}, "trial_time: 2d is too large; give at most 1d"),
        ({"disk_budget_gb": "0"}, "disk_budget: 0 is too small; give more than 0GB"),
        ({"arms": ["q7/q7"]}, "kv: 'q7' is not a KV type"),
        ({"arms": ["f16/f16 -c 9"]}, "kv: an arm may not set -c"),
        ({"arms": ["f16/f16 allow=gpu"]}, "kv: allow.0: 'gpu' is not one of"),
        ({"start": "now"}, "'now' is not a time in UTC; write it as"),
        ({"mirror": "http://x"}, "is not a registry; write HOST"),
        ({"arms": ["f16/f17"]}, "'f17' is not a KV type"),
    ],
)
def test_error_names_option_and_remedy(given: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=says):
        spec(tmp_path, **given)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("slot = 4", "the field slot does not exist; write slots"),
        ("memmory = 4", "the field memmory does not exist; write memory"),
        ('kv = ["f16/f16"]', "the field kv does not exist; write arms"),
        ('experiments = ["demo"]', "the field experiments does not exist"),
        ("colour = 4", "the field colour does not exist"),
        ("", "the field arms is missing"),
        ("arms = []", "arms: it has 0 values; give at least 1"),
        ('arms = "f16/f16"', "arms: 'f16/f16' is not a list; write one, as in ['f16/f16', "),
        ("arms = 7", "arms: 7 is not a list"),
        ('arms = ["q7/q7"]', "arms: 'q7' is not a KV type"),
        ('arms = ["f16/f16"]\nseeds = "1,2"', "seeds: '1,2' is not a list; write a list"),
        ('arms = ["f16/f16"]\nmargin = "5%"', "margin: '5%' is not a number; write one, as in"),
        ('arms = ["f16/f16"]\nslots = 0xf' + "f" * 4000, "slots: this number is too large"),
    ],
)
def test_error_names_the_field_of_the_file(line: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").touch()
    path = tmp_path / "e.toml"
    path.write_text(f'model = "{tmp_path}/m.gguf"\ndataset = "lite"\n{line}\n')
    with pytest.raises(UserError) as caught:
        load(path, {})
    assert says in str(caught.value)
