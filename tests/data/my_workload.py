"""Softmax regression on Fashion-MNIST, a workload file of one's own: `perfsuite run ./my_workload.py`."""

import copy
import itertools
import lzma

import torch

from perfsuite.workloads.contract import Basics, Schedule, Target
from perfsuite.workloads.registry import data_folder

NAME, MLPERF = "my_workload", ""
FILE = str(data_folder() / "fashion_mnist_0.xz")  # 6,000 images of 28 x 28, their classes, 1,000 more for testing
TARGET = Target("accuracy", "share of images", 0.80, higher_is_better=True)
SCHEDULE = Schedule(eval_every_samples=3000, first_eval_samples=3000, max_samples=150_000, max_time_s=60.0)
CONFIGS = {"tiny": Basics(TARGET, SCHEDULE, batch_size=50, train_samples=6000, eval_samples=1000, data_files=(FILE,))}


class MyJob:
    def __init__(self, device, seed):
        torch.manual_seed(seed)
        self.device, self.order = device, torch.Generator().manual_seed(seed)
        self.model = torch.nn.Linear(784, 10).to(device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05)

    def synthetic(self):  # for the warm-up, before the clock: shapes, no data
        while True:
            yield torch.zeros(50, 784, device=self.device), torch.zeros(50, dtype=torch.long, device=self.device)

    def open(self, folder):  # on the clock
        data = torch.frombuffer(bytearray(lzma.decompress((folder / FILE).read_bytes())), dtype=torch.uint8)
        train, classes, test, self.test_classes = data.to(self.device).split([6000 * 784, 6000, 1000 * 784, 1000])
        train, classes, self.test = train.view(-1, 784) / 255, classes.long(), test.view(-1, 784) / 255
        epochs = (torch.randperm(6000, generator=self.order) for _ in itertools.count())
        return ((train[chosen], classes[chosen]) for epoch in epochs for chosen in epoch.split(50))

    def train_step(self, batch, phase):
        with phase("forward"):
            loss = torch.nn.functional.cross_entropy(self.model(batch[0]), batch[1])
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
        model, optimizer, order = copy.deepcopy(state)
        self.model.load_state_dict(model)
        self.optimizer.load_state_dict(optimizer)
        self.order.set_state(order)

    def log_values(self):
        return {"global_batch_size": 50, "opt_name": "sgd", "opt_base_learning_rate": 0.05}


def build(config, device, seed):
    return MyJob(device, seed)
