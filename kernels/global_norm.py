"""The L2 norm of many tensors, as if all of their elements were one vector.

    norm = sqrt(sum_i sum_j x_ij^2)                                             i: tensors, j: elements of each

It is what gradients are clipped by: Pascanu et al. 2013 (arXiv 1211.5063), torch.nn.utils.clip_grad_norm_.
"""

from typing import Any

import torch
from torch import Tensor

from perfsuite.kernels import adam_cases, cuda_tables, native
from perfsuite.kernels.contract import Case, Cost, Op


def global_norm(tensors: list[Tensor]) -> Tensor:
    """The norm of all elements by the chosen implementation (perfsuite.kernels.contract.select).

    tensors: any shapes, strides and floating-point dtypes, on one device. Returns () float32, float64 where one of the
    tensors is; 0 for no tensors. Half precision is summed in float32. No gradient flows.
    Raises ValueError for tensors of other dtypes and on several devices.
    """
    for index, tensor in enumerate(tensors):
        if not tensor.dtype.is_floating_point:
            raise ValueError(f"global_norm: tensors[{index}] must be floating-point, got {tensor.dtype}")
        if tensor.device != tensors[0].device:
            raise ValueError(
                f"global_norm: tensors on one device are needed, got {tensors[0].device} and {tensor.device}"
            )
    with torch.no_grad():
        return OP(tensors)


def result_dtype(tensors: list[Tensor]) -> torch.dtype:
    """float64 where a tensor is, else float32."""
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32


def reference(tensors: list[Tensor]) -> Tensor:
    """The formula in plain torch."""
    dtype = result_dtype(tensors)
    if not tensors:
        return torch.zeros((), dtype=dtype)
    return torch.stack([tensor.to(dtype).square().sum() for tensor in tensors]).sum().sqrt()


# -- cost and cases ---------------------------------------------------------------------------------------------------


def cost(case: Case) -> Cost:
    """Every element is read once, squared and added."""
    size, elements = getattr(torch, case.dtype).itemsize, case.shape["elements"]
    return Cost(bytes=size * elements, flops=2 * elements)


def cases(scale: str) -> list[Case]:
    """Of "tiny", "cpu", "gpu" or "code"; sizes as in perfsuite.kernels.adam_cases."""
    make = adam_cases.case
    if scale == "cpu":
        return [
            make(30, 30 * 2**20), make(draw={"sizes": "llama tiny"}), make(300, 300_000),
            make(7, 1_000_003, draw={"sizes": "mixed"}),
        ]  # fmt: skip
    if scale == "gpu":
        bert = {"sizes": "bert large"}
        return [
            make(draw={"sizes": "llama gpu"}), make(dtype="bfloat16", draw=bert), make(draw=bert),
            make(64, 64 * 2**24, "bfloat16"),
        ]  # fmt: skip
    if scale == "code":
        return [make(2, 8192), make(2, 8192, "bfloat16")]
    if scale != "tiny":
        raise ValueError(f"global_norm has cases for the scales tiny, cpu, gpu and code, not {scale!r}")
    return [
        make(draw={"sizes": "llama small"}),
        make(draw={"sizes": "odd"}),
        make(0, 0),
        make(1, 0),
        make(1, 1),
        make(3, 3 * 4100),
        make(5, 600, draw={"layout": "every second"}),
        make(5, 600, draw={"layout": "mixed"}),
        make(5, 600, draw={"values": "infinite"}),
        make(5, 600, draw={"values": "nan"}),
        make(draw={"sizes": "odd"}, dtype="bfloat16"),
        make(draw={"sizes": "odd"}, dtype="float16"),
        make(draw={"sizes": "odd"}, dtype="float64"),
    ]


def any_case() -> Any:
    """Strategy of small cases."""
    return adam_cases.any_case()


def case_of(tensors: list[Tensor]) -> Case:
    """The case that a call is, for its cost; of several dtypes, the first one's."""
    dtype = str(tensors[0].dtype).removeprefix("torch.") if tensors else "float32"
    return adam_cases.case(len(tensors), sum(tensor.numel() for tensor in tensors), dtype)


def inputs(case: Case, device: str, generator: torch.Generator) -> dict[str, Any]:
    """Fresh tensors of one call: gradients of adam_cases.inputs."""
    return {"tensors": adam_cases.inputs(case, device, generator)["grads"]}


def scales(tensors: dict[str, Any], options: dict[str, Any], upstream: Tensor) -> dict[str, Tensor]:
    """Nothing cancels: the norm itself."""
    return {"output": reference(**tensors)}


# -- implementations --------------------------------------------------------------------------------------------------


def _eager(tensors: list[Tensor]) -> Tensor:
    """As torch.nn.utils.clip_grad_norm_ does it, but that half precision stays float32."""
    if not tensors:
        return torch.zeros(())
    dtype = result_dtype(tensors)
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors, 2, dtype)))


def _cpp(tensors: list[Tensor]) -> Tensor:
    return torch.ops.perfsuite.global_norm_cpp(tensors) if tensors else torch.zeros(())


def _launch(tensors: list[Tensor]) -> Tensor:
    return cuda_tables.global_norm(tensors, result_dtype(tensors))


def _fake(tensors: list[Tensor]) -> Tensor:
    return tensors[0].new_empty((), dtype=result_dtype(tensors))


_CUDA_OP = native.raw_op("global_norm_cuda(Tensor[] tensors) -> Tensor", _launch, _fake)


def _cuda(tensors: list[Tensor]) -> Tensor:
    return _CUDA_OP(tensors) if tensors else torch.zeros(())


OP = Op(
    name="global_norm",
    reference=reference,
    defaults={},
    cost=cost,
    cases=cases,
    case_of=case_of,
    inputs=inputs,
    differentiable=(),
    scales=scales,
    implementations=[native.eager(_eager), native.compiled(_eager), native.cpp(_cpp), native.in_cuda(_cuda)],
    any_case=any_case,
)
