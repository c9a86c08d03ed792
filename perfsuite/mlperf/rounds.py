"""Rounds of MLPerf Training and of its HPC suite: their names, their runs a result, what an olympic mean drops.

Beside them the classes of our own: one workload at one of its scales, with rules of the same form.

Source: training_policies, "Benchmark Results" and "Deprecated benchmarks results"; hpc_training_rules, the same.
"""

from dataclasses import dataclass

from perfsuite.mlperf import official_files

NUM_RUNS = {
    "bert": 10, "dlrm": 5, "dlrm_dcnv2": 10, "dlrmv4": 10, "gnmt": 10, "gpt3": 3, "maskrcnn": 5, "minigo": 10,
    "resnet": 5, "ssd": 5, "retinanet": 5, "stable_diffusion": 10, "transformer": 10, "ncf": 50, "rnnt": 10,
    "unet3d": 40, "gnn": 10, "rgat": 10, "llama2_70b_lora": 10, "llama31_405b": 3, "llama31_8b": 10, "flux1": 10,
    "gpt_oss_20b": 10, "deepseekv3_671b": 3, "qwen35_397b_grpo": 3,
    "cosmoflow": 10, "deepcam": 5, "oc20": 5, "openfold": 10,
}  # fmt: skip
"""Runs that make a result. ncf: run 100, use the first 50 that converge."""
HPC = ("cosmoflow", "deepcam", "oc20", "openfold")
_DIVISIONS = {"closed": "closed", "close": "closed", "open": "open"}
OWN = "own"


@dataclass(frozen=True)
class Round:
    """One round: "training 5.1.0"; or a class of our own: "own llama tiny"."""

    usage: str
    """ "training", "hpc" or OWN."""
    ruleset: str
    """Three numbers, as the official package names it; of our own, the workload and the scale."""

    @property
    def version(self) -> tuple[int, ...]:
        """(5, 1, 0); () of a class of our own, which has no versions."""
        return () if self.is_own else tuple(int(part) for part in self.ruleset.split("."))

    @property
    def is_own(self) -> bool:
        """Whether these are rules of our own, which no official package knows."""
        return self.usage == OWN

    @property
    def name(self) -> str:
        """ "training 5.1.0"."""
        return f"{self.usage} {self.ruleset}"


def own(workload: str, scale: str) -> Round:
    """The class of a workload at a scale."""
    return Round(OWN, f"{workload} {scale}")


WITHOUT_OFFICIAL_RULES = (Round("training", "0.5.0"),)
"""Rounds that the official package has no checker of; a score needs none."""


def parse(text: str, usage: str = "training") -> Round:
    """ "5.1", "v5.1", "5.1.0" or "hpc 3.0". Raises ValueError, in one line, for anything else."""
    name = text.strip().lower()
    if name.startswith("hpc"):
        usage, name = "hpc", name[3:]
    parts = name.strip(" _-v").split(".")
    if not all(part.isdigit() for part in parts) or len(parts) not in (2, 3):
        raise ValueError(f"{text!r} is not a round: give one like 5.1, 0.7 or hpc-3.0")
    return Round(usage, ".".join([*(str(int(part)) for part in parts), "0"][:3]))


def dropped(benchmark: str | None) -> int:
    """Runs that an olympic mean drops at each end, and how many of a result may fail to converge."""
    return 4 if benchmark == "unet3d" else 1


def division(text: object) -> str | None:
    """ "closed" or "open", however it is written; None for anything else."""
    return _DIVISIONS.get(text.strip().casefold()) if isinstance(text, str) else None


def refuse_unknown(played: Round) -> None:
    """Raises ValueError, in one line, for a round that there are no official rules of."""
    official_files.rule_folder(played.usage, played.ruleset)
