"""The specification of a run. Other packages import it from here, not from the modules."""

from kvci.spec.arm import KV_BLOCK_ELEMENTS, Arm
from kvci.spec.load import load, other_names, without_model
from kvci.spec.option import CLAIMS, EXPERIMENT, GROUPS, IMAGES, RUN
from kvci.spec.specification import Primary, Spec, hash_of
from kvci.spec.targeted import Rerun
from kvci.spec.tested_model import Model

__all__ = [
    "CLAIMS",
    "EXPERIMENT",
    "GROUPS",
    "IMAGES",
    "KV_BLOCK_ELEMENTS",
    "RUN",
    "Arm",
    "Model",
    "Primary",
    "Rerun",
    "Spec",
    "hash_of",
    "load",
    "other_names",
    "without_model",
]
