"""ONNX -> plan -> execution context, for TensorRT 10.x, 11.x and TensorRT for RTX alike.

The imported module is a value (``trt``): nothing here imports one. Networks are strongly typed
everywhere, so FP16 lives in the ONNX and never in a builder flag. Files, caches and CUDA are
other modules' business.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engine.backends.tensor_shapes import input_shapes, output_shapes
from engine.backends.tensorrt_log import (
    Message,
    OnProgress,
    ProgressTree,
    log_of,
    progress_monitor,
)
from engine.contract import FrameFormat, Precision
from engine.errors import ContractError, EngineFault, OutOfMemory, PlanError
from engine.plan import Profile, Size

ALLOWED_WARNINGS: tuple[tuple[str, str], ...] = (
    # Empty, because TensorRT for RTX 1.7.1 parses every graph of engine.graph without a word.
    # An entry needs the message as it was seen, with the version that said it.
)
"""(pattern, why it is harmless). Any other warning while parsing refuses the ONNX."""


class BuildCancelled(PlanError):
    """The caller stopped a build."""


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """How to build; every field but ``timing_cache`` is part of the PlanKey."""

    format: FrameFormat = "rgb24"
    profile: Profile = field(default_factory=Profile)
    optimization_level: int = 3
    """0..5: how long the builder searches."""
    tiling_level: str = "NONE"
    """NONE, FAST, MODERATE or FULL: tiling across kernels in L2 (full TensorRT)."""
    max_aux_streams: int = 0
    """The network is a chain, so further streams only cost memory."""
    workspace_bytes: int = 0
    """Limit of scratch memory; 0 is the runtime's own."""
    timing_cache: bytes | None = None
    """Timings of earlier builds; None builds without one, b"" begins one."""
    precision: Precision = "fp16"
    """Of the ONNX, which a strongly typed network runs in; FP32 is for comparisons."""


@dataclass(frozen=True, slots=True)
class BuiltPlan:
    """What a build gives back."""

    data: bytes
    timing_cache: bytes | None = None
    """The cache to keep for the next build, when one was asked for."""


def build_plan(
    trt: Any,
    onnx_bytes: bytes,
    options: BuildOptions,
    on_progress: OnProgress = lambda fraction, phase: True,
    aim: Callable[[Any], None] = lambda config: None,
) -> BuiltPlan:
    """Builds a plan. Takes 0.2 s (TensorRT for RTX) to minutes (full TensorRT); releases the GIL.

    Args:
        trt: the module ``tensorrt`` or ``tensorrt_rtx``.
        onnx_bytes: a graph of ``engine.graph`` in FP16.
        options: how to build.
        on_progress: called from the builder's thread; returning False cancels.
        aim: sets what only one of the runtimes has on the builder's configuration.

    Raises:
        ContractError: the ONNX does not parse, is not typed as it must be, or draws a warning.
        BuildCancelled: ``on_progress`` returned False.
        PlanError: the builder failed; the message holds its reason.
    """
    log = log_of(trt)
    with log.listening() as said:
        builder = trt.Builder(log.logger)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, log.logger)
        said.clear()  # what the builder said about the machine is no verdict on the ONNX
        parsed = parser.parse(onnx_bytes)
        check_parsed(parser, parsed, said)
        check_types(trt, network, options.precision)
        config = _configure(trt, builder, options)
        aim(config)
        cache = _timing_cache(config, options)
        tree = ProgressTree(on_progress)
        config.progress_monitor = progress_monitor(trt, tree)
        said.clear()
        plan = builder.build_serialized_network(network, config)
        if tree.cancelled:
            raise BuildCancelled("the build was cancelled")
        if plan is None:
            raise PlanError(f"the plan could not be built: {_reason(said)}")
        return BuiltPlan(bytes(plan), bytes(cache.serialize()) if cache is not None else None)


def _configure(trt: Any, builder: Any, options: BuildOptions) -> Any:
    config = builder.create_builder_config()
    config.builder_optimization_level = options.optimization_level
    config.max_aux_streams = options.max_aux_streams
    if options.tiling_level != "NONE":
        config.tiling_optimization_level = getattr(
            trt.TilingOptimizationLevel, options.tiling_level
        )
    if options.workspace_bytes:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    profile = builder.create_optimization_profile()
    bounds = (options.profile.minimum, options.profile.optimum, options.profile.maximum)
    for name in input_shapes(options.format, options.profile.optimum):
        profile.set_shape(name, *(input_shapes(options.format, size)[name] for size in bounds))
    if config.add_optimization_profile(profile) < 0:
        raise PlanError(f"the builder refuses the sizes {options.profile}")
    return config


def _timing_cache(config: Any, options: BuildOptions) -> Any:
    """Attaches the cache of earlier builds. One the runtime refuses starts empty: it holds only
    timings, and the runtime checks its version itself."""
    if options.timing_cache is None:
        return None
    cache = config.create_timing_cache(options.timing_cache)
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, ignore_mismatch=False)
    return cache


def check_parsed(
    parser: Any,
    parsed: bool,
    said: list[Message],
    allowed: tuple[tuple[str, str], ...] = ALLOWED_WARNINGS,
) -> None:
    """Raises ContractError unless the ONNX parsed without any warning but the allowed ones."""
    if not parsed:
        reasons = [parser.get_error(index).desc() for index in range(parser.num_errors)]
        raise ContractError(f"the ONNX does not parse: {'; '.join(reasons) or _reason(said)}")
    for message in said:
        if not any(re.search(pattern, message.text) for pattern, _ in allowed):
            raise ContractError(f"the ONNX draws a warning that is not allowed: {message.text}")


