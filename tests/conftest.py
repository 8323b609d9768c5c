"""What several tests need: the small model, and data that lies beside the project."""

from pathlib import Path

import pytest

from kvci.serve.model import locate
from kvci.spec import Model, load

ROOT = Path(__file__).parent.parent
GOLDEN = Path(__file__).parent / "golden"
DATA = ROOT.parent / "shared" / "data"
GEMMA = ROOT / "ci" / "models" / "gemma3-270m.toml"


@pytest.fixture(scope="session")
def gemma() -> Path:
    """The path of the small model, assembled once."""
    model: Model = load(None, {"model": str(GEMMA), "arms": ["f16/f16"], "dataset": "x"}).model
    return locate(model)


def data(name: str) -> Path:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{name} does not lie beside the project")
    return path
