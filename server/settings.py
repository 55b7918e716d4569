"""Every setting of the server: read once from ``SR_…`` variables, then frozen.

Knows names, types and defaults; what a limit does when it is passed is decided where it is used.
"""

from __future__ import annotations

import ipaddress
import os
from functools import cached_property
from pathlib import Path
from typing import Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

BackendName = Literal["auto", "winograd", "onnxruntime", "tensorrt", "tensorrt_rtx", "nearest"]
CPU_BACKEND = "cpu"
"""In the configuration of a worker only: what ``auto`` takes where no GPU runs."""
MIB = 1024 * 1024
GIB = 1024 * MIB


class SettingsError(Exception):
    """A setting cannot be used; the message is one sentence that names it."""


def user_data_dir() -> Path:
    """Where jobs live when ``SR_DATA_DIR`` is not set (XDG base directory)."""
    root = os.environ.get("XDG_DATA_HOME")
    return (Path(root) if root else Path.home() / ".local" / "share") / "sr-server"


class Limits(BaseSettings):
    """What one caller may ask for. Each field is an ``SR_…`` variable and is shown at ``/limits``.

    Sizes are bytes, times seconds, sides pixels. A value above its limit gets the status code of
    the field's description.
    """

    model_config = SettingsConfigDict(env_prefix="SR_", frozen=True, use_attribute_docstrings=True)

    max_picture_bytes: PositiveInt = 32 * MIB
    """picture body; 413"""
    max_picture_pixels: PositiveInt = 4_194_304
    """pixels of a picture; 422"""
    max_picture_side: PositiveInt = 4096
    """longest side of a picture; 422"""
    max_video_bytes: PositiveInt = 512 * MIB
    """body of a streamed video; 413"""
    max_job_bytes: PositiveInt = 4 * GIB
    """body of a job; 413"""
    max_video_pixels: PositiveInt = 2_073_600
    """pixels of a frame; 422"""
    max_video_side: PositiveInt = 2048
    """longest side of a frame; 422"""
    max_video_frames: PositiveInt = 3_600
    """frames of a streamed video; 422"""
    max_video_seconds: PositiveFloat = 120
    """length of a streamed video; 422"""
    max_job_frames: PositiveInt = 216_000
    """frames of a job; 422"""
    max_job_seconds: PositiveFloat = 7200
    """length of a job's video; 422"""
    max_fps: PositiveFloat = 240
    """frames per second of a video; 422"""
    max_streams: PositiveInt = 16
    """streams inside a container; 422"""
    picture_queue: NonNegativeInt = 32
    """pictures that wait for a worker; 503"""
    video_queue: NonNegativeInt = 2
    """streamed videos that wait for a worker; 503"""
    job_queue: PositiveInt = 1000
    """unfinished jobs of everybody; 503"""
    jobs_per_key: PositiveInt = 20
    """unfinished jobs of one caller; 429"""
    requests_per_second: PositiveFloat = 10
    """of one caller, when keyed; 429"""
    request_burst: PositiveInt = 20
    """requests at once of one caller; 429"""
    jobs_per_hour: PositiveInt = 60
    """new jobs of one caller, when keyed; 429"""
    max_live_streams: PositiveInt = 8
    """live streams open at once; 503"""
    live_streams_per_key: PositiveInt = 4
    """live streams of one caller; 429"""
    max_live_pixels: PositiveInt = 1_048_576
    """pixels of a live frame; 422"""
    max_live_fps: PositiveFloat = 120
    """frames a second of a live stream; more wait, or are dropped"""
    live_idle_seconds: PositiveFloat = 30
    """a live stream without a frame; 408"""
    live_seconds: PositiveFloat = 3600
    """length of a live stream; 504"""
    header_seconds: PositiveFloat = 10
    """to send the request's headers; closed"""
    body_idle_seconds: PositiveFloat = 30
    """without a byte of a body; 408"""
    body_bytes_per_second: NonNegativeInt = 64 * 1024
    """slowest body; 408"""
    queue_seconds: PositiveFloat = 30
    """to wait for a worker; 503"""
    picture_seconds: PositiveFloat = 60
    """to work on a picture; 504"""
    stall_seconds: PositiveFloat = 60
    """a video without a new frame; 504"""
    slow_reader_seconds: PositiveFloat = 60
    """a reader that takes nothing; closed"""
    stop_seconds: NonNegativeFloat = 30
    """to finish requests after SIGTERM"""
    disk_keep_bytes: NonNegativeInt = 2 * GIB
    """disk left free (at most 5 %); 507"""
    disk_quota_bytes: PositiveInt = 20 * GIB
    """kept jobs of one caller; 507"""
    result_ttl_seconds: PositiveFloat = 86_400
    """a finished job is kept"""
    playback_keep_seconds: PositiveFloat = 900
    """a job's playlist is kept after somebody asked for it"""
    link_seconds: PositiveInt = 3600
    """a signed link is valid"""


