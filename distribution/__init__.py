"""Bytes and trust: how files become signed events and events become verified files. Knows no checkpoint format.

`chunking`, `manifest`, `announcement`, `assembler` and `trust` do no I/O; `store` and `journal` own the disk;
`publish` and `fetch` are the use cases. Import what you need from the module that owns it.
"""
