"""What an export for transformers consists of: its JSON files, and the two modules that stand beside the weights.

Those two, `configuration_randygpt` and `modeling_randygpt`, are copied as they are and run where randygpt is not
installed: they import torch and transformers alone. Nothing here imports them.
"""
