"""What several test modules share: a tiny model, a scripted relay, ways to run the real command."""
