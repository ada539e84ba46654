"""Mutations of JSON by its structure, from a seed; everything else is left to libFuzzer."""

import copy
import json
import random
from typing import Any

import atheris

_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**53, 2**63, 2**64, 1e308, 0.1, "", "0", "00" * 32, "ff" * 32, "\x00",
    "\ud800", "\U0001f9ea", [], {}, [[]], [{}], {"": ""}, "a" * 300, "wss://a.example", "https://a.example",
)  # fmt: skip
_DEPTHS = (10, 70, 260, 980, 1010)  # around the limits of cards, orjson's output, Python and orjson's input


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """Return a mutated input of at most `max_size` bytes: half of the JSON by its structure."""
    chance = random.Random(seed)  # noqa: S311 (not for secrets)
    if chance.random() < 0.5:
        try:
            changed = json.dumps(_change(json.loads(data), chance), ensure_ascii=chance.random() < 0.5).encode()
        except (ValueError, RecursionError):  # not JSON, or with text that is no UTF-8
            changed = b""
        if 0 < len(changed) <= max_size:
            return changed
    return bytes(atheris.Mutate(data, max_size))


def _change(tree: Any, chance: random.Random) -> Any:  # noqa: ANN401 (JSON)
    """Return JSON with one value at a random place replaced, removed, doubled, nested or mutated."""
    if isinstance(tree, dict | list) and tree and chance.random() < 0.8:
        return _change_inside(tree, chance)
    match chance.randrange(4):
        case 0:
            return copy.deepcopy(chance.choice(_VALUES))
        case 1:
            for _ in range(chance.choice(_DEPTHS)):
                tree = [tree] if chance.random() < 0.5 else {"a": tree}
            return tree
        case 2 if isinstance(tree, int | float):
            return tree + chance.choice((-1, 1, 2**32, -(2**63)))
        case _ if isinstance(tree, str):
            return atheris.Mutate(tree.encode("utf-8", "replace"), len(tree) * 4 + 8).decode("utf-8", "replace")
    return [tree, tree]


def _change_inside(tree: Any, chance: random.Random) -> Any:  # noqa: ANN401 (JSON)
    tree = copy.copy(tree)
    key = chance.choice(list(tree)) if isinstance(tree, dict) else chance.randrange(len(tree))
    match chance.randrange(8):
        case 0:
            del tree[key]
        case 1 if isinstance(tree, list):
            tree.insert(key, copy.deepcopy(chance.choice(tree)))
        case 1:
            tree[f"{key}2"] = tree[key]
        case _:
            tree[key] = _change(tree[key], chance)
    return tree
