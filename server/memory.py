"""Memory that serving a model takes, computed from its declared sizes before anything is loaded. No I/O."""

from randygpt.model.config import ModelConfig
from randygpt.model.decoder import PREFILL_CHUNK, KVCache
from server.errors import InvalidModel

MAX_SLOTS = 32  # sequences that a model decodes at once
DEFAULT_MAX_MEMORY = 2 << 30  # bytes
_MAX_CACHE = 1 << 30  # bytes of KV entries; fewer slots where that is not enough
_KV_COPIES = 2  # KV entries of a sequence in a slot, and of a preempted one for each slot
_FLOAT = 4  # bytes
_WHILE_PACKED = 3  # copies of a matrix while it is packed: as read, stacked, and padded
_PER_LOGIT = 24  # bytes of a logit while a token is sampled from it
_PER_JSON_BYTE = 24  # bytes of the objects that a byte of JSON can become


def slot_count(config: ModelConfig, max_slots: int = MAX_SLOTS) -> int:
    """Return the number of slots of a model's KV cache."""
    return max(1, min(max_slots, _MAX_CACHE // (_KV_COPIES * KVCache.slot_bytes(config))))


def check_memory(config: ModelConfig, vocabulary_size: int, max_memory: int) -> None:
    """Raise InvalidModel if serving a model takes more than `max_memory` bytes.

    Args:
        config: The declared shape.
        vocabulary_size: Bytes of the vocabulary's file.
        max_memory: The limit, in bytes.
    """
    needed = _needed(config, vocabulary_size)
    if needed > max_memory:
        raise InvalidModel(
            f"a model of this shape takes about {_mebibytes(needed)} of memory, and the limit is "
            f"{_mebibytes(max_memory)}: raise it with --max-memory"
        )


def _needed(config: ModelConfig, vocabulary_size: int) -> int:
    dim, slots = config.n_embd, slot_count(config)
    largest = dim * max(config.vocab_size, config.block_size, 4 * dim)
    weights = _FLOAT * (config.parameter_count + _WHILE_PACKED * largest)
    attention = 2 * _FLOAT * config.n_head * PREFILL_CHUNK * config.block_size
    logits = _PER_LOGIT * slots * config.vocab_size
    return (
        weights
        + _KV_COPIES * slots * KVCache.slot_bytes(config)
        + attention
        + logits
        + _PER_JSON_BYTE * vocabulary_size
    )


def _mebibytes(size: int) -> str:
    return f"{size >> 20:,} MiB"
