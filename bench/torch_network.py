"""The network in PyTorch from bytes to bytes: the yardstick, and a lane's compute where no
TensorRT runs. For benchmarks and GPU tests only; nothing that serves imports it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.backends.base import BackendInfo, Lane, LaneSpec
from engine.backends.cuda_device_lane import CudaDeviceLane, CudaMemory
from engine.backends.cuda_lane import CudaLane, SlotLane, Streams
from engine.backends.cuda_thread import AnyDevice, GpuThread
from engine.backends.tensor_shapes import input_shapes, output_shapes
from engine.closing import Closing
from engine.colour import colour_map
from engine.config import LEAKY_SLOPE
from engine.contract import (
    RGB_INPUT,
    RGB_OUTPUT,
    SCALE,
    UV_INPUT,
    UV_OUTPUT,
    Y_INPUT,
    Y_OUTPUT,
)
from engine.device import DeviceLane, DeviceMemory
from engine.errors import EngineFault
from engine.graph import convolutions
from engine.graph_nv12 import CHROMA_SCALE, fold_first, fold_last
from engine.graph_writer import Convolution
from engine.models import Model

Tensors = Mapping[str, Tensor]


class TorchNetwork:
    """uint8 tensors of a lane's inputs -> its outputs, written in place.

    Args:
        model: the weights.
        spec: format, matrix and range.
        device: ``cuda`` or ``cpu``.
        dtype: in which the network computes.
    """

    def __init__(self, model: Model, spec: LaneSpec, device: str, dtype: torch.dtype) -> None:
        self._spec, self._config, self._dtype = spec, model.config, dtype
        layers = dict(convolutions(model))
        first, last = layers["conv_in"], layers["conv_out"]
        if spec.format == "nv12":
            colours = colour_map(spec.matrix, spec.full_range)
            layers |= {"conv_in": fold_first(first, colours), "conv_out": fold_last(last, colours)}
            self._offset = torch.tensor(colours.offset, dtype=dtype, device=device)
        else:
            layers["conv_in"] = replace(first, weight=first.weight / 255)
            layers["conv_out"] = Convolution(last.weight * 255, last.bias * 255)
        self._layers = {
            name: tuple(
                torch.from_numpy(array).to(device, dtype).contiguous(memory_format=layout)
                for array, layout in (
                    (layer.weight, torch.channels_last),
                    (layer.bias, torch.contiguous_format),
                )
            )
            for name, layer in layers.items()
        }

    @torch.inference_mode()
    def run(self, inputs: Tensors, outputs: Tensors) -> None:
        """One frame. Everything is queued on PyTorch's current stream."""
        levels = self._network(self._planes(inputs)).clamp_(0, 255).round_()
        if self._spec.format == "nv12":
            luma, chroma = torch.split(levels, [SCALE * SCALE, 2 * CHROMA_SCALE**2], dim=1)
            outputs[Y_OUTPUT].copy_(F.pixel_shuffle(luma, SCALE)[0, 0])
            outputs[UV_OUTPUT].copy_(F.pixel_shuffle(chroma, CHROMA_SCALE)[0].permute(1, 2, 0))
        else:
            outputs[RGB_OUTPUT].copy_(F.pixel_shuffle(levels, SCALE)[0].permute(1, 2, 0))

    def _planes(self, inputs: Tensors) -> Tensor:
        if self._spec.format != "nv12":
            # (H, W, 3) is channels_last already: no copy but the cast.
            return inputs[RGB_INPUT].permute(2, 0, 1)[None].to(self._dtype)
        height, width = inputs[Y_INPUT].shape
        y = inputs[Y_INPUT].to(self._dtype) - self._offset[0]
        uv = inputs[UV_INPUT].to(self._dtype) - self._offset[1]
        uv = F.interpolate(uv.permute(2, 0, 1)[None], scale_factor=2, mode="bilinear")
        planes = torch.cat([y[None, None], uv[..., :height, :width]], dim=1)
        return planes.contiguous(memory_format=torch.channels_last)

    def _convolve(self, x: Tensor, name: str) -> Tensor:
        weight, bias = self._layers[name]
        return F.conv2d(x, weight, bias, padding=1)

    def _activate(self, x: Tensor) -> Tensor:
        if self._config.activation == "relu":
            return F.relu_(x)
        return F.leaky_relu_(x, LEAKY_SLOPE)

    def _network(self, x: Tensor) -> Tensor:
        shortcut = h = group = self._convolve(x, "conv_in")
        for index in range(self._config.body):
            h = self._convolve(h, f"body.{index}")
            if self._config.closes_group(index):
                h = h + group
            h = self._activate(h)
            if self._config.closes_group(index):
                group = h
        return self._convolve(self._convolve(shortcut + h, "conv_mid"), "conv_out")


