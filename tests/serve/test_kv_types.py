"""Every list of KV types contains the same types.

If a test fails, its message names the list to change.
"""

import build
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from kvci.serve.effective import QUANTS_ALL
from kvci.spec import KV_BLOCK_ELEMENTS


def test_spec_and_embedded_engine_have_the_same_types() -> None:
    embedded = pytest.importorskip("kvci.serve.embedded")
    assert set(embedded.KV_TYPES) == set(KV_BLOCK_ELEMENTS), (
        "add the KV type to both: KV_BLOCK_ELEMENTS in kvci/spec/arm.py and KV_TYPES in "
        "kvci/serve/embedded.py"
    )


@pytest.mark.parametrize("kind", KV_BLOCK_ELEMENTS)
def test_block_sizes_are_those_of_gguf(kind: str) -> None:
    elements, _ = GGML_QUANT_SIZES[GGMLQuantizationType[kind.upper()]]
    assert KV_BLOCK_ELEMENTS[kind] == elements, "KV_BLOCK_ELEMENTS in kvci/spec/arm.py"


WITHOUT_KERNELS = {"f32", "iq4_nl"}
"""KV types for which llama.cpp has no CUDA kernels of flash attention."""


def test_types_with_kernels_are_the_other_kv_types() -> None:
    assert set(QUANTS_ALL) == set(KV_BLOCK_ELEMENTS) - WITHOUT_KERNELS, (
        "add a KV type to QUANTS_ALL in kvci/serve/effective.py if llama.cpp has CUDA kernels for "
        "it, and to WITHOUT_KERNELS in this test if not"
    )


def test_runner_can_build_each_kernel() -> None:
    assert set(build.TYPES) == set(QUANTS_ALL), (
        "add the KV type to both: TYPES in ci/runner/build.py and QUANTS_ALL in "
        "kvci/serve/effective.py"
    )
