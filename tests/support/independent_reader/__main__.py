"""The reader as a program."""

import sys
import time
from pathlib import Path

from .reader import Reader
from .refused import Refused
from .relay import Relay
from .server import Server


def main(url: str, reference: str, folder: str, *options: str) -> None:
    servers = [option.removeprefix("--server=") for option in options if option.startswith("--server=")]
    get = Server(servers[0]).get if servers else lambda _: None
    reader = Reader(Relay(url).ask, int(time.time()), get)
    files = reader.read(reference, weights_only="--weights-only" in options)
    for path, data in files.items():
        (Path(folder) / path).write_bytes(data)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except Refused as complaint:
        sys.exit(f"refused: {complaint}")
