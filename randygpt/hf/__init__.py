"""Export for transformers: its JSON files and the modules that run the model there.

The modules `configuration_randygpt` and `modeling_randygpt` are copied into an export and run without randygpt: they
import only torch and transformers. Nothing in this package imports them.
"""
