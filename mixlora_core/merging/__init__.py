"""Merges that know where adapters disturb each other, and a report of where they do. On low-rank factors.

`ssr` routes each input to the adapter that it belongs to, `null_space` keeps adapters off the inputs of those with
priority, `conflicts` measures: pure torch. `calibration` listens to a stack, `merged` applies all to it and to a model;
these two need ComfyUI on the path. TIES, DARE and KnOTS are not here: other packs have them.
"""
