"""Shared by test modules: a tiny model, real and scripted relays, ways to run the command."""
