"""What is ablated: one change each against the default recipe, in the order of the table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from engine.network import NetworkConfig
from trainer.blocks import BlockConfig
from trainer.config import AugmentConfig, OptimiserConfig
from trainer.training import Trainer
from trainer.variants import HalfResolutionTrainer, InterpolatedRotationTrainer

BASELINE = "baseline"
PLAIN = BlockConfig(branches="plain", weight_norm=False)
RANGER_AT_4 = OptimiserConfig(learning_rate=4e-3)
SOAP = OptimiserConfig(method="soap", learning_rate=4e-3, betas=(0.95, 0.95), lookahead_steps=0)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: what differs from the baseline."""

    key: str
    title: str
    changes: dict[str, Any]
    trainer: type[Trainer] = Trainer


def _mixture(name: str, title: str) -> Row:
    return Row(name, title, {"augment": AugmentConfig(**{name: 0.5})})


def _loss(key: str, title: str, spec: str) -> Row:
    return Row(key, title, {"losses": (spec,), "stages": (1.0,)})


ROWS: tuple[Row, ...] = (
    Row(BASELINE, "baseline: L1 + 0.01 GV, then MSE; 3x3 and 1x1, weight norm; Ranger", {}),
    Row("no-gv", "without the Gradient-Variance loss", {"losses": ("l1", "mse")}),
    Row("no-weight-norm", "without weight norm", {"block": BlockConfig(weight_norm=False)}),
    Row("plain", "3x3 alone (no RepBlock)", {"block": BlockConfig(branches="plain")}),
    Row("rich", "richer branches (identity, 1-3-1)", {"block": BlockConfig(branches="rich")}),
    Row("edge", "the same and edge branches (ECB)", {"block": BlockConfig(branches="edge")}),
    Row("no-lookahead", "without Lookahead", {"optimiser": OptimiserConfig(lookahead_steps=0)}),
    _loss("no-mse", "without the MSE stage", "l1+0.01*gv"),
    _loss("ssim", "SSIM alone", "ssim"),
    _loss("ssim-smooth-l1", "SSIM + Smooth-L1", "ssim+smooth-l1"),
    _loss("ssim-sobel", "SSIM + Sobel", "ssim+sobel"),
    Row("any-rotation", "interpolated rotation", {}, InterpolatedRotationTrainer),
    _mixture("cutmix", "CutMix, half of the crops"),
    _mixture("cutblur", "CutBlur, half of the crops"),
    _mixture("cutout", "Cutout, half of the crops"),
    _mixture("mixup", "Mixup, half of the crops"),
    _mixture("cutmixup", "CutMixup, half of the crops"),
    _mixture("blend", "Blend, half of the crops"),
    Row("no-rgb", "without RGB permutation", {"augment": AugmentConfig(rgb=0.0)}),
    Row("skip-3", "local skips every 3 layers", {"network": NetworkConfig(skip_every=3)}),
    Row("skip-4", "local skips every 4 layers", {"network": NetworkConfig(skip_every=4)}),
    Row("half", "half-resolution trunk (C=32, 1.2 times the cost)", {}, HalfResolutionTrainer),
    Row("leaky", "LeakyReLU", {"network": NetworkConfig(activation="leaky_relu")}),
    Row("rate", "rate 4e-3 (the baseline's is 1e-3)", {"optimiser": RANGER_AT_4}),
    Row("soap", "SOAP at 4e-3, no Lookahead", {"optimiser": SOAP}),
    Row("soap-plain", "the same, 3x3 alone, no weight norm", {"optimiser": SOAP, "block": PLAIN}),
    Row("busy", "busy crops (1 of 3 candidates)", {"crop_candidates": 3}),
)
