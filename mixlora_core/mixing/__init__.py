"""The weighted mix, W' = W + sum of c_i * dW_i: from strengths to coefficients, to a MODEL and CLIP, to one file.

`modes` is pure; `energy`, `weighted_mix`, `mix_file` and `saving` need ComfyUI on the path.
"""
