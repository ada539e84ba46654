"""Token cache: used only if it is valid, and never in the way."""

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from support.command import TIMEOUT_S

from randygpt.errors import InvalidModelFile
from randygpt.model.tokenizer import BpeTokenizer, CharTokenizer, Tokenizer
from randygpt.training.text import Text
from randygpt.training.token_cache import Tokens, tokenize

TEXT = "the quick brown fox jumps over the lazy dog.\n" * 25_000  # more than a megabyte
SMALL = BpeTokenizer.train(TEXT[:4500], 60)
HEADER = 512


class Counting(CharTokenizer):
    """Character tokenizer that counts how often a corpus is encoded."""

    times = 0

    def encode_corpus(self, text: Iterable[str]) -> Iterator[npt.NDArray[np.int32]]:
        self.times += 1
        return super().encode_corpus(text)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "my.txt").write_text(TEXT, encoding="utf-8")
    return tmp_path / "my.txt"


@pytest.fixture
def counting() -> Counting:
    return Counting.from_text(TEXT)


def kept(path: Path) -> Path:
    return path.with_name(f"{path.name}.tokens")


def load(path: Path, tokenizer: Tokenizer, warnings: list[str] | None = None) -> Tokens:
    """Return the tokens of a file; a warning fails the test unless `warnings` collects it."""
    return tokenize(Text.find(path), tokenizer, pytest.fail if warnings is None else warnings.append)


@pytest.mark.parametrize("tokenizer", [CharTokenizer.from_text(TEXT), SMALL], ids=["char", "bpe"])
def test_cached_tokens_equal_encoded_tokens(path: Path, tokenizer: Tokenizer) -> None:
    expected = tokenizer.encode(TEXT)
    first, second = load(path, tokenizer), load(path, tokenizer)
    for tokens in (first, second):
        assert np.array_equal(tokens.ids, expected)
        assert tokens.ids.dtype == np.uint16
        assert not tokens.ids.flags.writeable
        assert tokens.mapped
        tokens.release_pages()
        assert np.array_equal(tokens.ids, expected)
    assert first.identity == second.identity
    assert kept(path).stat().st_size == HEADER + 2 * len(expected)
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["my.txt", "my.txt.tokens"]


def test_text_is_encoded_once(path: Path, counting: Counting) -> None:
    for _ in range(3):
        load(path, counting)
    assert counting.times == 1


def test_leftovers_of_a_killed_run_are_removed(path: Path, counting: Counting) -> None:
    path.with_name(f".tmp-0123456789abcdef-{kept(path).name}").write_bytes(b"half")
    load(path, counting)
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["my.txt", "my.txt.tokens"]


def test_small_or_in_memory_text_has_no_cache(path: Path, counting: Counting) -> None:
    path.write_text(TEXT[:100_000], encoding="utf-8")
    assert len(load(path, counting).ids) == 100_000
    assert len(tokenize(Text.of(TEXT), counting, pytest.fail).ids) == len(TEXT)
    assert not kept(path).exists()


def test_document_ends_are_cached(path: Path) -> None:
    path.write_text(TEXT + "<|eos|>the fox<|eos|>", encoding="utf-8")
    for _ in range(2):
        tokens = load(path, SMALL)
        assert tokens.ends.tolist() == np.flatnonzero(tokens.ids == 1).tolist()
        assert len(tokens.ends) == 2
    assert len(load(path, CharTokenizer(["<", ">", *sorted(set(TEXT))])).ends) == 0  # there id 1 is the character >


def test_every_end_token_ends_a_document() -> None:
    vocab = ["<|bos|>", "<|eos|>", "a", "b", "<|eos|>"]
    tokens = tokenize(Text.of("ab<|eos|>ba"), BpeTokenizer(vocab, []), pytest.fail)
    assert (tokens.ids.tolist(), tokens.ends.tolist()) == ([2, 3, 4, 3, 2], [2])


def test_other_text_or_vocabulary_invalidates_the_cache(path: Path, counting: Counting) -> None:
    one = load(path, counting)
    other = load(path, SMALL)
    assert np.array_equal(other.ids, SMALL.encode(TEXT))
    assert np.array_equal(one.ids, counting.encode(TEXT))  # mapped before the file was replaced
    path.write_text(TEXT.replace("fox", "dog"), encoding="utf-8")
    third = load(path, counting)
    assert np.array_equal(third.ids, counting.encode(TEXT.replace("fox", "dog")))
    assert len({one.identity, other.identity, third.identity}) == 3


