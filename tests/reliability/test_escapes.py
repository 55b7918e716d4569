"""No upload makes the service look at another file or open a connection.

The decode child also leaves the network (``server.media.sandbox``). In ``escape_counts`` its parser
runs without that, in forks that can reach the canary: what is tested is that it does not even try.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.corpus import hostile
from tests.reliability.escape_counts import NAMES
from tests.reliability.figures import record

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def alone() -> list[str]:
    """A command that gives another one a network of its own; empty where that is not possible."""
    prefix = ["unshare", "-rn"]
    return [] if subprocess.run([*prefix, "true"], capture_output=True).returncode else prefix


@pytest.mark.timeout(300)
def test_no_hostile_container_reaches_a_file_or_an_address(
    tmp_path: Path, alone: list[str]
) -> None:
    """Without a network of our own, others' packets are on loopback and ours are not counted."""
    command = [*alone, sys.executable, "-m", "tests.reliability.escape_counts", str(tmp_path)]
    answer = subprocess.run(
        command + ["alone"] * bool(alone), stdout=subprocess.PIPE, cwd=ROOT, check=True
    )
    facts: dict[str, dict[str, Any]] = json.loads(answer.stdout)
    found, control = facts["hostile"], facts["control"]
    record("escapes", _told(found))
    record("escapes of the control", _told(control))
    assert found["decodes"] >= len(NAMES) * (len(hostile.hostile()) + 1)
    assert (found["packets"] or 0, found["connections"]) == (0, 0)
    assert (found["looks"], found["stray_files"]) == (0, 0)
    # The positive control: without our way of opening, all of it happens.
    assert control["connections"] >= 1
    assert control["looks"] >= 1
    assert control["stray_files"] == 1
    if alone:
        assert control["packets"] >= 4


def _told(facts: dict[str, Any]) -> str:
    packets = "not counted" if facts["packets"] is None else facts["packets"]
    seen = (packets, facts["connections"], facts["looks"], facts["stray_files"])
    return f"{' / '.join(map(str, seen))} in {facts['decodes']} decodes"


PROGRAM = """
import json, sys
from pathlib import Path
from server.media.decode import DecodeOptions, Decoder
from server.media.errors import MediaError
from server.media.limits import Limits
from server.picture_decoder import PictureDecoder
from tests.corpus.hostile import hostile, playlist_in_avi
folder = Path(sys.argv[1])
refused = 0
for name in ("hls http", "m3u8 behind a movie's magic", "m3u8 behind a free box"):
    (folder / "upload").write_bytes(hostile()[name])
    try:
        Decoder(folder / "upload", DecodeOptions(Limits())).close()
    except MediaError:
        refused += 1
(folder / "upload").write_bytes(playlist_in_avi())
with Decoder(folder / "upload", DecodeOptions(Limits())) as decoder:
    frames = sum(1 for _ in decoder)
print(json.dumps({"refused": refused, "frames": frames, "sandbox": decoder.info.sandbox}))
"""


def test_the_real_child_says_what_it_gave_up_and_works_without_a_network(
    tmp_path: Path, alone: list[str]
) -> None:
    answer = subprocess.run(
        [*alone, sys.executable, "-c", PROGRAM, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    facts = json.loads(answer.stdout)
    assert (facts["refused"], facts["frames"]) == (3, 3)
    assert facts["sandbox"]["privileges"]
    if alone:  # else the child must say that it keeps the network
        assert facts["sandbox"]["network"]
