"""Every limit has a test that asks for less than it, for exactly it, and for more."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from server.settings import Limits

Cases = tuple[Any, ...]

VIDEO = "test_app_limits.test_the_limits_of_a_streamed_video"
JOB = "test_app_limits.test_the_frame_and_time_limits_of_jobs"
UNFINISHED = "test_job_limits.test_unfinished_jobs_are_counted"

COUNTED: dict[str, tuple[str, Cases]] = {
    "max_picture_bytes": (
        "test_app.test_the_byte_limit_of_pictures",
        ((-1, 200), (0, 200), (1, 413)),
    ),
    "max_picture_pixels": (
        "test_app.test_the_pixel_and_side_limits",
        ((46, 89, 200), (63, 65, 200), (64, 64, 422)),
    ),
    "max_picture_side": (
        "test_app.test_the_pixel_and_side_limits",
        ((99, 2, 200), (100, 2, 200), (101, 2, 422)),
    ),
    "max_video_bytes": (
        "test_limits.test_the_bytes_of_a_streamed_video",
        ((999, False), (1000, False), (1001, True)),
    ),
    "max_job_bytes": (
        "test_app_limits.test_the_byte_limit_of_jobs",
        ((19999, 202), (20000, 202), (20001, 413)),
    ),
    "max_video_pixels": (
        VIDEO,
        (
            ({"width": 33, "height": 31}, None),
            ({"width": 32, "height": 32}, None),
            ({"width": 41, "height": 25}, "too_many_pixels"),
        ),
    ),
    "max_video_side": (
        VIDEO,
        (
            ({"width": 63, "height": 8}, None),
            ({"width": 64, "height": 8}, None),
            ({"width": 65, "height": 8}, "frame_too_large"),
        ),
    ),
    "max_video_frames": (
        VIDEO,
        (({"frames": 9}, None), ({"frames": 10}, None), ({"frames": 11}, "too_many_frames")),
    ),
    "max_video_seconds": (
        VIDEO,
        (
            ({"frames": 4, "fps": 10}, None),
            ({"frames": 5, "fps": 10}, None),
            ({"frames": 6, "fps": 10}, "too_long"),
        ),
    ),
    "max_job_frames": (JOB, ((11, 50, None), (12, 50, None), (13, 50, "too_many_frames"))),
    "max_job_seconds": (JOB, ((9, 10, None), (10, 10, None), (11, 10, "too_long"))),
    "max_fps": (VIDEO, (({"fps": 59}, None), ({"fps": 60}, None), ({"fps": 61}, "too_many_fps"))),
    "max_streams": (
        VIDEO,
        (({"streams": 1}, None), ({"streams": 2}, None), ({"streams": 3}, "too_many_streams")),
    ),
    "job_queue": (UNFINISHED, ((0, True), (1, True), (2, False))),
    "jobs_per_key": (UNFINISHED, ((0, True), (1, True), (2, False))),
    "disk_quota_bytes": (
        "test_job_limits.test_the_share_of_the_disk_of_one_caller",
        ((99, 202), (100, 202), (101, 507)),
    ),
    "max_live_pixels": (
        "test_live_server.test_the_limit_of_pixels",
        ((33, 31, True), (32, 32, True), (41, 25, False)),
    ),
    "max_live_fps": (
        "test_live_limits.test_frames_over_the_limit_a_second_are_dropped_or_made_to_wait",
        ((29, 0), (30, 0), (31, 1)),
    ),
}
"""A test and three of its cases: the limit less one (or as little less as there is), it, and one
more."""

IN_ONE_GO: dict[str, tuple[str, ...]] = {
    "picture_queue": ("test_limits.test_a_queue_takes_its_length_and_not_one_more",),
    "video_queue": ("test_limits.test_a_queue_takes_its_length_and_not_one_more",),
    "request_burst": ("test_app_limits.test_a_caller_gets_its_burst_and_then_its_rate",),
    "requests_per_second": ("test_app_limits.test_a_caller_gets_its_burst_and_then_its_rate",),
    "jobs_per_hour": ("test_job_limits.test_new_jobs_an_hour_are_counted_for_each_key",),
    "max_live_streams": ("test_live_server.test_the_limits_of_streams_of_one_caller_and_of_all",),
    "live_streams_per_key": (
        "test_live_server.test_the_limits_of_streams_of_one_caller_and_of_all",
    ),
    "disk_keep_bytes": ("test_app_limits.test_the_disk_keeps_its_reserve",),
    "live_seconds": (
        "test_live_limits.test_a_stream_may_last_its_time",
        "test_live_limits.test_a_stream_may_not_last_longer",
    ),
    "body_bytes_per_second": ("test_limits.test_a_body_that_drips_is_given_up",),
    "result_ttl_seconds": ("test_limits.test_a_finished_job_is_kept_for_its_time_and_no_longer",),
    "link_seconds": (
        "test_limits.test_a_link_lasts_as_long_as_asked_or_as_the_server_says",
        "test_app_limits.test_a_link_is_for_one_job_until_it_expires",
    ),
}
"""Tests that go from below the limit to above it by themselves."""

ONLY_OVER: dict[str, str] = {
    "live_idle_seconds": "test_live_server.test_a_stream_without_frames_is_ended",
    "header_seconds": "test_app.test_silent_sockets_are_closed_and_slow_bodies_get_408",
    "body_idle_seconds": "test_app.test_silent_sockets_are_closed_and_slow_bodies_get_408",
    "queue_seconds": "test_limits.test_who_waits_too_long_for_a_worker_is_told_to_come_back",
    "picture_seconds": "test_limits.test_a_picture_that_takes_too_long_is_given_up",
    "stall_seconds": "test_workers.test_a_task_that_hangs_is_killed_in_time",
    "slow_reader_seconds": "test_limits.test_a_reader_that_takes_nothing_is_cut_off",
    "stop_seconds": "test_app_start.test_work_that_never_ends_is_given_the_grace_time_and_no_more",
    "playback_keep_seconds": (
        "test_playback.test_a_signed_link_opens_the_playlist_and_all_that_it_names"
    ),
}
"""Patience with somebody who does nothing: every other test stays below it."""


def test_each_limit_is_in_one_table() -> None:
    names = [*COUNTED, *IN_ONE_GO, *ONLY_OVER]
    assert sorted(names) == sorted(Limits.model_fields)


@pytest.mark.parametrize("limit", COUNTED)
def test_a_counted_limit_is_tried_below_at_and_above(limit: str) -> None:
    name, cases = COUNTED[limit]
    assert len(cases) == 3
    marks = getattr(_test(name), "pytestmark", [])
    tried = [case for mark in marks if mark.name == "parametrize" for case in mark.args[1]]
    assert [case for case in cases if case not in tried] == []


def test_the_other_tests_are_there() -> None:
    names = [name for several in IN_ONE_GO.values() for name in several]
    for name in (*names, *ONLY_OVER.values()):
        assert callable(_test(name))


def _test(name: str) -> Any:
    module, _, function = name.partition(".")
    return getattr(importlib.import_module(f"tests.server.{module}"), function)
