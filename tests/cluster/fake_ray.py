"""As much of Ray as the farm uses, in one process: calls run when they are waited for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any


class RayError(Exception):
    """What a lost actor looks like."""


class RayTaskError(RayError):
    """What a bug in an actor looks like."""

    cause: Exception


@dataclass(eq=False)
class Ref:
    """A call, or an object in the store."""

    run: Callable[[], Any]
    actor: Actor | None = None


@dataclass(eq=False)
class Actor:
    """Dies at its ``dies_at``-th call of ``make``."""

    instance: Any
    dies_at: int | None
    alive: bool = True
    made: int = 0

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=lambda *values: Ref(lambda: self._call(name, values), self))

    def _call(self, name: str, values: tuple[Any, ...]) -> Any:
        self.made += name == "make"
        if name == "make" and self.made == self.dies_at:
            self.alive = False
        if not self.alive:
            raise RayError("lost")
        return getattr(self.instance, name)(*values)


@dataclass
class FakeRay:
    """``deaths``: for each actor in the order of hiring, at which segment it dies."""

    build: Callable[[Any], Any]
    """Choice -> what stands behind an actor."""
    deaths: list[int | None] = field(default_factory=list)
    resources: dict[str, float] = field(default_factory=lambda: {"CPU": 2.0})
    hired: list[Actor] = field(default_factory=list)
    options: list[dict[str, Any]] = field(default_factory=list)
    exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)

    def remote(self, _: type) -> Any:
        return SimpleNamespace(options=self._options)

    def _options(self, **options: Any) -> Any:
        self.options.append(options)
        return SimpleNamespace(remote=self._hire)

    def _hire(self, choice: Any) -> Actor:
        number = len(self.hired)
        dies_at = self.deaths[number] if number < len(self.deaths) else None
        self.hired.append(Actor(self.build(choice), dies_at))
        return self.hired[-1]

    def cluster_resources(self) -> dict[str, float]:
        return self.resources

    def wait(
        self, refs: list[Ref], num_returns: int, timeout: float
    ) -> tuple[list[Ref], list[Ref]]:
        return refs[:num_returns], refs[num_returns:]

    def get(self, ref: Ref) -> Any:
        return ref.run()

    def put(self, value: Any) -> Ref:
        return Ref(lambda: value)

    def kill(self, actor: Actor) -> None:
        actor.alive = False
