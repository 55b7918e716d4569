"""What fixes the shape of a network, without torch: serving reads it from the weights header."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from engine.contract import SCALE

LEAKY_SLOPE = 0.1
"""Slope of ``leaky_relu`` below zero."""


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """Everything that fixes the shape of a network; stored in the header of its weights file."""

    width: int = 16
    """Channels C of every hidden layer."""
    body: int = 14
    """Non-linear 3x3 convolutions between the first one and the two output convolutions."""
    skip_every: int = 0
    """A local skip around every group of this many body convolutions; 0 is none."""
    activation: str = "relu"
    """``relu`` or ``leaky_relu`` (slope 0.1): the two that TensorRT fuses into a convolution."""

    def __post_init__(self) -> None:
        if self.width < 3 or self.body < 1 or self.skip_every < 0:
            raise ValueError(
                f"width must be >= 3, body >= 1 and skip_every >= 0, got {self.width}, "
                f"{self.body} and {self.skip_every}"
            )
        if self.activation not in ("relu", "leaky_relu"):
            raise ValueError(f"activation must be relu or leaky_relu, got {self.activation!r}")

    @property
    def layers(self) -> int:
        """Number of convolutions; also the receptive-field radius in input pixels."""
        return self.body + 3

    @property
    def halo(self) -> int:
        """Input pixels around an output pixel that can change it (one per 3x3 convolution)."""
        return self.layers

    @property
    def macs_per_pixel(self) -> int:
        """Multiply-accumulates per input (low-resolution) pixel."""
        c = self.width
        return 9 * (3 * c + (self.body + 1) * c * c + c * 3 * SCALE * SCALE)

    def closes_group(self, index: int) -> bool:
        """True where body convolution ``index`` (from 0) ends a group with a local skip."""
        return self.skip_every > 0 and (index + 1) % self.skip_every == 0

    def to_dict(self) -> dict[str, object]:
        """The fields, as they are stored in the header of a weights file."""
        return asdict(self)
