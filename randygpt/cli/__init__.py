"""Command line: composition root of the four packages, one module per command.

A command imports what it needs when it runs, so that `--help`, `publish` and `fetch` never load torch.
"""
