"""Translation of the Rust program's command lines into ours."""

import pytest

from randygpt.cli.rust_compat import normalise


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ([], []),
        (["train"], ["train"]),
        (["--iters", "1000"], ["train", "--recipe", "classic", "--iters", "1000"]),
        (["--iters=1000", "--preset", "xs"], ["train", "--recipe", "classic", "--iters=1000", "--preset", "xs"]),
        (["--recipe", "fast", "--lr=1"], ["train", "--recipe", "fast", "--lr=1"]),
        (["--fine-tune", "--resume"], ["train", "--recipe", "classic", "--fine-tune", "--resume="]),
        (["--resume"], ["train", "--resume="]),
        (["--resume", "x.bin"], ["train", "--resume", "x.bin"]),
        (["--resume", "--iters", "5"], ["train", "--resume=", "--iters", "5"]),
        (["--iters", "5", "--resume"], ["train", "--iters", "5", "--resume="]),
        (["--iters", "9", "--bpe", "500"], ["train", "--recipe", "classic", "--iters", "9", "--bpe", "500"]),
        (["--iters", "9", "--bpe"], ["train", "--recipe", "classic", "--iters", "9", "--bpe=2000"]),
        (["--bpe", "--resume"], ["train", "--bpe=2000", "--resume="]),
        (["--serve"], ["serve", "--checkpoint", "checkpoint"]),
        (["--bpe", "--serve"], ["serve", "--checkpoint", "checkpoint"]),
        (["--bpe", "500", "--serve", ":81"], ["serve", "--checkpoint", "checkpoint", "--port", "81"]),
        (
            ["--serve", "127.0.0.2:81", "--api-key", "K"],
            ["serve", "--api-key", "K", "--checkpoint", "checkpoint", "--host", "127.0.0.2", "--port", "81"],
        ),
        (["--serve", "--checkpoint", "x"], ["serve", "--checkpoint", "x"]),
        (["--generate", "a", "b"], ["generate", "--checkpoint", "checkpoint", "--", "a", "b"]),
        (
            ["--generate", "a", "b", "--seed", "3"],
            ["generate", "--seed", "3", "--checkpoint", "checkpoint", "--", "a", "b"],
        ),
        (["--bpe", "--generate", "a"], ["generate", "--checkpoint", "checkpoint", "--", "a"]),
        (["--bpe=60", "--generate", "a"], ["generate", "--checkpoint", "checkpoint", "--", "a"]),
        (["--generate=hello"], ["generate", "--checkpoint", "checkpoint", "--", "hello"]),
        (["--iters", "9", "--fine-tune", "--generate", "a"], ["generate", "--checkpoint", "checkpoint", "--", "a"]),
        (
            ["--generate", "a", "--top-p", "0.9", "--lr=1e-3"],
            ["generate", "--top-p", "0.9", "--checkpoint", "checkpoint", "--", "a"],
        ),
        (["--resume", "x.bin", "--generate", "a"], ["generate", "--model", "x.bin", "--", "a"]),
        (["--resume=x.bin", "--generate", "a"], ["generate", "--model=x.bin", "--", "a"]),
        (["--resume", "--generate", "a"], ["generate", "--checkpoint", "checkpoint", "--", "a"]),
        (["--bpe=500", "--serve"], ["serve", "--checkpoint", "checkpoint"]),
        (["--serve", "8099"], ["serve", "--checkpoint", "checkpoint", "--port", "8099"]),
        (["--serve=:81"], ["serve", "--checkpoint", "checkpoint", "--port", "81"]),
        (["--serve", "[::1]:80"], ["serve", "--checkpoint", "checkpoint", "--host", "::1", "--port", "80"]),
        (["--serve", "::1"], ["serve", "--checkpoint", "checkpoint", "--host", "::1"]),
        (["--iters", "100", "--seed", "1", "--serve"], ["serve", "--checkpoint", "checkpoint"]),
        (["--serve", "--resume", "x.bin"], ["serve", "--model", "x.bin"]),
        (["--iters", "9", "--top-p", "0.9", "--max-tokens=5"], ["train", "--recipe", "classic", "--iters", "9"]),
        (["--resume=x.bin"], ["train", "--resume=x.bin"]),
        (["train", "--resume"], ["train", "--resume="]),
        (["train", "--resume", "--quiet"], ["train", "--resume=", "--quiet"]),
        (["train", "--resume", "x.bin", "--quiet"], ["train", "--resume", "x.bin", "--quiet"]),
        (["train", "--help"], ["train", "--help"]),
        (["--help"], ["--help"]),
        (["--version"], ["--version"]),
        (["-h"], ["-h"]),
        (["--install-completion"], ["--install-completion"]),
        (["publish", "--resume"], ["publish", "--resume"]),
        (["publish", "x.bin", "--json"], ["publish", "x.bin", "--json"]),
        (["serve", "--port", "8080"], ["serve", "--port", "8080"]),
    ],
    ids=lambda words: " ".join(words) or "nothing",
)
def test_rust_command_line_is_translated(typed: list[str], meant: list[str]) -> None:
    given = list(typed)
    assert normalise(given) == meant
    assert given == typed
