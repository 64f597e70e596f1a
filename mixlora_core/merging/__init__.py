"""Merges that know where adapters disturb each other, and a report of where they do. Pure torch, on low-rank factors.

`ssr` routes each input to the adapter that it belongs to, `null_space` keeps adapters off the inputs of those with
priority, `conflicts` measures. `merged` (one floor up) applies them to a stack and a model. TIES, DARE and KnOTS are
not here: other packs have them.
"""