class Settings(BaseSettings):
    """How this server runs. Command-line options of ``sr-server`` win over the environment."""

    model_config = SettingsConfigDict(env_prefix="SR_", frozen=True)

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    """0 takes a free one."""
    backend: BackendName = "auto"
    model: str = "auto"
    """``fast``, ``balanced``, ``quality``, ``auto`` or the path of a weights file."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads of one worker's engine; by default the engine decides."""
    workers: int = Field(default=0, ge=0, le=64)
    """Engine workers; 0 is one per device and one more, so that pictures never wait for a video."""
    recycle_tasks: int = Field(default=10_000, ge=1)
    """A worker is replaced after this many pictures, so that no leak lives long; a video, a job or
    a live stream counts as 50."""
    cluster: str | None = None
    """Jobs run on this Ray cluster: ``auto`` or ``HOST:PORT`` of its head."""
    segment_seconds: float = Field(default=10, gt=0)
    """A job is saved at least this often, in seconds of its video; after 2, 4 and 8 at first."""
    data_dir: Path = Field(default_factory=user_data_dir)
    cache_dir: Path | None = None
    api_keys_file: Path | None = None
    insecure: bool = False
    """True lets everybody in on a public address."""
    allowed_hosts: tuple[str, ...] = ()
    """Further ``Host`` names to answer to; JSON list, e.g. ``["sr.example.org"]``."""
    calibrate: str = Field(default="1024x1024", pattern=r"^(off|[1-9]\d{1,3}x[1-9]\d{1,3})$")
    """Frame size of the measurement at start, or ``off``."""
    require_fps: float = Field(default=0, ge=0)
    """Not ready while the calibration measured less than this; 0 asks for nothing."""
    limits: Limits = Field(default_factory=Limits)

    @model_validator(mode="after")
    def _fps_must_be_measured(self) -> Self:
        if self.require_fps and self.calibrate == "off":
            raise ValueError("SR_REQUIRE_FPS needs a measurement: do not set SR_CALIBRATE=off")
        return self

    @cached_property  # every request asks
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def calibration_size(self) -> tuple[int, int] | None:
        """(height, width) of the frames of the calibration; None when it is off."""
        if self.calibrate == "off":
            return None
        width, height = self.calibrate.split("x")
        return int(height), int(width)


def load_settings(**overrides: object) -> Settings:
    """Settings from the environment; ``overrides`` that are not None win.

    Raises:
        SettingsError: a value cannot be used; the message names the variable.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(**given)  # type: ignore[arg-type]  # pydantic checks each value
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:
            raise SettingsError(f"{first['msg'].removeprefix('Value error, ')}.") from None
        name = "SR_" + str(first["loc"][-1] if first["loc"] else "").upper().removeprefix("SR_")
        what = f"{name}={first['input']!r}"
        raise SettingsError(f"{what} cannot be used: {first['msg'].lower()}.") from None
    except ValueError as error:  # a JSON variable that is not JSON
        raise SettingsError(f"a setting cannot be read: {error}.") from None
