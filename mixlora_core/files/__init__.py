"""What a LoRA file is, before any model is known: reading and writing, layouts, families, header, hashes.

Needs torch at most, no ComfyUI.
"""
