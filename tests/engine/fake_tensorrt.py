"""A TensorRT with only names that the real 11.x bindings have, and a memory of what was asked.

Every public attribute of these classes is checked against tests/data/tensorrt when a fake module
is made, so a fake cannot be more obliging than the real one.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

NAMES = Path(__file__).parents[1] / "data" / "tensorrt" / "names-11.4.0.106.txt"
VERSION = "11.4.0.106"


class Flag:
    """A member of an enumeration: compared by identity, printed like pybind11 does."""

    def __init__(self, name: str, value: int = 0) -> None:
        self.name, self.value = name, value

    def __int__(self) -> int:
        return self.value

    def __str__(self) -> str:
        return self.name


HALF, FLOAT, UINT8 = Flag("DataType.HALF"), Flag("DataType.FLOAT"), Flag("DataType.UINT8")
CAST, CONVOLUTION, ACTIVATION = (
    Flag(f"LayerType.{name}") for name in ("CAST", "CONVOLUTION", "ACTIVATION")
)


class FakeLayer:
    def __init__(self, kind: Flag, name: str, taken: Flag, given: Flag, weights: Any) -> None:
        self.type, self.name = kind, name
        self.num_inputs = self.num_outputs = 1
        self._taken, self._given = taken, given
        self.kernel, self.bias = np.zeros(9, weights), np.zeros(1, weights)

    def get_input(self, index: int) -> Any:
        return SimpleNamespace(dtype=self._taken)

    def get_output(self, index: int) -> Any:
        return SimpleNamespace(dtype=self._given)


def layers_of(bad: str = "") -> list[FakeLayer]:
    """uint8 -> Cast -> convolution -> activation -> Cast -> uint8, with one thing wrong."""
    weights = np.float32 if bad == "weights" else np.float16
    given = FLOAT if bad == "output" else HALF
    layers = [
        FakeLayer(CAST, "first", UINT8, HALF, np.float16),
        FakeLayer(CONVOLUTION, "conv", FLOAT if bad == "input" else HALF, given, weights),
        FakeLayer(ACTIVATION, "act", UINT8 if bad == "uint8" else HALF, HALF, np.float16),
        FakeLayer(CAST, "last", HALF, UINT8, np.float16),
    ]
    return [layer for layer in layers if bad != "none" or layer.type != CONVOLUTION]


class FakeTensorRT:
    """Behaves like the imported module. Attributes that begin with ``fake_`` steer it."""

    def __init__(self) -> None:
        fake = self
        self.__version__ = VERSION
        self.fake_layers = layers_of()
        self.fake_says: list[tuple[str, str]] = []
        self.fake_plan: bytes | None = b"PLAN"
        self.fake_engine_names = {"frame": UINT8, "upscaled": UINT8}
        self.fake_config: dict[str, Any] = {}
        self.fake_bad_cache = False
        self.fake_no_context = False
        self.fake_enqueue_fails = False
        self.fake_calls: list[tuple[str, Any]] = []

        class ILogger:
            INTERNAL_ERROR, ERROR = Flag("Severity.INTERNAL_ERROR"), Flag("Severity.ERROR")
            WARNING, INFO = Flag("Severity.WARNING"), Flag("Severity.INFO")

        class IProgressMonitor:
            pass

        class ITimingCache:
            def __init__(self, content: bytes) -> None:
                self._content = content

            def serialize(self) -> bytes:
                return self._content + b"+"

        class IOptimizationProfile:
            def set_shape(self, *arguments: Any) -> None:
                fake.fake_config.setdefault("shapes", []).append(arguments)

        class IBuilderConfig:
            progress_monitor: Any = None

            def __setattr__(self, name: str, value: Any) -> None:
                fake.fake_config[name] = value

            def add_optimization_profile(self, profile: Any) -> int:
                return 0

            def set_memory_pool_limit(self, pool: Flag, size_bytes: int) -> None:
                fake.fake_config[str(pool)] = size_bytes

            def create_timing_cache(self, content: bytes) -> Any:
                return None if fake.fake_bad_cache and content else ITimingCache(content)

            def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
                fake.fake_config["timing_cache"] = (cache, ignore_mismatch)
                return True

        class INetworkDefinition:
            @property
            def num_layers(self) -> int:
                return len(fake.fake_layers)

            def get_layer(self, index: int) -> FakeLayer:
                return fake.fake_layers[index]

        class Builder:
            def __init__(self, logger: Any) -> None:
                fake.fake_logger = logger

            def create_network(self, flags: int) -> Any:
                assert flags == 1 << 1, "the network must be strongly typed"
                return INetworkDefinition()

            def create_builder_config(self) -> Any:
                return IBuilderConfig()

            def create_optimization_profile(self) -> Any:
                return IOptimizationProfile()

            def build_serialized_network(self, network: Any, config: Any) -> bytes | None:
                monitor = fake.fake_config["progress_monitor"]
                monitor.phase_start("build", None, 2)
                going = monitor.step_complete("build", 0) and monitor.step_complete("build", 1)
                monitor.phase_finish("build")
                return fake.fake_plan if going else None

        class OnnxParser:
            num_errors = 1

            def __init__(self, network: Any, logger: Any) -> None:
                pass

            def parse(self, model: bytes) -> bool:
                for severity, text in fake.fake_says:
                    fake.fake_logger.log(getattr(ILogger, severity), text)
                return model != b"junk"

            def get_error(self, index: int) -> Any:
                return SimpleNamespace(desc=lambda: "no node called X")

        class IExecutionContext:
            def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
                self._shape = shape
                return shape[0] <= 64

            def get_tensor_shape(self, name: str) -> tuple[int, ...]:
                return (4 * self._shape[0], 4 * self._shape[1], 3)

            def set_tensor_address(self, name: str, address: int) -> bool:
                fake.fake_calls.append((name, address))
                return address != 0

            def execute_async_v3(self, stream: int) -> bool:
                fake.fake_calls.append(("execute", stream))
                return not fake.fake_enqueue_fails

        class ICudaEngine:
            @property
            def num_io_tensors(self) -> int:
                return len(fake.fake_engine_names)

            def get_tensor_name(self, index: int) -> str:
                return list(fake.fake_engine_names)[index]

            def get_tensor_dtype(self, name: str) -> Flag:
                return fake.fake_engine_names[name]

            def create_execution_context(self) -> Any:
                return None if fake.fake_no_context else IExecutionContext()

        class Runtime:
            def __init__(self, logger: Any) -> None:
                self._logger = logger

            def deserialize_cuda_engine(self, plan: bytes) -> Any:
                if plan != b"PLAN":
                    self._logger.log(ILogger.ERROR, "the plan is of version 10.9")
                    return None
                return ICudaEngine()

        classes = (
            ILogger, IProgressMonitor, ITimingCache, IOptimizationProfile, IBuilderConfig,
            INetworkDefinition, Builder, OnnxParser, IExecutionContext, ICudaEngine, Runtime,
        )  # fmt: skip
        for made in classes:
            self._put(made.__name__, made)
        self._put("IConvolutionLayer", FakeLayer)
        self._put("DataType", SimpleNamespace(HALF=HALF, FLOAT=FLOAT, UINT8=UINT8))
        self._put("LayerType", SimpleNamespace(CAST=CAST, CONVOLUTION=CONVOLUTION))
        self._put("NetworkDefinitionCreationFlag", SimpleNamespace(STRONGLY_TYPED=Flag("S", 1)))
        self._put("TilingOptimizationLevel", SimpleNamespace(FAST=Flag("FAST"), FULL=Flag("FULL")))
        self._put("MemoryPoolType", SimpleNamespace(WORKSPACE=Flag("WORKSPACE")))
        self.fake_logger: Any = None

    def _put(self, name: str, value: Any) -> None:
        known = set(NAMES.read_text().splitlines())
        public = [name for name in vars(value) if not name.startswith("_")]
        if value is not FakeLayer:  # stands for ILayer and IConvolutionLayer in one
            assert {name, *(f"{name}.{part}" for part in public)} <= known, f"{name} is no {public}"
        setattr(self, name, value)
