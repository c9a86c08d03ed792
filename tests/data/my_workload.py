"""Softmax regression on Fashion-MNIST: a workload file of one's own. Try `perfsuite run ./my_workload.py`."""

import copy
import lzma
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from perfsuite.workloads.contract import Basics, Schedule, Target
from perfsuite.workloads.registry import data_folder

NAME, MLPERF = "my_workload", ""


@dataclass(frozen=True)
class Config(Basics):
    learning_rate: float = 0.05
    """Of SGD."""


CONFIGS = {
    "tiny": Config(
        target=Target("accuracy", "share of images", 0.80, higher_is_better=True),
        schedule=Schedule(eval_every_samples=3000, first_eval_samples=3000, max_samples=120_000, max_time_s=60.0),
        batch_size=50, train_samples=6000, eval_samples=1000, data_files=(str(data_folder() / "fashion_mnist_0.xz"),),
    )
}  # fmt: skip


class Job:
    def __init__(self, config, device, seed):
        torch.manual_seed(seed)
        self.config, self.device, self.order = config, device, torch.Generator().manual_seed(seed)
        self.model = torch.nn.Linear(784, 10).to(device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=config.learning_rate)

    def synthetic(self):
        while True:
            yield torch.zeros(50, 784, device=self.device), torch.zeros(50, dtype=torch.long, device=self.device)

    def open(self, folder):
        data = lzma.decompress((folder / self.config.data_files[0]).read_bytes())
        sizes = [6000 * 784, 6000, 1000 * 784, 1000]
        parts = torch.frombuffer(bytearray(data), dtype=torch.uint8).to(self.device).split(sizes)
        images, classes, test, self.test_classes = parts[0].view(-1, 784) / 255, parts[1].long(), parts[2], parts[3]
        self.test = test.view(-1, 784) / 255
        return self.batches(images, classes)

    def batches(self, images, classes):
        while True:
            for chosen in torch.randperm(6000, generator=self.order).to(self.device).split(50):
                yield images[chosen], classes[chosen]

    def train_step(self, batch, phase):
        with phase("forward"):
            loss = F.cross_entropy(self.model(batch[0]), batch[1])
        with phase("backward"):
            loss.backward()
        with phase("optimizer"):
            self.optimizer.step()
            self.optimizer.zero_grad()
        return loss.detach()

    @torch.no_grad()
    def evaluate(self, phase):
        return float((self.model(self.test).argmax(1) == self.test_classes).float().mean())

    def state(self):
        return copy.deepcopy((self.model.state_dict(), self.optimizer.state_dict(), self.order.get_state()))

    def restore(self, state):
        self.model.load_state_dict(state[0])
        self.optimizer.load_state_dict(copy.deepcopy(state[1]))
        self.order.set_state(state[2])

    def log_values(self):
        return {"opt_name": "sgd", "global_batch_size": 50, "opt_base_learning_rate": self.config.learning_rate}


def build(config, device, seed):
    return Job(config, device, seed)
