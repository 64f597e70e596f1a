"""The pack's own craft: files, stacks, mixing and execution. It knows no node, no file dialog and no command line.

Import the modules by name. `errors`, `lora_file`, `metadata`, `families`, `hashes`, `layouts`, `low_rank`, `mixing`,
`stack`, `writing`, `regions`, `attention_masks`, `words` and `prompt` but for its `speaking` need torch at most;
`adapter`, `bases`, `energy`, `execution`, `weighted_mix`, `description`, `mix_file`, `regional` and `saving` need
ComfyUI on the path.
"""