def flip(at: int) -> Callable[[bytes], bytes]:
    """Return a function that flips one bit."""

    def flipped(data: bytes) -> bytes:
        changed = bytearray(data)
        changed[at] ^= 1
        return bytes(changed)

    return flipped


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "text": flip(30),
    "vocabulary": flip(200),
    "spaces": flip(HEADER - 1),
    "first id": flip(HEADER),
    "last id": flip(-1),
    "half an id less": lambda data: data[:-1],
    "an id less": lambda data: data[:-2],
    "an id more": lambda data: data + b"\0\0",
    "no ids": lambda data: data[:HEADER],
    "part of the header": lambda data: data[:100],
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_cache_is_rewritten(path: Path, counting: Counting, damage: Callable[[bytes], bytes]) -> None:
    load(path, counting)
    whole = kept(path).read_bytes()
    kept(path).write_bytes(damage(whole))
    assert np.array_equal(load(path, counting).ids, counting.encode(TEXT))
    assert counting.times == 2
    assert sha256(kept(path).read_bytes()).digest() == sha256(whole).digest()  # a failure does not print 2 MB


@pytest.mark.parametrize("contents", [b"", b"my own notes", b"randygpt tokens 2\n" + bytes(600)], ids=len)
def test_other_file_is_not_overwritten(path: Path, counting: Counting, contents: bytes) -> None:
    kept(path).write_bytes(contents)
    warnings: list[str] = []
    assert np.array_equal(load(path, counting, warnings).ids, counting.encode(TEXT))
    assert kept(path).read_bytes() == contents
    assert warnings == [f"{kept(path)} is not a token cache: keeping the tokens of {path} in memory"]


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["folder", "pipe"])
def test_folder_or_pipe_is_not_overwritten(path: Path, counting: Counting, make: Callable[[Path], None]) -> None:
    make(kept(path))
    warnings: list[str] = []
    assert len(load(path, counting, warnings).ids) == len(TEXT)
    assert len(warnings) == 1


def test_full_disk_keeps_tokens_in_memory(path: Path, counting: Counting) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    warnings: list[str] = []
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))  # bytes per file
        tokens = load(path, counting, warnings)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert np.array_equal(tokens.ids, counting.encode(TEXT))
    assert tokens.mapped is None
    assert warnings == [f"{kept(path)} cannot be written (File too large): keeping the tokens of {path} in memory"]
    assert [entry.name for entry in path.parent.iterdir()] == ["my.txt"]


def test_file_name_too_long_keeps_tokens_in_memory(path: Path, counting: Counting) -> None:
    path = path.rename(path.with_name("m" * 250))
    warnings: list[str] = []
    assert len(load(path, counting, warnings).ids) == len(TEXT)
    assert len(warnings) == 1


def test_text_that_changes_during_encoding_is_refused(path: Path, counting: Counting) -> None:
    text = Text.find(path)
    assert text.sha256
    path.write_text(TEXT.replace("fox", "dog"), encoding="utf-8")
    with pytest.raises(InvalidModelFile, match=r"my\.txt: changed while it was being read"):
        tokenize(text, counting, pytest.fail)
    assert [entry.name for entry in path.parent.iterdir()] == ["my.txt"]


def test_text_that_disappears_is_an_os_error(path: Path, counting: Counting) -> None:
    text = Text.find(path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"my\.txt"):
        tokenize(text, counting, pytest.fail)


def test_large_vocabulary_uses_32_bit_ids(tmp_path: Path) -> None:
    chars = [chr(point) for point in range(0x20, 0x12000) if not 0xD800 <= point < 0xE000]
    path = tmp_path / "my.txt"
    path.write_bytes("".join(chars * 6).encode())
    tokenizer = Counting.from_text(Text.find(path))
    for _ in range(2):
        tokens = load(path, tokenizer)
        assert (tokens.ids.dtype.name, tokens.ids.max()) == ("uint32", len(chars) + 1)
        assert np.array_equal(tokens.ids, tokenizer.encode("".join(chars * 6)))
    assert (tokenizer.vocab_size > 1 << 16, tokenizer.times) == (True, 1)


PROGRAM = """
import sys, numpy
from pathlib import Path
from randygpt.training.text import Text
from randygpt.model.tokenizer import BpeTokenizer, CharTokenizer
from randygpt.training.token_cache import tokenize
text = Text.find(Path(sys.argv[1]))
tokenizer = CharTokenizer.from_text(text) if sys.argv[2] == "char" else BpeTokenizer.train("the fox\\n" * 9, 12)
for _ in range(5):
    ids = tokenize(text, tokenizer, sys.exit).ids
    assert numpy.array_equal(ids, tokenizer.encode(Path(sys.argv[1]).read_text()))
"""


@pytest.mark.full
@pytest.mark.parametrize("kinds", [("char", "char"), ("char", "bpe")], ids="-".join)
def test_two_processes_share_a_cache(path: Path, kinds: tuple[str, str]) -> None:
    running = [subprocess.Popen([sys.executable, "-c", PROGRAM, path, kind]) for kind in kinds]
    assert [program.wait(timeout=TIMEOUT_S) for program in running] == [0, 0]
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["my.txt", "my.txt.tokens"]
