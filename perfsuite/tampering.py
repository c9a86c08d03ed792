"""Whether somebody's code has changed what it is measured with: clocks, torch, and perfsuite itself.

A picture of them is taken before a file is imported, and compared later. What is looked for is an attribute that is no
longer the object it was, and a setting of torch that has another value: a patched timer, a rival that was made slow.
It is no sandbox; whoever wants to can hide from it.
"""

import sys
from types import ModuleType
from typing import Any

_WHOLE = ("time", "statistics", "random", "secrets")
_TORCH = {
    "torch": ("take", "empty_strided", "isfinite", "where"),
    "torch.autograd": ("grad",),
    "torch.cuda": ("Event", "Stream", "CUDAGraph", "synchronize", "current_stream", "_sleep"),
}
"""Not all of torch: torch.compile itself replaces some of its functions."""
_CLASSES = (("torch", "Tensor"), ("torch.cuda", "Event"))

_COMPILED = ("__compiled_fn", "__resume_at")
"""What torch.compile keeps in the modules whose functions it compiled."""

Picture = dict[str, Any]


def picture(settings: bool = True) -> Picture:
    """Every callable of the modules that measuring rests on, by its dotted name, and torch's settings if wanted."""
    seen: Picture = {}
    ours = [name for name in sys.modules if name == "perfsuite" or name.startswith("perfsuite.")]
    for name in (*_WHOLE, *ours, *_TORCH):
        module = sys.modules.get(name)
        if isinstance(module, ModuleType):
            names = _TORCH.get(name, vars(module))
            seen |= _callables(name, {key: vars(module).get(key) for key in names})
    for module_name, name in _CLASSES:
        found = getattr(sys.modules.get(module_name), name, None)
        if found is not None:
            seen |= _callables(f"{module_name}.{name}", vars(found))
    return seen | (_settings() if settings else {})


def changes(before: Picture) -> list[str]:
    """What is no longer as it was, a phrase each; what was added since is nobody's business."""
    now = picture()
    missing = object()
    found = []
    for name, value in before.items():
        other = now.get(name, missing)
        if callable(value) and other is not value:
            found.append(f"{name} was replaced")
        elif not callable(value) and other != value:
            found.append(f"{name} was changed from {value} to {other}")
    return found


def _callables(prefix: str, names: Any) -> Picture:
    return {f"{prefix}.{name}": value for name, value in names.items()
            if callable(value) and not name.startswith(_COMPILED)}  # fmt: skip


def _settings() -> Picture:
    torch = sys.modules.get("torch")
    if torch is None:
        return {}
    return {
        "torch's number of threads": torch.get_num_threads(),
        "torch's default dtype": str(torch.get_default_dtype()),
        "torch's precision of float32 matrix products": torch.get_float32_matmul_precision(),
        "torch's deterministic mode": torch.get_deterministic_debug_mode(),
        "torch's filling of uninitialised memory": torch.utils.deterministic.fill_uninitialized_memory,
        "torch's gradient mode": torch.is_grad_enabled(),
        "autograd's anomaly mode": torch.is_anomaly_enabled(),
        "cuDNN": torch.backends.cudnn.enabled,
        "oneDNN": torch.backends.mkldnn.enabled,
    }
