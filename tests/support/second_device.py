"""A second device for torch, called `second`: its tensors wrap tensors of the CPU, and its arithmetic is the CPU's.

As on a GPU, an operation with tensors of both devices raises RuntimeError. `recorded` lists the operations, and those
for which a GPU would make the CPU wait.
"""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "second"
_READS = {"_local_scalar_dense", "equal", "nonzero", "masked_select", "_unique2"}  # their results depend on values
_COPIES = {"copy_", "_to_copy"}


@dataclass(slots=True)
class Record:
    """Operations on the device, by name, in order."""

    operations: list[str] = field(default_factory=list)
    waits: list[str] = field(default_factory=list)  # those that make the CPU wait
    copies: int = 0  # from or to the CPU


_records: list[Record] = []


@contextlib.contextmanager
def recorded() -> Iterator[Record]:
    """Record the operations of a block, in all threads."""
    record = Record()
    _records.append(record)
    try:
        yield record
    finally:
        _records.remove(record)


class SecondTensor(Tensor):
    """A tensor on the second device."""

    raw: Tensor

    @classmethod
    def wrap(cls, raw: Tensor) -> "SecondTensor":
        """Return a tensor of the device that shares its elements with one of the CPU."""
        made: SecondTensor = Tensor._make_wrapper_subclass(
            cls,
            raw.shape,
            strides=raw.stride(),
            storage_offset=raw.storage_offset(),
            dtype=raw.dtype,
            device=torch.device(NAME, 0),
        )
        made.raw = raw
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls,
        func: Any,  # noqa: ANN401 (torch's own)
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        kwargs = kwargs or {}
        if torch.is_inference_mode_enabled() and func._can_decompose():  # elsewhere torch does that before it asks
            return func.decompose(*args, **kwargs)
        name = func.overloadpacket.__name__
        leaves = list(_leaves((args, kwargs)))
        crosses = name in _COPIES and _crosses(args, kwargs)
        _note(name, crosses=crosses, waits=name in _READS or (crosses and not _is_queued(name, args, kwargs)))
        if not crosses:
            _refuse_mixture(name, leaves)
        mine = {id(leaf.raw): leaf for leaf in leaves if isinstance(leaf, cls)}

        def wrap(value: object) -> object:
            if not isinstance(value, Tensor):
                return value
            return mine[id(value)] if id(value) in mine else cls.wrap(value)

        with torch.inference_mode(False):  # a view that is made in inference mode must not be an inference tensor
            out = func(*_each(_on_cpu, args), **_each(_on_cpu, kwargs))
            if crosses and not isinstance(args[0], cls):  # to the CPU, in place
                return args[0]
            return out if crosses and name == "_to_copy" else _each(wrap, out)


def _leaves(value: object) -> Iterator[object]:
    """Yield the values in nested lists, tuples and dictionaries."""
    if isinstance(value, list | tuple):
        for each in value:
            yield from _leaves(each)
    elif isinstance(value, dict):
        yield from _leaves(list(value.values()))
    else:
        yield value


def _each(change: Callable[[Any], Any], value: Any) -> Any:  # noqa: ANN401 (arguments and results of any operation)
    """Return nested lists, tuples and dictionaries with each value changed."""
    if isinstance(value, list | tuple):
        return type(value)(_each(change, each) for each in value)
    if isinstance(value, dict):
        return {name: _each(change, each) for name, each in value.items()}
    return change(value)


def _crosses(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Return whether a copy is from one device to the other."""
    devices = {leaf.device.type for leaf in args if isinstance(leaf, Tensor)}
    if kwargs.get("device") is not None:
        devices.add(torch.device(kwargs["device"]).type)
    return len(devices) > 1


def _is_queued(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Return whether a copy between the devices is one that a GPU makes while the CPU works on."""
    asked = bool(kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2]))
    return asked and name == "copy_" and isinstance(args[0], SecondTensor)


def _note(name: str, *, crosses: bool, waits: bool) -> None:
    for record in _records:
        record.operations.append(name)
        record.copies += crosses
        if waits:
            record.waits.append(name)


def _refuse_mixture(name: str, leaves: Sequence[Any]) -> None:
    """Raise RuntimeError for a tensor of the CPU; as on a GPU, one without dimensions counts as a number."""
    if any(isinstance(leaf, Tensor) and not isinstance(leaf, SecondTensor) and leaf.dim() for leaf in leaves):
        raise RuntimeError(f"{name}: expected all tensors to be on the same device, but found cpu and {NAME}")


def _on_cpu(value: Any) -> Any:  # noqa: ANN401 (arguments of any operation)
    if isinstance(value, SecondTensor):
        return value.raw
    return torch.device("cpu") if isinstance(value, torch.device) else value


def _empty(size: Sequence[int], *, dtype: torch.dtype | None = None, **_: object) -> Tensor:
    return SecondTensor.wrap(torch.empty(size, dtype=dtype))


def _empty_strided(
    size: Sequence[int], stride: Sequence[int], *, dtype: torch.dtype | None = None, **_: object
) -> Tensor:
    return SecondTensor.wrap(torch.empty_strided(size, stride, dtype=dtype))


def _copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:  # noqa: FBT001, FBT002
    """Copy for `torch.tensor(…, device=…)`, which does not ask the class."""
    _note("_copy_from", crosses=True, waits=not non_blocking)
    _on_cpu(target).copy_(_on_cpu(source))
    return target


@functools.cache
def register() -> str:
    """Make the device known to torch, once in a process, and return its name.

    Call it before the first backward pass: torch counts devices then. `torch.compile` fails from then on.
    """
    _setup_privateuseone_for_python_backend(NAME)
    library = torch.library.Library("aten", "IMPL")
    kernels: dict[str, Callable[..., Tensor]] = {
        "empty.memory_format": _empty,
        "empty_strided": _empty_strided,
        "_copy_from": _copy_from,
    }
    for name, kernel in kernels.items():
        library.impl(name, kernel, "PrivateUse1")
    register.library = library  # type: ignore[attr-defined]
    return NAME
