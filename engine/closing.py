"""What everything that holds a process, a device or a file has in common: ``with`` closes it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self


class Closing(ABC):
    """Something that is closed when the body of its ``with`` ends."""

    __slots__ = ()

    @abstractmethod
    def close(self) -> None:
        """Gives back what is held; harmless when called twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
