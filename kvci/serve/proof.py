"""Compare what a server's log proves with what was asked for. Each difference is a problem."""

from kvci.files import Document
from kvci.serve.effective import GPU_NAMES, Effective
from kvci.spec import KV_BLOCK_ELEMENTS, Arm, Spec

MISSING = "the log does not show"


class Expected(Document):
    """What the log has to prove. If a field is None, every value is accepted."""

    kv_type: str | None = None
    context: int | None = None
    slots: int | None = None
    allow: tuple[str, ...] = ()


def expected_of(spec: Spec, arm: Arm) -> Expected:
    """Return what the log of this arm's server has to prove."""
    return Expected(kv_type=arm.kv_type, context=spec.context, slots=spec.slots, allow=arm.allow)


def judge(found: Effective, asked: Expected) -> Effective:
    """Return the configuration with one problem for each difference from what was asked for."""
    problems: list[str] = []

    def expect(what: str, shown: object, wanted: object, right: bool) -> None:
        if shown is None:
            problems.append(f"{MISSING} the {what}")
        elif not right:
            problems.append(f"{what} is {shown}, but {wanted} was requested")

    expect("KV type", found.kv_type, asked.kv_type, asked.kv_type in (None, found.kv_type))
    context, cells = found.context_per_slot, found.cells
    expect("context per slot", context, asked.context, (context or 0) >= (asked.context or 0))
    expect("cells per slot", cells, asked.context, (cells or 0) >= (asked.context or 0))
    expect("slots", found.slots, asked.slots, (found.slots or 0) >= (asked.slots or 0))
    layout = None if found.unified is None else "unified" if found.unified else "split"
    expect("cache layout", layout, "split", layout == "split")
    expect("flash attention", found.flash_attention, "on", found.flash_attention == "on")
    kinds = (found.kv_type or "").replace(" and ", "/").split("/")
    if any(KV_BLOCK_ELEMENTS.get(kind, 1) > 1 for kind in kinds):
        expect("rotation", found.rotation, "on", found.rotation == "on")
    if found.kv_device is None:
        problems.append(f"{MISSING} the KV device")
    elif "+" in found.kv_device:
        problems.append(f"the KV buffer lies on several devices ({found.kv_device})")
    elif found.gpu and not GPU_NAMES.match(found.kv_device):
        problems.append(f"the KV buffer lies on {found.kv_device}, not with the layers on the GPU")
    if found.gpu is not False and found.kernel_path not in ("compiled", *asked.allow):
        problems.append(f"the kernel path is {found.kernel_path}, but compiled was requested")
    return found.model_copy(update={"problems": tuple(problems)})
