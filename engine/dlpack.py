"""DLPack capsules in pure Python: memory on a GPU goes from library to library by its address.

One plane of bytes at a time, in the unversioned form ("dltensor") that PyAV and NumPy take and
give. Knows no GPU: what a device type means is its maker's business.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any, Protocol

from engine.errors import ContractError

CPU, CUDA = 1, 2
"""``DLDeviceType``."""

_NAME = b"dltensor"
_UNSIGNED, _BITS = 1, 8


class SupportsDlpack(Protocol):
    """Anything that gives its memory away."""

    def __dlpack__(self) -> Any: ...


@dataclass(frozen=True, slots=True)
class Plane:
    """Rows of bytes somewhere in the memory of a device.

    The memory is alive as long as ``owner`` is, and its content belongs to whoever made it: of a
    lane's plane, until the next ``start`` on that lane.
    """

    address: int
    rows: int
    row_bytes: int
    pitch: int
    """Bytes from one row to the next; at least ``row_bytes``."""
    samples: int = 1
    """Interleaved samples: 2 for the chroma of nv12, (rows, row_bytes / 2, 2)."""
    device: tuple[int, int] = (CUDA, 0)
    """(``DLDeviceType``, ordinal)."""
    owner: object = None

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, bytes), or (rows, bytes / samples, samples)."""
        if self.samples == 1:
            return (self.rows, self.row_bytes)
        return (self.rows, self.row_bytes // self.samples, self.samples)

    def __dlpack_device__(self) -> tuple[int, int]:
        """Where the memory is."""
        return self.device

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """A capsule over the same memory. Its content must be complete: no stream is waited for."""
        if copy or dl_device not in (None, self.device):
            raise BufferError("a plane is given away as it is, not copied")
        strides = (self.pitch, 1) if self.samples == 1 else (self.pitch, self.samples, 1)
        return _capsule(self, self.shape, strides)


def plane_of(source: SupportsDlpack) -> Plane:
    """The plane behind a library's object, without a copy; alive as long as the result.

    Raises:
        ContractError: its memory is not rows of bytes.
    """
    capsule = source.__dlpack__()
    tensor = ctypes.cast(_pointer(id(capsule), _NAME), ctypes.POINTER(_Managed)).contents.tensor
    shape = tuple(tensor.shape[: tensor.dimensions])
    kind = (tensor.code, tensor.bits, tensor.lanes)
    dense = _dense(shape)
    strides = tuple(tensor.strides[: tensor.dimensions]) if tensor.strides else dense
    if kind != (_UNSIGNED, _BITS, 1) or len(shape) not in (2, 3) or strides[1:] != dense[1:]:
        raise ContractError(f"a plane is rows of bytes, got {shape} of kind {kind}, {strides}")
    return Plane(
        address=int(tensor.data) + int(tensor.byte_offset),
        rows=shape[0],
        row_bytes=dense[0],
        pitch=strides[0],
        samples=shape[2] if len(shape) == 3 else 1,
        device=(tensor.device_type, tensor.device_id),
        owner=capsule,
    )


def _dense(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides = [1]
    for length in reversed(shape[1:]):
        strides.insert(0, strides[0] * length)
    return tuple(strides)


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("dimensions", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


_Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _Managed(ctypes.Structure):
    _fields_ = (
        ("tensor", _Tensor),
        ("context", ctypes.c_void_p),
        ("deleter", _Deleter),
    )


def _function(name: str, result: Any, *arguments: Any) -> Any:
    # Own function objects: the argument types of ctypes.pythonapi's are shared by everybody.
    return ctypes.PYFUNCTYPE(result, *arguments)((name, ctypes.pythonapi))


_new = _function(
    "PyCapsule_New", ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p
)
# Addresses and not objects: a destructor sees a capsule that nobody may refer to any more.
_pointer = _function("PyCapsule_GetPointer", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)
_is_valid = _function("PyCapsule_IsValid", ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)
_keep = _function("Py_IncRef", None, ctypes.py_object)
_drop = _function("Py_DecRef", None, ctypes.c_void_p)


def _delete(managed: int) -> None:
    """Called by whoever took the tensor, from any thread; ctypes takes the GIL."""
    context = ctypes.cast(managed, ctypes.POINTER(_Managed)).contents.context
    _drop(context)


def _destroy(capsule: int) -> None:
    """A capsule that ends with its first name was never taken."""
    if _is_valid(capsule, _NAME):
        _delete(_pointer(capsule, _NAME))


# Kept by the module, because capsules outlive whoever made them.
_DELETER, _DESTRUCTOR = _Deleter(_delete), _Deleter(_destroy)


def _capsule(plane: Plane, shape: tuple[int, ...], strides: tuple[int, ...]) -> Any:
    numbers = ctypes.c_int64 * len(shape)
    managed = _Managed()
    kept = (plane, managed, numbers(*shape), numbers(*strides))
    tensor = managed.tensor
    tensor.data, tensor.byte_offset = plane.address, 0
    tensor.device_type, tensor.device_id = plane.device
    tensor.dimensions = len(shape)
    tensor.code, tensor.bits, tensor.lanes = _UNSIGNED, _BITS, 1
    tensor.shape = ctypes.cast(kept[2], ctypes.POINTER(ctypes.c_int64))
    tensor.strides = ctypes.cast(kept[3], ctypes.POINTER(ctypes.c_int64))
    managed.context, managed.deleter = id(kept), _DELETER
    _keep(kept)
    return _new(ctypes.addressof(managed), _NAME, ctypes.cast(_DESTRUCTOR, ctypes.c_void_p))
