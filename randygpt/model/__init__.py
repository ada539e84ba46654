"""The network, its sampler and its tokenizers: arrays and text in, arrays and text out. No I/O."""
