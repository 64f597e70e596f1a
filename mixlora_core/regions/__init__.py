"""Each adapter in its own part of the picture: by masks, or by where the model looks at its words.

`masks`, `attention_masks` and `words` are pure; `regional` needs ComfyUI on the path.
"""
