"""HTTP inference server: reads models and the store, opens no relay connections and never handles signing keys.

A request passes `middleware` and `app`, is parsed by `schema`, and becomes a `completion` of sequences, which
the `engine` decodes in a `batch` per worker. `reloader` swaps the active model of `models`.
"""
