"""What training changes in a job, copied and put back: the warm-up must leave no trace."""

import copy
from typing import Any

import torch


def copied(job: Any, *names: str) -> dict[str, Any]:
    """Copies of the job's model and optimizer, of its named attributes, and of torch's generators.

    names: attributes that are torch.Generators or plain values, e.g. "step" and "order".
    """
    attributes = {name: getattr(job, name) for name in names}
    return copy.deepcopy(
        {
            "model": job.model.state_dict(),
            "optimizer": job.optimizer.state_dict(),
            "attributes": {name: of.get_state() if _is_generator(of) else of for name, of in attributes.items()},
            "rng": torch.get_rng_state(),
            "device_rng": None if job.device == "cpu" else torch.cuda.get_rng_state(job.device),
        }
    )


def put_back(job: Any, state: dict[str, Any]) -> None:
    """The job as it was when copied() returned this state, which may be put back again later."""
    state = copy.deepcopy(state)  # load_state_dict of an optimizer keeps the tensors that it is given
    job.model.load_state_dict(state["model"])
    job.optimizer.load_state_dict(state["optimizer"])
    job.optimizer.zero_grad()
    for name, value in state["attributes"].items():
        if _is_generator(getattr(job, name)):
            getattr(job, name).set_state(value)
        else:
            setattr(job, name, value)
    torch.set_rng_state(state["rng"])
    if state["device_rng"] is not None:
        torch.cuda.set_rng_state(state["device_rng"], job.device)


def _is_generator(value: Any) -> bool:
    return isinstance(value, torch.Generator)
