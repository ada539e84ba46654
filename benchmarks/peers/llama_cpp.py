"""Tokens per second of llama.cpp in this process: `llama_cpp.py FOLDER MODEL.gguf SEQUENCES TOKENS THREADS`.

FOLDER has the shared libraries of the npm package `@node-llama-cpp/linux-x64`. They are called through llama.h's C
functions, all sequences in one batch per step, with the sampling of `scripts/decoding.py`. Prints {"tokens_per_s"}.
"""

import ctypes
import json
import sys
import time
from ctypes import POINTER, c_bool, c_char_p, c_float, c_int8, c_int32, c_size_t, c_uint8, c_uint32, c_void_p
from pathlib import Path
from typing import Any

CONTEXT, PROMPT = 256, 16  # tokens
TEMPERATURE, TOP_P = 0.8, 0.9
LOG = ctypes.CFUNCTYPE(None, ctypes.c_int, c_char_p, c_void_p)
SPACE = 512  # bytes for a structure of parameters: more than any version has


class Parameters(ctypes.Structure):
    """Parameters of a model or a sampler, as the library fills them in."""

    _fields_ = (("rest", c_uint8 * SPACE),)


class ContextParameters(ctypes.Structure):
    """`llama_context_params`: the first fields are the same in all versions."""

    _fields_ = (
        ("n_ctx", c_uint32),
        ("n_batch", c_uint32),
        ("n_ubatch", c_uint32),
        ("n_seq_max", c_uint32),
        ("rest", c_uint8 * SPACE),
    )


class Batch(ctypes.Structure):
    """`llama_batch`."""

    _fields_ = (
        ("n_tokens", c_int32),
        ("token", POINTER(c_int32)),
        ("embd", POINTER(c_float)),
        ("pos", POINTER(c_int32)),
        ("n_seq_id", POINTER(c_int32)),
        ("seq_id", POINTER(POINTER(c_int32))),
        ("logits", POINTER(c_int8)),
    )


class Library:
    """The functions of llama.cpp that are used here."""

    def __init__(self, folder: Path) -> None:
        _, backends, self._library = (
            ctypes.CDLL(str(next(folder.glob(name))), ctypes.RTLD_GLOBAL)
            for name in ("libggml-base.so", "libggml.v*.so", "libllama.v*.so")
        )
        self._log = LOG(lambda *_: None)
        self.call("llama_log_set", None, self._log, c_void_p())  # of ggml too
        backends.ggml_backend_load_all_from_path(c_char_p(bytes(folder)))
        self.call("llama_backend_init", None)

    def call(self, name: str, returned: object, *values: object) -> Any:  # noqa: ANN401 (of any type)
        """Call a function by its name with values of ctypes."""
        function = getattr(self._library, name)
        function.restype = returned
        return function(*values)

    def pointer(self, name: str, *values: object) -> c_void_p:
        """Call a function that returns a pointer; raise RuntimeError for a null pointer."""
        found = self.call(name, c_void_p, *values)
        if found is None:
            raise RuntimeError(f"llama.cpp: {name} failed")
        return c_void_p(found)

    def context(self, path: Path, sequences: int, threads: int) -> c_void_p:
        """Load a model, and return a context for that many sequences."""
        parameters = self.call("llama_model_default_params", Parameters)
        model = self.pointer("llama_model_load_from_file", c_char_p(bytes(path)), parameters)
        asked = self.call("llama_context_default_params", ContextParameters)
        asked.n_ctx, asked.n_seq_max = CONTEXT * sequences, sequences
        context = self.pointer("llama_init_from_model", model, asked)
        self.call("llama_set_n_threads", None, context, c_int32(threads), c_int32(threads))
        return context

    def sampler(self, seed: int) -> c_void_p:
        """Return a sampler with the settings of the other programs."""
        defaults = self.call("llama_sampler_chain_default_params", c_bool)  # a structure of one field
        chain = self.pointer("llama_sampler_chain_init", c_bool(defaults))
        for sampler in (
            self.pointer("llama_sampler_init_top_p", c_float(TOP_P), c_size_t(1)),
            self.pointer("llama_sampler_init_temp", c_float(TEMPERATURE)),
            self.pointer("llama_sampler_init_dist", c_uint32(seed)),
        ):
            self.call("llama_sampler_chain_add", None, chain, sampler)
        return chain


def main(folder: Path, model: Path, sequences: int, tokens: int, threads: int) -> None:
    """Measure and print the figures."""
    library = Library(folder)
    context = library.context(model, sequences, threads)
    samplers = [library.sampler(index) for index in range(sequences)]
    batch = library.call("llama_batch_init", Batch, c_int32(sequences * PROMPT), c_int32(0), c_int32(1))
    generate(library, context, samplers, batch, 8)  # the first steps allocate
    start = time.perf_counter()
    generate(library, context, samplers, batch, tokens)
    print(json.dumps({"tokens_per_s": sequences * tokens / (time.perf_counter() - start)}))


def generate(library: Library, context: c_void_p, samplers: list[c_void_p], batch: Batch, tokens: int) -> None:
    """Generate tokens in all sequences, from a prompt of the same length."""
    library.call("llama_memory_clear", None, library.pointer("llama_get_memory", context), c_bool(True))
    sequences = range(len(samplers))
    entries = [(sequence, place, 5, place == PROMPT - 1) for sequence in sequences for place in range(PROMPT)]
    for length in range(PROMPT, PROMPT + tokens):
        for index, (sequence, place, token, is_last) in enumerate(entries):
            batch.token[index], batch.pos[index], batch.logits[index] = token, place, is_last
            batch.n_seq_id[index], batch.seq_id[index][0] = 1, sequence
        batch.n_tokens = len(entries)
        if library.call("llama_decode", c_int32, context, batch):
            raise RuntimeError("llama.cpp cannot decode")
        rows = [index for index, entry in enumerate(entries) if entry[3]]
        drawn = [
            library.call("llama_sampler_sample", c_int32, sampler, context, c_int32(row))
            for sampler, row in zip(samplers, rows, strict=True)
        ]
        entries = [(sequence, length, token, True) for sequence, token in enumerate(drawn)]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:6]))
