"""Compiles the CPU kernels in engine/kernels with whatever C compiler there is.

A plain shared library without Python's headers, one object per x86-64 level, loaded with ctypes.
Where there is no C compiler, pip is asked for the `ziglang` wheel, which brings one. Where that
fails too, everything else installs and works: `auto` then runs on ONNX Runtime.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import shlex
import shutil
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import CCompilerError

import distutils.core  # isort: skip  (setuptools brings it on Python 3.12 and later)

KERNELS = Path("engine", "kernels")
FLAGS = ["-std=gnu11", "-O3", "-fPIC", "-Wall", "-Wextra", "-Wno-psabi"]
LEVELS = ("v2", "v3", "v4")


def compiler() -> list[str]:
    """The command of a C compiler: $CC, then the usual names, then the one inside ziglang."""
    if os.environ.get("CC"):
        return shlex.split(os.environ["CC"])
    for name in ("cc", "gcc", "clang"):
        if shutil.which(name):
            return [name]
    if importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "cc"]
    return []


def sources_digest() -> str:
    """What names the sources: the same as in engine/backends/winograd_library.py."""
    digest = hashlib.sha256()
    for path in sorted(KERNELS.glob("*.[ch]")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


class BuildKernels(build_ext):
    """Compiles the library to where setuptools expects an extension module."""

    def get_ext_filename(self, fullname: str) -> str:
        """One name for every Python: the library does not depend on it."""
        return str(Path(*fullname.split("."))) + ".so"

    def build_extension(self, extension: Extension) -> None:
        """Raises an error of setuptools, of which an optional extension makes a warning."""
        command = compiler()
        if not command:
            raise CCompilerError("no C compiler was found: --backend winograd will not be there")
        target = Path(self.get_ext_fullpath(extension.name))
        work = Path(self.build_temp)
        target.parent.mkdir(parents=True, exist_ok=True)
        work.mkdir(parents=True, exist_ok=True)
        objects = []
        if platform.machine().lower() in ("x86_64", "amd64"):
            for level in LEVELS:
                march = f"x86_64_{level}" if "ziglang" in command else f"x86-64-{level}"
                objects.append(self._tiles(command, work, level, [f"-march={march}"]))
        else:
            objects.append(self._tiles(command, work, "base", []))
        name = f'-DSR_SOURCES="{sources_digest()}"'
        source = str(KERNELS / "winograd.c")
        self.spawn(
            [*command, *FLAGS, name, "-shared", "-pthread", source, *objects, "-o", str(target)]
        )

    def _tiles(self, command: list[str], work: Path, level: str, flags: list[str]) -> str:
        made = str(work / f"tiles_{level}.o")
        define = f"-DSR_WORK=sr_work_{level}"
        self.spawn([*command, *FLAGS, *flags, define, "-c", str(KERNELS / "tiles.c"), "-o", made])
        return made


class AnyPython(bdist_wheel):
    """One wheel per platform, not one per Python."""

    def get_tag(self) -> tuple[str, str, str]:
        """The tag of the wheel's name."""
        return "py3", "none", super().get_tag()[2]


def build_requirements() -> list[str]:
    """A compiler, if pip is just asking what the build needs and there is none."""
    asking = distutils.core.Distribution.__module__ == "setuptools.build_meta"
    return ["ziglang"] if asking and not compiler() else []


setup(
    ext_modules=[
        Extension(
            "engine.kernels.winograd",
            sources=[str(KERNELS / "winograd.c"), str(KERNELS / "tiles.c")],
            depends=[str(KERNELS / "winograd.h")],
            optional=True,
        )
    ],
    cmdclass={"build_ext": BuildKernels, "bdist_wheel": AnyPython},
    setup_requires=build_requirements(),
)