class _DeviceArray:
    """A device address as something that ``torch.as_tensor`` takes without a copy."""

    def __init__(self, address: int, shape: tuple[int, ...]) -> None:
        self.__cuda_array_interface__ = {
            "shape": shape,
            "typestr": "|u1",
            "data": (address, False),
            "version": 3,
        }


class TorchCompute:
    """The compute step of a CUDA lane: one CUDA graph per slot, replayed on the lane's stream."""

    def __init__(self, model: Model, spec: LaneSpec) -> None:
        self._spec = spec
        self._network = TorchNetwork(model, spec, "cuda", torch.float16)
        self._graphs: dict[tuple[int, ...], torch.cuda.CUDAGraph] = {}
        self._tensors: list[Tensor] = []

    def enqueue(self, addresses: dict[str, int], stream: int) -> None:
        """Queues one frame; the first of a slot captures its graph."""
        slot = tuple(addresses.values())
        if slot not in self._graphs:
            self._graphs[slot] = self._capture(addresses)
        with torch.cuda.stream(torch.cuda.ExternalStream(stream)):  # type: ignore[no-untyped-call]
            self._graphs[slot].replay()

    def _capture(self, addresses: dict[str, int]) -> torch.cuda.CUDAGraph:
        size = (self._spec.height, self._spec.width)
        shapes = {**input_shapes(self._spec.format, size), **output_shapes(self._spec.format, size)}
        tensors = {
            name: torch.as_tensor(_DeviceArray(addresses[name], shape), device="cuda")
            for name, shape in shapes.items()
        }
        self._tensors += tensors.values()
        return capture(lambda: self._network.run(tensors, tensors))


def capture(work: Callable[[], None]) -> torch.cuda.CUDAGraph:
    """A CUDA graph of ``work``, warmed up beside so that cuDNN has chosen its kernels.

    Relaxed: a buffer or event that some thread frees meanwhile must not spoil the graph.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="relaxed"):
        work()
    torch.cuda.synchronize()
    return graph


class TorchCudaBackend(Closing):
    """Our lanes, streams and GPU thread with PyTorch as the network: what overlaps, and how fast
    frames come and go, is measured on our own pipeline even where no TensorRT runs."""

    def __init__(self, thread: GpuThread, model: Model) -> None:
        self._thread, self._model = thread, model
        self._streams = thread.call(Streams.open)
        self._lanes: list[SlotLane] = []

    @property
    def info(self) -> BackendInfo:
        """Not one of the product's backends, and named so."""
        facts = self._thread.facts
        return BackendInfo(
            name="pytorch (test only)",
            version=torch.__version__,
            device=facts.name,
            precision="fp16",
            model=self._model.name,
            halo=self._model.config.halo,
            detail={"driver": facts.driver_version, "async_engines": str(facts.async_engines)},
        )

    def open_lanes(self, spec: LaneSpec, count: int) -> list[Lane]:
        """Lanes of ``engine.backends.cuda_lane`` around one :class:`TorchCompute`."""
        compute = self._thread.call(lambda device: TorchCompute(self._model, spec))
        lanes = [CudaLane(self._thread, self._streams, compute, spec) for _ in range(count)]
        self._keep(lanes)
        return list(lanes)

    @property
    def memory(self) -> DeviceMemory:
        """Where frames that stay on the GPU are."""
        return CudaMemory(self._thread)

    def open_device_lanes(self, spec: LaneSpec, count: int) -> list[DeviceLane]:
        """Likewise, for frames that stay on the GPU."""
        compute = self._thread.call(lambda device: TorchCompute(self._model, spec))
        lanes = [CudaDeviceLane(self._thread, self._streams, compute, spec) for _ in range(count)]
        self._keep(lanes)
        return list(lanes)

    def _keep(self, lanes: Sequence[SlotLane]) -> None:
        """Graphs of closed lanes hold gigabytes: they end with the last reference to their lane."""
        self._lanes = [*(lane for lane in self._lanes if not lane.closed), *lanes]

    def close(self) -> None:
        """Closes the lanes and the GPU thread."""
        for lane in self._lanes:
            lane.close()
        self._lanes.clear()
        with suppress(EngineFault):  # closed before, or a lost GPU with nothing left to free
            self._thread.call(self._drop_streams)
        self._thread.close()

    def _drop_streams(self, device: AnyDevice) -> None:
        """On the GPU's thread, where PyCUDA's objects must end."""
        self._streams = Streams(None, None, None)
