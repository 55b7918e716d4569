"""A folder of pictures as training crops: decoded once, kept as uint8, cut on the fly.

Either a folder of high-resolution (HR) pictures, from which the low resolution (LR) is made by
``trainer.bicubic``, or a folder with two sub-folders ``hr`` and ``lr`` (or ``HR`` and ``LRbicx4``
and the like) of equal file stems (or paths, where stems repeat), each file with its counterpart.
Whole pictures are held out for validation; files cut from one picture (as a ``manifest.csv``
beside them says) stay on one side.
"""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from engine.contract import SCALE
from trainer.bicubic import Picture, crop_to_multiple, downscale
from trainer.errors import DataError

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
SIDE = re.compile(r"(?P<side>hr|lr)([-_]?bic(ubic)?)?([-_]?x?4)?", re.IGNORECASE)
"""Names of the two folders of pairs: ``hr``, ``LR``, ``LRbicx4``, ``lr_x4`` ..."""
SMALLER = "remove it (fit and ablate also take a smaller --patch)"
Progress = Callable[[Iterable[Path], int], Iterable[Path]]


@dataclass(frozen=True, slots=True)
class Pair:
    """One picture: ``hr`` (3, 4H, 4W) and ``lr`` (3, H, W), uint8 tensors, and its file name."""

    name: str
    hr: Tensor
    lr: Tensor


@dataclass(frozen=True, slots=True)
class PictureSet:
    """Training and validation pairs of one folder, and the digest that names them."""

    train: list[Pair]
    validation: list[Pair]
    sha256: str

    def to(self, device: torch.device) -> PictureSet:
        """The same set on ``device``."""
        return PictureSet(_move(self.train, device), _move(self.validation, device), self.sha256)


def _move(pairs: list[Pair], device: torch.device) -> list[Pair]:
    return [Pair(p.name, p.hr.to(device), p.lr.to(device)) for p in pairs]


def read_picture(path: Path) -> Picture:
    """(H, W, 3) uint8 RGB. Raises DataError that names the file when it cannot be read."""
    try:
        with Image.open(path) as picture:
            if picture.mode[0] in "IF":
                # Pillow would clip these to white rather than scale them.
                raise DataError(f"{path} has more than 8 bits a sample; save it as 8-bit RGB")
            return np.asarray(picture.convert("RGB"))
    except (
        OSError,
        UnidentifiedImageError,
        ValueError,
        SyntaxError,
        Image.DecompressionBombError,
    ) as error:
        raise DataError(
            f"{path} cannot be read as a picture ({error}); remove it or save it again"
        ) from error


def list_pictures(folder: Path) -> list[Path]:
    """The picture files below ``folder``, sorted. Raises DataError when there are none."""
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; give a folder of pictures with --data")
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not found:
        raise DataError(
            f"{folder} has no pictures ({', '.join(sorted(SUFFIXES))}); put some there or give "
            "another folder with --data"
        )
    return found


def _tensor(picture: Picture) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))


def load_pair(
    hr_path: Path, lr_path: Path | None, smallest_lr: int, remedy: str = "remove it"
) -> Pair:
    """One pair from disk; LR is made from HR when ``lr_path`` is None.

    Args:
        remedy: what the user can do about a picture that is too small, for the message.

    Raises:
        DataError: unreadable, smaller than ``smallest_lr`` LR pixels, or not 4:1.
    """
    hr = crop_to_multiple(read_picture(hr_path), SCALE)
    if min(hr.shape[:2]) < smallest_lr * SCALE:
        raise DataError(
            f"{hr_path} is {hr.shape[1]}x{hr.shape[0]}, smaller than a crop of "
            f"{smallest_lr * SCALE}; {remedy}"
        )
    lr = downscale(hr, SCALE) if lr_path is None else read_picture(lr_path)
    if (lr.shape[0] * SCALE, lr.shape[1] * SCALE) != hr.shape[:2]:
        raise DataError(
            f"{lr_path} is {lr.shape[1]}x{lr.shape[0]} but {hr_path} is "
            f"{hr.shape[1]}x{hr.shape[0]}, not 4 times that; fix or remove the pair"
        )
    return Pair(hr_path.name, _tensor(hr), _tensor(lr))


def _pairs(hr: Path, lr: Path) -> dict[Path, Path]:
    """The LR file of each HR file. Raises DataError when there are files of one side alone.

    They belong together by their stems or, where stems repeat, by their paths in both folders;
    the LR file may have ``x4`` at the end of its stem.
    """
    hr_files, lr_files = list_pictures(hr), list_pictures(lr)
    by_stem = all(len({p.stem for p in files}) == len(files) for files in (hr_files, lr_files))
    high, low = (
        _by_key(files, None if by_stem else folder)
        for files, folder in ((hr_files, hr), (lr_files, lr))
    )
    for key in sorted(low.keys() - high.keys()):
        plain = key.removesuffix("x4")  # as benchmarks name them
        if plain in high.keys() - low.keys():
            low[plain] = low.pop(key)
    alone = [low[key] for key in low.keys() - high.keys()]
    if alone:
        raise DataError(
            f"{hr} has no high-resolution picture for {_few(alone, lr)}; add it or remove that one"
        )
    alone = [high[key] for key in high.keys() - low.keys()]
    if alone:
        raise DataError(
            f"{lr} has no low-resolution picture for {_few(alone, hr)}; add it or remove that one"
        )
    return {path: low[key] for key, path in high.items()}


