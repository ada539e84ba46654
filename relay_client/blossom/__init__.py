"""Blossom: files of nostr on HTTP servers, addressed by their SHA-256 (BUD-01, 02, 04, 06, 11, 12).

`client` talks to one server. `address` says which servers may be followed, `token` makes and checks authorization
tokens, `descriptor` describes a stored blob, `response` reads responses; these do no I/O.
"""
