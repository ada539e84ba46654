"""Nostr, and nothing but nostr: events, keys, relay sessions, many relays at once. Knows no checkpoint.

`event`, `filter`, `messages`, `session` and `keys` do no I/O; `connection`, `pool` and `embedded` are the edges.
Import what you need from the module that owns it.
"""