def _by_key(files: list[Path], root: Path | None) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in files:
        key = path.stem if root is None else str(path.relative_to(root).with_suffix(""))
        if key in found:
            raise DataError(f"{found[key]} and {path} would be one picture; remove or rename one")
        found[key] = path
    return found


def _few(paths: list[Path], root: Path) -> str:
    """The first three by name, and how many more there are."""
    names = sorted(str(path.relative_to(root)) for path in paths)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def picture_files(folder: Path) -> dict[Path, Path | None]:
    """The HR files of a data set, sorted, and the LR file of each, None where it is to be made."""
    sides = _sides(folder)
    if len(sides) == 2:
        return dict(_pairs(sides["hr"], sides["lr"]))
    pictures = list_pictures(folder)
    for side, there in sides.items():
        if side == "lr" or any(there not in path.parents for path in pictures):
            # Training on LR pictures as if they were HR would go unnoticed.
            raise DataError(
                f"{folder} has a folder {there.name} but none called "
                f"{'hr' if side == 'lr' else 'lr'}; add it, or give a folder of high-resolution "
                "pictures alone with --data"
            )
    return dict.fromkeys(pictures)


def _sides(folder: Path) -> dict[str, Path]:
    """The folders of ``folder`` called ``hr`` or ``lr`` or much like it; the plainest names win."""
    found = [p for p in folder.iterdir() if p.is_dir()] if folder.is_dir() else []
    found.sort(key=lambda p: (-len(p.name), p.name))
    return {m["side"].lower(): p for p in found if (m := SIDE.fullmatch(p.name))}


def _groups(folder: Path, files: list[Path]) -> list[str]:
    """The source picture of each file: files of one source are never split."""
    sources = {r["file"]: f"{r['repository']}/{r['path']}" for r in read_manifest(folder)}
    return [sources.get(p.name, p.name) for p in files]


def read_manifest(folder: Path) -> list[dict[str, str]]:
    """The rows of ``manifest.csv`` (``file``, ``repository``, ``path`` ...), none without one.

    Raises:
        DataError: it lacks one of those columns.
    """
    path = folder / "manifest.csv"
    if not path.is_file():
        return []
    with path.open(newline="") as handle:
        reader = csv.DictReader(handle)
        missing = {"file", "repository", "path"} - set(reader.fieldnames or ())
        if missing:
            raise DataError(f"{path} has no column {sorted(missing)[0]!r}; add it or remove it")
        return list(reader)


def folder_digest(files: list[Path], root: Path) -> str:
    """sha256 over the names and contents of ``files``: what the weights were made from."""
    total = hashlib.sha256()
    for path in files:
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        total.update(f"{path.relative_to(root)}\0{content}\n".encode())
    return total.hexdigest()


def load_folder(
    folder: Path, patch: int, validation_pictures: int, progress: Progress = lambda files, _: files
) -> PictureSet:
    """Reads ``folder`` into memory (about 1 byte per sample of HR).

    Args:
        patch: side of an LR crop; smaller pictures are an error.
        validation_pictures: source pictures to hold out (at most a quarter of them, at least
            one), chosen by hash of their name so that adding pictures does not reshuffle the split.
        progress: wraps the iteration over files, e.g. with a progress bar.
    """
    lr_by_hr = picture_files(folder)
    hr_files = list(lr_by_hr)
    groups = _groups(folder, hr_files)
    order = sorted(set(groups), key=lambda g: hashlib.sha256(g.encode()).hexdigest())
    if len(order) < 2:
        raise DataError(
            f"{folder} holds one source picture, and one is needed to train on and another to "
            "choose by; add pictures"
        )
    held_out = set(order[: max(1, min(validation_pictures, len(order) // 4))])
    train: list[Pair] = []
    validation: list[Pair] = []
    group_of = dict(zip(hr_files, groups, strict=True))
    # Decoding and reducing leave the interpreter to other threads for most of their time.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        pairs = pool.map(lambda path: load_pair(path, lr_by_hr[path], patch, SMALLER), hr_files)
        for path, pair in zip(progress(hr_files, len(hr_files)), pairs, strict=True):
            (validation if group_of[path] in held_out else train).append(pair)
    every = hr_files + [p for p in lr_by_hr.values() if p is not None]
    return PictureSet(train, validation, folder_digest(every, folder))
