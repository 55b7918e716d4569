"""Small tensors of fixed numbers, made once per device.

A CUDA graph cannot hold the copy from the host that makes one; it can hold its use.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


def constant(values: tuple[float, ...], like: Tensor) -> Tensor:
    """(n,) of the type and on the device of ``like``. Not to be changed in place."""
    return _made(values, like.dtype, like.device)


@lru_cache(maxsize=64)
def _made(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    # An inference tensor, if the first caller is only evaluating, could not train later.
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)
