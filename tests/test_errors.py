"""The error tree: one root, four categories, one exit code each, in all four packages."""

import inspect
from types import ModuleType

import pytest

import distribution.errors
import randygpt.errors
import relay_client.errors
import server.errors
from randygpt.cli.main import exit_code
from randygpt.errors import CallerError, PeerError, RandyGPTError, StorageError, TransportError, translate_os_errors

CATEGORIES = {CallerError: 2, PeerError: 3, TransportError: 4, StorageError: 5}
MODULES = (relay_client.errors, distribution.errors, randygpt.errors, server.errors)


def own_classes(module: ModuleType) -> list[type[BaseException]]:
    return [
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, BaseException) and value.__module__ == module.__name__
    ]


ALL = [each for module in MODULES for each in own_classes(module)]
BELOW_CATEGORIES = [each for each in ALL if each not in {RandyGPTError, *CATEGORIES}]


def instance(kind: type[BaseException]) -> BaseException:
    return kind.__new__(kind)


def test_no_two_classes_share_a_name() -> None:
    assert len({each.__name__ for each in ALL}) == len(ALL)


@pytest.mark.parametrize("kind", BELOW_CATEGORIES, ids=lambda kind: kind.__name__)
def test_each_error_has_one_category_and_its_exit_code(kind: type[BaseException]) -> None:
    (category,) = [each for each in CATEGORIES if issubclass(kind, each)]
    assert exit_code(instance(kind)) == CATEGORIES[category]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (FileNotFoundError(2, "No such file", "m.bin"), CallerError("m.bin: No such file")),
        (IsADirectoryError(21, "Is a directory", "m"), CallerError("m: Is a directory")),
        (PermissionError(13, "Permission denied", "m.bin"), StorageError("m.bin: Permission denied")),
        (OSError(28, "No space left"), StorageError("No space left")),
        (OSError("odd"), StorageError("odd")),
    ],
)
def test_an_os_error_becomes_a_public_one(error: OSError, expected: RandyGPTError) -> None:
    with pytest.raises(type(expected)) as caught, translate_os_errors():
        raise error
    assert str(caught.value) == str(expected)


def test_exit_codes_of_other_exceptions() -> None:
    assert (exit_code(KeyboardInterrupt()), exit_code(ValueError())) == (130, 1)


def test_randygpt_exports_the_errors_of_lower_packages() -> None:
    lower = own_classes(relay_client.errors) + own_classes(distribution.errors)
    exported = {getattr(randygpt.errors, name) for name in randygpt.errors.__all__}
    assert exported == {*lower, *own_classes(randygpt.errors)}


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_the_tree_in_the_docstring_is_complete(module: ModuleType) -> None:
    named = set((module.__doc__ or "").replace(",", " ").split())
    assert {each.__name__ for each in own_classes(module)} <= named
