"""A reader of protocol version 1, written from docs/protocol.md with nothing but Python's standard library.

It shares no code with randygpt, so what it reads is what the page explains. Slow, and meant to be read:

    python -m support.independent_reader ws://127.0.0.1:7777 ID FOLDER [--weights-only]

ID is a release's id or PUBKEY/NAME, in hex. The files of the release go to FOLDER, or none of them.
"""
