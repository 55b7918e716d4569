"""An encoder that asks for real-time priority, as SVT-AV1 does for root, does not get it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]

PROGRAM = """
import ctypes, json, os, sys
from fractions import Fraction
from pathlib import Path

import av

from server.media.sandbox import isolate

def capabilities():
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines if line.startswith("Cap"))
    return {name: int(fields[name], 16) >> 23 & 1 for name in ("CapInh", "CapPrm", "CapEff")}

def policies():
    return {os.sched_getscheduler(int(task)) for task in os.listdir("/proc/self/task")}

if sys.argv[1] == "namespace":
    ctypes.CDLL(None).unshare(0x10000000)  # comes with every capability, inside of it
before = capabilities()
isolate()
facts = {"before": before, "after": capabilities(), "policies": [], "threads": 0, "bytes": 0}
if sys.argv[1] == "encode":
    context = av.CodecContext.create("libsvtav1", "w")
    context.width, context.height, context.pix_fmt = 64, 64, "yuv420p"
    context.time_base, context.framerate = Fraction(1, 25), Fraction(25)
    context.options = {"preset": "11"}
    frame = av.VideoFrame(64, 64, "yuv420p")
    seen = policies()
    for number in range(8):
        frame.pts = number
        facts["bytes"] += sum(packet.size for packet in context.encode(frame))
        seen |= policies()
        facts["threads"] = max(facts["threads"], len(os.listdir("/proc/self/task")))
    facts["bytes"] += sum(packet.size for packet in context.encode(None))
    facts["policies"] = sorted(seen | policies())
print(json.dumps(facts))
"""


def facts_after(what: str) -> dict[str, Any]:
    answer = subprocess.run(
        [sys.executable, "-c", PROGRAM, what],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        check=True,
    )
    facts: dict[str, Any] = json.loads(answer.stdout)
    return facts


@pytest.mark.parametrize("what", ["plain", "namespace"])
def test_an_isolated_process_may_not_raise_its_priority(what: str) -> None:
    """As the user who runs the tests, and as one who has every capability."""
    assert facts_after(what)["after"] == {"CapInh": 0, "CapPrm": 0, "CapEff": 0}


def test_av1_is_encoded_with_ordinary_priority_in_every_thread() -> None:
    facts = facts_after("encode")
    assert facts["bytes"] > 0
    assert facts["threads"] > 1
    assert facts["policies"] == [os.SCHED_OTHER]
    assert facts["after"] == {"CapInh": 0, "CapPrm": 0, "CapEff": 0}
