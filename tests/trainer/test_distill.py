"""Teachers, with a module that stands in for spandrel."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from trainer.__main__ import main
from trainer.distill import check_teacher, load_teacher
from trainer.errors import TrainerError


class Unsupported(Exception):
    pass


class Descriptor(nn.Module):
    """What spandrel gives for a checkpoint: here one that repeats pixels."""

    def __init__(self, scale: int, channels: tuple[int, int]) -> None:
        super().__init__()
        self.scale = scale
        self.input_channels, self.output_channels = channels
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * x.repeat_interleave(self.scale, 2).repeat_interleave(self.scale, 3)


class Loader:
    def __init__(self, device: torch.device) -> None:
        self.device = device

    def load_from_file(self, path: Path) -> Descriptor:
        if path.stem == "strange":
            raise Unsupported("no such architecture")
        scale, _, kind = path.stem[1:].partition("-")
        return Descriptor(int(scale), {"": (3, 3), "grey": (1, 1), "alpha": (3, 4)}[kind])


@pytest.fixture
def _spandrel(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = ModuleType("spandrel")
    fake.ImageModelDescriptor = Descriptor  # type: ignore[attr-defined]
    fake.ModelLoader = Loader  # type: ignore[attr-defined]
    fake.UnsupportedModelError = Unsupported  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "spandrel", fake)


@pytest.mark.usefixtures("_spandrel")
def test_a_teacher_answers_at_four_times_the_size_without_gradients() -> None:
    teacher = load_teacher(Path("x4.pth"), torch.device("cpu"))
    answer = teacher(torch.rand(2, 3, 5, 6))
    assert answer.shape == (2, 3, 20, 24)
    assert not answer.requires_grad


@pytest.mark.usefixtures("_spandrel")
@pytest.mark.parametrize(
    ("name", "message"),
    [("x2", r"x2\.pth enlarges by 2, a teacher must enlarge RGB by 4"),
     ("x4-grey", r"x4-grey\.pth has 1 input and 1 output channels, a teacher must have 3 "),
     ("x4-alpha", r"x4-alpha\.pth has 3 input and 4 output channels, .*choose another --teacher"),
     ("strange", r"strange\.pth cannot be read as a teacher \(no such architecture\)")],
)  # fmt: skip
def test_what_cannot_teach_is_named(name: str, message: str) -> None:
    with pytest.raises(TrainerError, match=message):
        load_teacher(Path(f"{name}.pth"), torch.device("cpu"))


def test_without_spandrel_the_message_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "spandrel", None)
    with pytest.raises(TrainerError, match="pip install"):
        load_teacher(Path("x4.pth"), torch.device("cpu"))
    with pytest.raises(TrainerError, match="pip install"):
        check_teacher(Path("x4.pth"))
    check_teacher(None)


def test_without_spandrel_the_command_ends_before_anything_is_read_or_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "spandrel", None)
    out = tmp_path / "run"
    with pytest.raises(SystemExit) as left:
        main(["fit", "--data", "nowhere", "--out", str(out), "--teacher", "x4.pth"])
    assert left.value.code == 2
    assert capsys.readouterr().err == (
        "sr-train: --teacher needs spandrel; install it with pip install 'sr-server[distill]'\n"
    )
    assert not out.exists()


@pytest.mark.usefixtures("_spandrel")
def test_a_teacher_that_is_not_there_is_named(tmp_path: Path) -> None:
    sys.modules["spandrel"].__spec__ = ModuleSpec("spandrel", None)
    with pytest.raises(TrainerError, match=r"there is no teacher .*x4\.pth"):
        check_teacher(tmp_path / "x4.pth")
