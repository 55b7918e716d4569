"""Where a run computes: device, precision of the forward pass, and the share of each process."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch import distributed as dist

from trainer.config import FitConfig
from trainer.data import PictureSet
from trainer.errors import TrainerError


def choose_device(config: FitConfig) -> torch.device:
    """The device of ``config.device``; ``cuda`` without a GPU is an error, not a fallback."""
    if config.device == "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    if config.device == "cuda":
        raise TrainerError("--device cuda but PyTorch sees no CUDA GPU; use --device cpu")
    return torch.device("cpu")


def wait_for(device: torch.device) -> None:
    """Returns when ``device`` has done all that was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def autocast_type(config: FitConfig, device: torch.device) -> torch.dtype | None:
    """The type of the forward pass, None for float32."""
    if config.precision == "auto":
        if device.type == "cuda":
            fast = torch.cuda.is_bf16_supported()
        else:
            fast = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
        return torch.bfloat16 if fast else None
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[config.precision]


def machine(config: FitConfig, device: torch.device) -> str:
    """What a run computes on, in words: the GPU or processor, its share of it, the precision."""
    precision = str(autocast_type(config, device) or torch.float32).removeprefix("torch.")
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} ({precision})"
    threads, processors = torch.get_num_threads(), os.cpu_count()
    return f"{processor()} ({threads} of {processors} CPUs, {precision})"


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Name of the processor, or of its architecture where the system does not tell more."""
    with suppress(OSError):
        for line in cpuinfo.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name" and value.strip():
                return value.strip()
    return platform.machine() or "an unknown processor"


def place(pictures: PictureSet, device: torch.device) -> PictureSet:
    """The set on ``device``, or where it is when the device has no room for it."""
    if device.type == "cuda":
        pairs = pictures.train + pictures.validation
        size = sum(p.hr.numel() + p.lr.numel() for p in pairs)
        free, _ = torch.cuda.mem_get_info(device)
        if size > free // 2:
            return pictures
    return pictures.to(device)


@dataclass(frozen=True, slots=True)
class Share:
    """Which part of every batch this process computes."""

    rank: int = 0
    count: int = 1

    def of(self, batch: Tensor) -> Tensor:
        """This process's equal part of (N, ...), N divisible by ``count``."""
        size = len(batch) // self.count
        return batch[self.rank * size : (self.rank + 1) * size]

    def mean(self, value: Tensor) -> float:
        """The mean over all processes of a scalar."""
        if self.count > 1:
            value = value.clone()
            dist.all_reduce(value)
            value /= self.count
        return float(value)

    def any(self, here: bool) -> bool:
        """True in every process when it is true in one."""
        return here if self.count == 1 else self.mean(torch.tensor(float(here))) > 0

    def wrap(self, network: nn.Module) -> nn.Module:
        """A module whose gradients are averaged over the processes."""
        if self.count == 1:
            return network
        return nn.parallel.DistributedDataParallel(network)


@contextmanager
def processes(device: torch.device) -> Iterator[Share]:
    """The share of this process: all of it, or what ``torchrun`` set in the environment."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Share()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield Share(dist.get_rank(), count)
    finally:
        dist.destroy_process_group()
