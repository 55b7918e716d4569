"""Every malformed file of the corpus, and many damaged pictures, posted to a real server."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.corpus.bad_videos import flipped
from tests.corpus.outcomes import all_items
from tests.corpus.pictures import good_pictures
from tests.reliability.abuse import EXPECTED, answer, requests
from tests.server.live import LiveServer, png, wait_until

FAMILIES = (
    "not media",
    "hostile",
    "broken picture",
    "cut video",
    "flipped video",
    "lying video",
)
"""Of the corpus; what is odd but good is not among them."""
CUTS, FLIPS = 20, 40
"""Of a picture in each format."""


@dataclass
class Malformed:
    """What became of them."""

    files: int = 0
    requests: int = 0
    """Sent byte by byte, because they break HTTP."""
    statuses: dict[str, int] = field(default_factory=dict)
    """``cut short``: a 200 whose body ended abnormally, as it must when damage comes late."""
    bad: list[str] = field(default_factory=list)
    """Answers of 500 and above, none at all, and others than are written down."""

    def note(self, name: str, status: str, is_good: bool) -> None:
        self.statuses[status] = self.statuses.get(status, 0) + 1
        if not is_good:
            self.bad.append(f"{name}: {status}")


def files(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content, no two alike; ``folder`` is where they are made."""
    seen: set[bytes] = set()
    for name, content in _all(folder):
        if content not in seen:
            seen.add(content)
            yield name, content


def _all(folder: Path) -> Iterator[tuple[str, bytes]]:
    for item in all_items():
        if item.name.partition("/")[0] in FAMILIES:
            place = folder / "upload"
            item.make(place)
            yield item.name, place.read_bytes()
    for form, content in good_pictures().items():
        for number in range(1, CUTS):
            end = len(content) * number // CUTS
            yield f"cut picture/{form} at {end} bytes", content[:end]
        for seed in range(FLIPS):
            bits = 1 << seed % 7
            yield f"flipped picture/{form} {seed}", flipped(content, seed, bits)


def post_files(server: LiveServer, contents: Iterator[tuple[str, bytes]]) -> Malformed:
    """Posts each as it is; the server must be well after all of it."""
    found = Malformed()
    with server.client() as client:
        for name, content in contents:
            status = _status(client, content)
            found.files += 1
            found.note(name, status, status[0] == "4" or status in ("200", "cut short"))
        assert client.post("/upscale", content=png()).status_code == 200
    spool = server.data_dir / "spool"
    wait_until(lambda: not list(spool.iterdir()), "an empty spool")
    return found


def send_requests(server: LiveServer, found: Malformed) -> None:
    """Adds requests that break HTTP; each must come to the end that is written down for it."""
    for name, request in requests(png(8, 8)).items():
        status = answer(server.url, request)
        found.requests += 1
        found.note(name, status, status in EXPECTED[name])


def _status(client: httpx.Client, content: bytes) -> str:
    status = "no answer"
    try:
        with client.stream("POST", "/upscale", content=io.BytesIO(content)) as response:
            status = str(response.status_code)
            for _ in response.iter_bytes():
                pass
    except httpx.RemoteProtocolError:
        return "cut short" if status == "200" else status
    return status
