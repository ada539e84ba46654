"""HTTP inference server: sees models and the store, never relays or keys.

A request passes `middleware` and `app`, is parsed by `schema`, and becomes a `completion` of sequences, which
the `engine` decodes in a `batch` per worker. `reloader` swaps the active model of `models`.
"""
