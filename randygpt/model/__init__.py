"""The network, its sampling and its tokenizers: arrays and text in, arrays and text out. Knows no file."""
