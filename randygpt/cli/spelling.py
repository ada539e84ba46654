"""The Rust program's spelling of the command line, as ours. No I/O."""

_OWN_FLAGS = {"-h", "--help", "--version", "--install-completion", "--show-completion"}


def normalise(arguments: list[str]) -> list[str]:
    """Arguments that start with a flag are a `train` run; a `--resume` without a file becomes `--resume=`."""
    if arguments and arguments[0].startswith("-") and arguments[0] not in _OWN_FLAGS:
        arguments = ["train", *arguments]
    if arguments[:1] != ["train"]:
        return arguments
    followers = [*arguments[1:], "-"]
    return [
        "--resume=" if argument == "--resume" and follower.startswith("-") else argument
        for argument, follower in zip(arguments, followers, strict=True)
    ]
