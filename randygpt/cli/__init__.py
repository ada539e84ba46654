"""The command line: wires the packages together, speaks with the user, turns errors into exit codes.

A command imports what it needs when it runs, so `--help`, `publish` and `fetch` never wait for torch.
"""
