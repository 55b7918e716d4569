"""Every setting of the server: read once from ``SR_…`` variables, then frozen.

Knows names, types and defaults; what a limit does when it is passed is decided where it is used.
"""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

BackendName = Literal["auto", "onnxruntime", "tensorrt", "tensorrt_rtx", "nearest"]
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

    model_config = SettingsConfigDict(env_prefix="SR_", frozen=True)

    max_picture_bytes: int = Field(32 * MIB, ge=1, description="picture body; 413")
    max_picture_pixels: int = Field(4_194_304, ge=1, description="pixels of a picture; 422")
    max_picture_side: int = Field(4096, ge=1, description="longest side of a picture; 422")
    max_video_bytes: int = Field(512 * MIB, ge=1, description="body of a streamed video; 413")
    max_job_bytes: int = Field(4 * GIB, ge=1, description="body of a job; 413")
    max_video_pixels: int = Field(2_073_600, ge=1, description="pixels of a frame; 422")
    max_video_side: int = Field(2048, ge=1, description="longest side of a frame; 422")
    max_video_frames: int = Field(3_600, ge=1, description="frames of a streamed video; 422")
    max_video_seconds: float = Field(120, gt=0, description="length of a streamed video; 422")
    max_job_frames: int = Field(216_000, ge=1, description="frames of a job; 422")
    max_job_seconds: float = Field(7200, gt=0, description="length of a job's video; 422")
    max_fps: float = Field(240, gt=0, description="frames per second of a video; 422")
    max_streams: int = Field(16, ge=1, description="streams inside a container; 422")
    picture_queue: int = Field(32, ge=0, description="pictures that wait for a worker; 503")
    video_queue: int = Field(2, ge=0, description="streamed videos that wait for a worker; 503")
    job_queue: int = Field(1000, ge=1, description="unfinished jobs of everybody; 503")
    jobs_per_key: int = Field(20, ge=1, description="unfinished jobs of one caller; 429")
    requests_per_second: float = Field(10, gt=0, description="of one caller, when keyed; 429")
    request_burst: int = Field(20, ge=1, description="requests at once of one caller; 429")
    jobs_per_hour: int = Field(60, ge=1, description="new jobs of one caller, when keyed; 429")
    header_seconds: float = Field(10, gt=0, description="to send the request's headers; closed")
    body_idle_seconds: float = Field(30, gt=0, description="without a byte of a body; 408")
    body_bytes_per_second: int = Field(64 * 1024, ge=0, description="slowest body; 408")
    queue_seconds: float = Field(30, gt=0, description="to wait for a worker; 503")
    picture_seconds: float = Field(60, gt=0, description="to work on a picture; 504")
    stall_seconds: float = Field(60, gt=0, description="a video without a new frame; 504")
    slow_reader_seconds: float = Field(60, gt=0, description="a reader that takes nothing; closed")
    stop_seconds: float = Field(30, ge=0, description="to finish requests after SIGTERM")
    disk_keep_bytes: int = Field(2 * GIB, ge=0, description="disk left free (at most 5 %); 507")
    disk_quota_bytes: int = Field(20 * GIB, ge=1, description="kept jobs of one caller; 507")
    result_ttl_seconds: float = Field(86_400, gt=0, description="a finished job is kept")
    link_seconds: int = Field(3600, ge=1, description="a signed link is valid")


class Settings(BaseSettings):
    """How this server runs. Command-line options of ``sr-server`` win over the environment."""

    model_config = SettingsConfigDict(env_prefix="SR_", frozen=True)

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    """0 takes a free one."""
    backend: BackendName = "auto"
    model: str = "auto"
    """``fast``, ``balanced``, ``quality``, ``auto`` or the path of a weights file."""
    threads: int | None = Field(None, ge=1)
    """CPU threads of one worker's engine; by default the engine decides."""
    workers: int = Field(0, ge=0, le=64)
    """Engine workers; 0 is one per device and one more, so that pictures never wait for a video."""
    recycle_tasks: int = Field(200, ge=1)
    """A worker is replaced after this many tasks, so that no leak lives long."""
    data_dir: Path = Field(default_factory=user_data_dir)
    cache_dir: Path | None = None
    api_keys_file: Path | None = None
    insecure: bool = False
    """True lets everybody in on a public address."""
    allowed_hosts: tuple[str, ...] = ()
    """Further ``Host`` names to answer to; JSON list, e.g. ``["sr.example.org"]``."""
    calibrate: str = Field("1024x1024", pattern=r"^(off|[1-9]\d{1,3}x[1-9]\d{1,3})$")
    """Frame size of the measurement at start, or ``off``."""
    require_fps: float = Field(0, ge=0)
    """Not ready while the calibration measured less than this; 0 asks for nothing."""
    limits: Limits = Field(default_factory=Limits)

    @property
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
        name = "SR_" + str(first["loc"][-1] if first["loc"] else "").upper().removeprefix("SR_")
        what = f"{name}={first['input']!r}"
        raise SettingsError(f"{what} cannot be used: {first['msg'].lower()}.") from None
    except ValueError as error:  # a JSON variable that is not JSON
        raise SettingsError(f"a setting cannot be read: {error}.") from None
