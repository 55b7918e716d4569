"""Video in the memory of a real GPU: lanes, NVDEC and NVENC, each against the host's way.

What a card lacks (an H100 has no NVENC) must be found out and said, so that both outcomes are
tested. ``bench/gpu_session.sh`` keeps the output.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from engine.backends.base import LaneSpec
from engine.backends.cuda_device_lane import CudaMemory
from engine.backends.cuda_thread import AnyDevice, GpuThread
from engine.device import AnyFrame, DeviceNv12
from engine.dlpack import Plane
from engine.errors import BackendUnavailable
from engine.frames import Bytes, Nv12
from engine.gpu import GpuOptions, open_gpu_backend
from engine.models import load_model
from engine.upscaler import Upscaler
from server.media.decode import DecodeOptions, Decoder
from server.media.encode import usable_codecs
from server.media.errors import CodecUnavailable
from server.media.limits import command_line_limits
from server.media.nvidia import Device, DeviceDecoder
from server.media.nvidia_codecs import NvidiaCodecs
from server.session import upscale_video
from server.video_options import VideoOptions

pytestmark = pytest.mark.gpu

CLIP = Path(__file__).parents[1] / "data" / "demo" / "city_256x256.mp4"
SPEC = LaneSpec(256, 256, "nv12")
FRAMES = 24


def to_host(thread: GpuThread, plane: Plane) -> Bytes:
    """A copy of a plane in device memory."""

    def copy(device: AnyDevice) -> Bytes:
        size_bytes = plane.rows * plane.row_bytes
        stream, done = device.stream(), device.event()
        memory, pinned = device.memory(size_bytes), device.pinned(size_bytes)
        device.record(done, device.default_stream())
        device.wait(stream, done)
        device.copy_plane(device.address(memory), plane, stream)
        device.read(pinned, device.address(memory), stream)
        device.record(done, stream)
        device.synchronize(done)
        device.free(memory)
        return pinned.reshape(plane.shape).copy()

    return thread.call(copy)


def host_frames() -> list[Nv12]:
    """The clip's first frames as the host decodes them."""
    options = DecodeOptions(command_line_limits(), formats=("nv12",))
    found = []
    with Decoder(CLIP, options) as decoder:
        for decoded in decoder:
            assert isinstance(decoded.frame, Nv12)
            found.append(decoded.frame)
            if len(found) == FRAMES:
                break
    return found


@pytest.fixture
def backend(gpu: GpuThread):  # type: ignore[no-untyped-def]  # its module needs CUDA's PyTorch
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch sees no GPU")
    from bench.torch_network import TorchCudaBackend

    backend = TorchCudaBackend(gpu, load_model("fast", allow_untrained=True))
    yield backend
    backend.close()


def test_frames_that_stay_are_those_that_come_back(backend, gpu: GpuThread) -> None:  # type: ignore[no-untyped-def]
    frames = host_frames()
    upscaler = Upscaler(backend, lanes=3)
    expected = list(upscaler.stream(iter(frames), SPEC))
    stayed = upscaler.stream_on_device(iter(frames), SPEC)
    for want, found in zip(expected, stayed, strict=True):
        assert isinstance(want, Nv12)
        np.testing.assert_array_equal(to_host(gpu, found.y), want.y)
        np.testing.assert_array_equal(to_host(gpu, found.uv), want.uv)


def nvdec(gpu: GpuThread) -> DeviceDecoder | str:
    """A decoder on the GPU, or why there is none."""
    options = DecodeOptions(command_line_limits(), formats=("nv12",))
    with Decoder(CLIP, options) as decoder:
        info = decoder.info
    try:
        return DeviceDecoder(CLIP, options, info, Device(CudaMemory(gpu), NvidiaCodecs()))
    except CodecUnavailable as error:
        return str(error)


def test_nvdec_gives_the_bytes_of_the_host_or_says_why_not(gpu: GpuThread) -> None:
    decoder = nvdec(gpu)
    if isinstance(decoder, str):
        print(f"no NVDEC: {decoder}")
        assert "NVDEC" in decoder
        return
    with decoder:
        for want, found in zip(host_frames(), decoder, strict=False):
            np.testing.assert_array_equal(to_host(gpu, found.frame.y), want.y)
            np.testing.assert_array_equal(to_host(gpu, found.frame.uv), want.uv)
    print("NVDEC: the same bytes as the host's decoder")


def test_frames_of_nvdec_go_through_the_network_like_those_of_the_host(backend, gpu) -> None:  # type: ignore[no-untyped-def]
    decoder = nvdec(gpu)
    if isinstance(decoder, str):
        print(f"no NVDEC: {decoder}")
        assert "NVDEC" in decoder
        return
    upscaler = Upscaler(backend, lanes=3)
    expected = upscaler.stream(iter(host_frames()), SPEC)

    def decoded() -> Iterator[AnyFrame]:
        for frame in decoder:
            yield frame.frame

    for want, found in zip(expected, upscaler.stream_on_device(decoded(), SPEC), strict=False):
        assert isinstance(want, Nv12)
        assert isinstance(found, DeviceNv12)
        np.testing.assert_array_equal(to_host(gpu, found.y), want.y)
    decoder.close()


@pytest.mark.parametrize("codec", ["h264_nvenc", "hevc_nvenc"])
def test_a_clip_stays_on_the_gpu_or_the_codec_is_refused(  # type: ignore[no-untyped-def]
    codec: str, backend, tmp_path: Path
) -> None:
    works = usable_codecs()[codec] is None
    try:
        manifest = upscale_video(
            CLIP, tmp_path / "out.mp4", Upscaler(backend, lanes=3), VideoOptions(codec=codec)
        )
    except CodecUnavailable as error:
        print(f"no {codec}: {error}")
        assert not works
        return
    print(f"{codec}: {manifest.frame_memory}, {manifest.fps} frames/s, {manifest.stages}")
    assert works
    assert manifest.frame_memory["encode"] == "NVENC, device memory"
    assert manifest.frames_encoded == manifest.frames_in


@pytest.mark.trt_gpu
@pytest.mark.parametrize("name", ["tensorrt", "tensorrt_rtx"])
def test_a_tensorrt_leaves_its_frames_on_the_gpu(name: str, tmp_path: Path) -> None:
    model = load_model("fast", allow_untrained=True)
    try:
        backend = open_gpu_backend(name, model, GpuOptions(cache_dir=tmp_path / "plans"))  # type: ignore[arg-type]
    except BackendUnavailable as error:
        pytest.skip(str(error))
    frames = host_frames()
    with Upscaler(backend, lanes=3) as upscaler:
        assert len(list(upscaler.stream_on_device(iter(frames), SPEC))) == FRAMES
