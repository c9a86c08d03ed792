"""torch.optim optimizers of the ops that have Adam's state."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from perfsuite.kernels import global_norm


class AdamOptimizer(torch.optim.AdamW):
    """Parameter groups, state and state_dict of torch.optim.AdamW; a subclass has the op that updates.

    max_norm: None, or the largest norm of all groups' gradients together; the step reads them clipped. It is
    no part of state_dict, whose entries torch.optim.AdamW takes and gives. Parameters without a gradient
    are left out. Steps are counted where the parameters are: a step waits for no device, and a CUDA graph may hold it;
    with lr a tensor, it may be changed between replays.

    Raises ValueError for arguments out of range and for the options of torch.optim.AdamW that are not done here.
    """

    def __init__(
        self, params: Any, lr: float | Tensor, betas: tuple[float, float], eps: float, weight_decay: float,
        max_norm: float | None,
    ) -> None:  # fmt: skip
        name = type(self).__name__
        if max_norm is not None and not max_norm > 0:
            raise ValueError(f"{name}: max_norm must be positive or None, got {max_norm}")
        self.max_norm = max_norm
        self.grad_norm: Tensor | None = None
        """Norm of the gradients at the last step, before clipping; None without max_norm."""
        # fused: what makes torch count steps on the device, in float32.
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=True)
        # torch.amp.GradScaler would leave dividing by its scale to the step.
        self._step_supports_amp_scaling = False

    def _update(self, *lists: Any, **options: Any) -> None:
        """Call the op with params, grads, exp_avgs, exp_avg_sqs, steps and grad_norm."""
        raise NotImplementedError

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all parameters that have a gradient. Returns what closure returns, which is called first."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        groups = [(group, self._lists(group)) for group in self.param_groups]
        self.grad_norm = None
        if self.max_norm is not None:
            self.grad_norm = global_norm.OP([grad for _, lists in groups for grad in lists[1]])
        for group, lists in groups:
            beta1, beta2 = group["betas"]
            for alike in _by_dtype(lists):
                self._update(
                    *alike, self.grad_norm, lr=group["lr"], beta1=beta1, beta2=beta2, eps=group["eps"],
                    weight_decay=group["weight_decay"], max_norm=self.max_norm,
                )  # fmt: skip
        return loss

    def _lists(self, group: dict[str, Any]) -> list[list[Tensor]]:
        """params, grads, exp_avgs, exp_avg_sqs and steps of those that have a gradient."""
        lists: list[list[Tensor]] = [[], [], [], [], []]
        params, grads, exp_avgs, exp_avg_sqs, steps = lists
        self._init_group(group, params, grads, exp_avgs, exp_avg_sqs, [], steps)
        return lists

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Also one of torch.optim.AdamW. ValueError for amsgrad, maximize and differentiable."""
        groups = [{**group, "fused": True, "foreach": None} for group in state_dict["param_groups"]]
        for group in groups:
            for option in ("amsgrad", "maximize", "differentiable"):
                if group.get(option):
                    raise ValueError(f"{type(self).__name__}: state with {option}=True cannot be continued here")
        super().load_state_dict({**state_dict, "param_groups": groups})

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "max_norm": self.max_norm, "grad_norm": self.grad_norm}


def _by_dtype(lists: list[list[Tensor]]) -> list[list[list[Tensor]]]:
    """The lists, once for each dtype and device of parameters and gradients."""
    params, grads = lists[:2]
    kinds = [(p.dtype, g.dtype, p.device) for p, g in zip(params, grads, strict=True)]
    found = dict.fromkeys(kinds)
    if len(found) == 1:
        return [lists]
    return [[[t for t, its in zip(tensors, kinds, strict=True) if its == kind] for tensors in lists] for kind in found]
