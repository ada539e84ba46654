"""HTTP inference: sees models and the store, never relays or keys.

`schema` and what it is made of do no I/O; `models` loads, `reloader` watches the store's signal, `batch` writes many
texts side by side, a `writer` does so on a thread, `engine` has some of those, `app` is the HTTP edge and `guard` what
is around it.
"""
