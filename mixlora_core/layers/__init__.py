"""Strengths that differ by layer: groups of layers, adapters cut into them, and the methods that are built on that.

`blocks`, `importance` and `splitting` are pure; `concept_style` and `learned_mix` make a MODEL and need ComfyUI.
"""
