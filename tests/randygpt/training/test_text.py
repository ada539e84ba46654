"""Training text: sources, blocks and changes during reading."""

import hashlib
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from randygpt.errors import InvalidModelFile
from randygpt.model.tokenizer import CharTokenizer
from randygpt.training import text as text_module
from randygpt.training.text import Text

BLOCK = 1 << 20


def digest(text: str) -> bytes:
    """Return a digest, so that a failure does not print megabytes."""
    return hashlib.sha256(text.encode()).digest()


def test_text_file(tmp_path: Path) -> None:
    path = tmp_path / "story.txt"
    path.write_bytes("né\ufeff\r\n\u2028".encode())
    text = Text.find(path)
    assert "".join(text) == "né\ufeff\r\n\u2028"
    assert (text.source, text.path) == (str(path), path)
    assert text.sha256 == hashlib.sha256(path.read_bytes()).digest()


def test_empty_text(tmp_path: Path) -> None:
    (tmp_path / "story.txt").touch()
    text = Text.find(tmp_path / "story.txt")
    assert "".join(text) == ""
    assert text.sha256 == hashlib.sha256().digest()


def test_blocks_end_after_a_newline(tmp_path: Path) -> None:
    path = tmp_path / "story.txt"
    path.write_bytes(b"a line of twenty-four b\n" * 200_000)
    blocks = list(Text.find(path))
    assert all(block.endswith("\n") for block in blocks)
    assert all(BLOCK - 50 < len(block) < BLOCK + 50 for block in blocks[:-1])
    assert digest("".join(blocks)) == hashlib.sha256(path.read_bytes()).digest()


def test_line_longer_than_a_block_is_cut() -> None:
    contents = "\n" + "x" * (5 * BLOCK) + "\ny"
    blocks = list(Text.of(contents))
    assert max(map(len, blocks)) <= 2 * BLOCK
    assert digest("".join(blocks)) == digest(contents)


@given(contents=st.text(), size=st.integers(1, 7))
def test_blocks_join_to_the_text(contents: str, size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_module, "_BLOCK", size)
        text = Text.of(contents)
        assert "".join(text) == contents
        assert text.sha256 == hashlib.sha256(contents.encode()).digest()


def test_byte_order_mark_is_not_part_of_the_text(tmp_path: Path) -> None:
    path = tmp_path / "story.txt"
    path.write_bytes(b"\xef\xbb\xbf" + "once\ufeff upon".encode())
    assert "".join(Text.find(path)) == "once\ufeff upon"


@pytest.mark.parametrize("before", [3, BLOCK - 2, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK - 1])
@pytest.mark.parametrize(
    ("wrong", "where"), [(b"\xff", 0), (b"\xe2\x82x", 0), (b"\xf0\x9f\x98", 0), (b"n\xc3", 1), (b"\xe2\x82\xac\x80", 3)]
)
def test_non_utf8_text_names_the_byte(tmp_path: Path, before: int, wrong: bytes, where: int) -> None:
    path = tmp_path / "story.txt"
    path.write_bytes(b"x" * before + wrong)
    with pytest.raises(InvalidModelFile, match=rf"story\.txt: not UTF-8 text at byte {before + where}$"):
        list(Text.find(path))


def test_text_that_changes_between_passes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "story.txt"
    path.write_bytes(b"one")
    text = Text.find(path)
    assert CharTokenizer.from_text(text).vocab_size == 5
    path.write_bytes(b"two")
    with pytest.raises(InvalidModelFile, match=r"story\.txt: changed while it was being read"):
        list(text)


def test_missing_text_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="story"):
        Text.find(tmp_path / "story.txt")
    with pytest.raises(IsADirectoryError, match=tmp_path.name):
        Text.find(tmp_path)


def test_pipe_can_be_read_twice(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(b"piped",))
    writer.start()
    text = Text.find(path)
    writer.join()
    assert [*text, *text] == ["piped", "piped"]
    assert text.path is None


def test_default_is_train_txt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("train.txt").write_text("mine", encoding="utf-8")
    Path("other.txt").write_text("other", encoding="utf-8")
    assert (list(Text.find(None)), Text.find(None).source) == (["mine"], "train.txt")
    assert (list(Text.find(Path("other.txt"))), Text.find(Path("other.txt")).source) == (["other"], "other.txt")


def test_built_in_sample_without_any_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = Text.find(None)
    assert sum(map(len, text)) > 400_000
    assert "built in" in text.source
    assert text.path is None