def check_types(trt: Any, network: Any, precision: Precision = "fp16") -> None:
    """Raises ContractError unless convolutions are of one type throughout and uint8 meets Casts.

    In a strongly typed network these are the types that run: one FP32 convolution would halve the
    speed without any message.
    """
    kind_of = {"fp16": trt.DataType.HALF, "fp32": trt.DataType.FLOAT}
    wanted, uint8 = kind_of[precision], trt.DataType.UINT8
    convolutions = 0
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        types = _tensor_types(layer)
        if layer.type == trt.LayerType.CONVOLUTION:
            convolutions += 1
            layer.__class__ = trt.IConvolutionLayer
            types = {**types, **_weight_types(trt, layer)}
            odd = {name: str(kind) for name, kind in types.items() if kind != wanted}
            if odd:
                raise ContractError(
                    f"convolution {layer.name!r} is not {precision.upper()} throughout ({odd}): "
                    f"export with precision {precision}"
                )
        elif uint8 in types.values() and layer.type != trt.LayerType.CAST:
            raise ContractError(f"layer {layer.name!r} touches uint8, which only a Cast may do")
    if convolutions == 0:
        raise ContractError("the ONNX holds no convolution: it is not one of our networks")


def _tensor_types(layer: Any) -> dict[str, Any]:
    inputs = {f"input {n}": layer.get_input(n) for n in range(layer.num_inputs)}
    outputs = {f"output {n}": layer.get_output(n) for n in range(layer.num_outputs)}
    return {name: t.dtype for name, t in {**inputs, **outputs}.items() if t is not None}


def _weight_types(trt: Any, layer: Any) -> dict[str, Any]:
    """Types of the constants inside a convolution; weights may also come in as tensors."""
    dtypes = {np.dtype(np.float16): trt.DataType.HALF, np.dtype(np.float32): trt.DataType.FLOAT}
    arrays = {"kernel": np.asarray(layer.kernel), "bias": np.asarray(layer.bias)}
    return {n: dtypes.get(a.dtype, a.dtype) for n, a in arrays.items() if a.size}


def _reason(said: list[Message]) -> str:
    errors = [message.text for message in said if message.is_error]
    return errors[-1] if errors else "the runtime gave no reason"


@dataclass(slots=True)
class LoadedPlan:
    """A deserialised engine with one execution context. Made and used on the GPU thread."""

    trt: Any
    format: FrameFormat
    engine: Any
    context: Any
    keep: list[Any] = field(default_factory=list)
    """What must outlive the context: the runtime and its configuration."""

    def release(self) -> None:
        """Frees the context, then the engine, then what they need; on the GPU thread."""
        self.context = None
        self.engine = None
        self.keep.clear()

    def resize(self, size: Size) -> None:
        """Fixes the input size. Raises ContractError when the plan does not take it."""
        for name, shape in input_shapes(self.format, size).items():
            if not self.context.set_input_shape(name, shape):
                raise ContractError(
                    f"the plan takes no {size[1]}x{size[0]} frame: build one for that size"
                )
        for name, shape in output_shapes(self.format, size).items():
            if tuple(self.context.get_tensor_shape(name)) != shape:
                raise PlanError(f"the plan's output {name!r} is not {shape}: build it again")

    def enqueue(self, addresses: dict[str, int], stream: int) -> None:
        """Queues one frame on a CUDA stream and returns at once.

        Args:
            addresses: tensor name -> device address, inputs and outputs, 256-byte aligned.
            stream: CUDA stream handle, never the default stream.

        Raises:
            EngineFault: the runtime refused.
        """
        for name, address in addresses.items():
            if not self.context.set_tensor_address(name, address):
                raise EngineFault(
                    f"the runtime refuses an address: {log_of(self.trt).last_error()}"
                )
        if not self.context.execute_async_v3(stream):
            raise EngineFault(f"the runtime failed: {log_of(self.trt).last_error()}")


def deserialize(trt: Any, data: bytes, frame_format: FrameFormat) -> tuple[Any, Any]:
    """(runtime, engine) of a plan whose sha256 was checked before.

    Raises:
        PlanError: the runtime refuses it (another version, GPU or driver), or its inputs and
            outputs are not those of ``frame_format``.
    """
    log = log_of(trt)
    runtime = trt.Runtime(log.logger)
    engine = runtime.deserialize_cuda_engine(data)
    if engine is None:
        raise PlanError(
            f"the plan does not load with TensorRT {trt.__version__} on this GPU: "
            f"{log.last_error()}"
        )
    size = (2, 2)
    expected = {*input_shapes(frame_format, size), *output_shapes(frame_format, size)}
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    if set(names) != expected:
        raise PlanError(f"the plan's tensors are {names}, not those of {frame_format}")
    for name in names:
        if engine.get_tensor_dtype(name) != trt.DataType.UINT8:
            raise PlanError(f"the plan's tensor {name!r} is not uint8: build it again")
    return runtime, engine


def load_plan(trt: Any, data: bytes, frame_format: FrameFormat, size: Size) -> LoadedPlan:
    """A plan ready to run frames of ``size``; allocates its scratch memory.

    Raises:
        PlanError: see :func:`deserialize`.
        OutOfMemory: no device memory for the context.
    """
    runtime, engine = deserialize(trt, data, frame_format)
    context = engine.create_execution_context()
    return ready(trt, LoadedPlan(trt, frame_format, engine, context, [runtime]), size)


def ready(trt: Any, plan: LoadedPlan, size: Size) -> LoadedPlan:
    """``plan`` with its size fixed. Raises OutOfMemory when its context could not be made."""
    if plan.context is None:
        raise OutOfMemory(
            f"no device memory to run {size[1]}x{size[0]} frames: {log_of(trt).last_error()}"
        )
    plan.resize(size)
    return plan
