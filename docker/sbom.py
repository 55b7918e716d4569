"""Writes docker/sbom.cdx.json: what is in the serving image, as a CycloneDX bill of materials.

The packages come from docker/requirements.txt. PyAV's wheel carries libraries that no scanner of
packages sees (FFmpeg, x264, x265, …): they are read out of the very wheel that the lock file names.
Run it after docker/lock.py, on x86-64 Linux:  python docker/sbom.py
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LOCK = Path(__file__).with_name("requirements.txt")
BILL = Path(__file__).with_name("sbom.cdx.json")
IMAGE_PYTHON = "3.12"
_FFMPEG = ("avcodec", "avdevice", "avfilter", "avformat", "avutil", "swresample", "swscale")
_LICENSES = {
    "x264": "GPL-2.0-or-later",
    "x265": "GPL-2.0-or-later",
    "FFmpeg": "GPL-2.0-or-later",  # because it is built with those two
    "SvtAv1Enc": "BSD-3-Clause-Clear",
    "dav1d": "BSD-2-Clause",
    "vpx": "BSD-3-Clause",
    "opus": "BSD-3-Clause",
    "mp3lame": "LGPL-2.0-or-later",
    "gnutls": "LGPL-2.1-or-later",
}
_INSIDE = {
    "avutil": rb"FFmpeg version (\d[\w.-]*)",
    "opus": rb"libopus (\d[\w.-]*)",
    "vpx": rb"WebM Project VP9 Encoder v(\d[\w.-]*)",
    "gnutls": rb"Enabled GnuTLS (\d[\w.-]*) logging",
}
"""What some libraries say of themselves; the others have only the version of their interface."""
_NAME = re.compile(r"lib([A-Za-z0-9+_-]+?)-[0-9a-f]{8}\.so\.([\d.]+)$")


def bundled(wheel: zipfile.ZipFile) -> Iterator[dict[str, Any]]:
    """A component for each shared library that ``wheel`` carries."""
    for path in sorted(wheel.namelist()):
        match = _NAME.search(path)
        if match is None:
            continue
        library, version = match[1], match[2]
        said = re.search(_INSIDE.get(library, rb"$^"), wheel.read(path))
        release = said[1].decode() if said else ""
        yield _component(library, release or version, Path(path).name, exact=bool(release))
        if library == "avutil":
            yield _component("FFmpeg", release, Path(path).name, exact=True)


def _component(library: str, version: str, file: str, *, exact: bool) -> dict[str, Any]:
    license_id = _LICENSES.get("FFmpeg" if library in _FFMPEG else library)
    found: dict[str, Any] = {
        "type": "library",
        "bom-ref": f"bundled:{library}",
        "name": library,
        "version": version,
        "properties": [
            {"name": "sr:bundled_in", "value": "av"},
            {"name": "sr:file", "value": file},
            {"name": "sr:version_is", "value": "release" if exact else "interface"},
        ],
    }
    if license_id:
        found["licenses"] = [{"license": {"id": license_id}}]
    if library == "FFmpeg":
        found["cpe"] = f"cpe:2.3:a:ffmpeg:ffmpeg:{version}:*:*:*:*:*:*:*"
    return found


def download_av(folder: Path) -> Path:
    """The wheel of PyAV that the lock file names, with the hash that it names."""
    line = next(line for line in LOCK.read_text().splitlines() if line.startswith("av=="))
    wanted = folder / "av.txt"
    wanted.write_text(line + "\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    command += ["--only-binary", ":all:", "--python-version", IMAGE_PYTHON, "--dest", str(folder)]
    subprocess.run([*command, "--requirement", str(wanted)], check=True)
    return next(folder.glob("av-*.whl"))


def packages() -> dict[str, Any]:
    """The bill of the lock file alone, as cyclonedx-py makes it; the same every time."""
    command = [sys.executable, "-m", "cyclonedx_py", "requirements", str(LOCK)]
    command += ["--output-reproducible", "--output-format", "JSON"]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    bill: dict[str, Any] = json.loads(answer)
    return bill


def main() -> None:
    """Writes the bill."""
    bill = packages()
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(download_av(Path(folder))) as av:
        bill["components"] += list(bundled(av))
    BILL.write_text(json.dumps(bill, indent=1, sort_keys=True) + "\n")
    print(f"{len(bill['components'])} components")


if __name__ == "__main__":
    main()
