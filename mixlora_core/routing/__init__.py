"""The MixLoRA block (arXiv 2404.15159): feed-forward experts from several adapters, and who of them serves a token.

`router` is its maths, `router_file` its file, `experts` what of an adapter takes part, `routed` makes a MODEL of them,
`region_map` shows who served which place.
"""
