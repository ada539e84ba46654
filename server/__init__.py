"""HTTP inference: sees models and the store, never relays or keys.

`schema` and `auth` do no I/O; `models` loads, `reloader` watches the store's signal, `engine` decodes on threads of its
own, `app` is the HTTP edge.
"""
