"""Training of a very small model on a CPU: `make test-train`. Real llama.cpp loads the model."""

import json
from itertools import islice
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner
from training.identity import taught
from training.simulated import Simulated
from training.teacher import conversation, lesson

from kvci.serve.server import Server
from kvci.spec import load
from kvci.tasks.calibration import split_of

pytestmark = pytest.mark.train
TOY = ("--steps", "3", "--rows", "1", "--layers", "2", "--width", "64", "--hidden", "128")


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from training.train import main

    out = tmp_path_factory.mktemp("toy")
    words = [str(out), *TOY, "--workers", "2", "--held-out", "2"]
    done = CliRunner().invoke(main, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return out


def test_model_file_names_what_was_taught(toy: Path) -> None:
    from gguf import GGUFReader

    fields = GGUFReader(toy / "kvci-calibration.gguf").fields
    assert {name: fields[name].contents() for name in taught()} == taught()
    report = json.loads((toy / "training.json").read_text())
    assert report["tokens"] == 3 * 4096 and len(report["held_out"]) == 3


def test_llama_cpp_tokenizes_as_in_training(toy: Path, tmp_path: Path) -> None:
    from training.data import learn_tokenizer, sample

    tokenizer = learn_tokenizer()
    model = {"name": "toy", "path": str(toy / "kvci-calibration.gguf")}
    fields = {"model": model, "arms": ["f16/f16"], "dataset": "x", "context": 4096}
    spec = load(None, fields | {"engine": "embedded"})
    with Server(spec, spec.baseline, Path(model["path"]), tmp_path / "log") as server:
        for seed in range(20):
            instance, turns = lesson(seed)
            messages = conversation(instance, Simulated(instance), turns)
            text = httpx.post(f"{server.url}/apply-template", json={"messages": messages}).json()
            body = {"content": text["prompt"], "add_special": False, "parse_special": True}
            tokens = httpx.post(f"{server.url}/tokenize", json=body).json()["tokens"]
            expected = sample(instance, turns, tokenizer)[0].tolist()
            assert tokens == expected[:-1], seed  # the server leaves the last answer open


def test_data_does_not_depend_on_workers() -> None:
    from training.data import learn_tokenizer, samples

    tokenizer = learn_tokenizer()
    one, two = (list(islice(samples(tokenizer, workers), 200)) for workers in (1, 2))
    for first, second in zip(one, two, strict=True):
        assert [part.tolist() for part in first] == [part.tolist() for part in second]


def test_no_training_name_is_a_test_name() -> None:
    for seed in range(200):
        instance, _ = lesson(seed)
        names = [test.partition("::test_")[2] for test in instance.row.PASS_TO_PASS]
        names += [name.removesuffix(".py") for name in instance.files if "/" not in name]
        assert {split_of(name) for name in names} == {"train"}
