"""The pack's own craft: files, stacks, mixing and execution. It knows no node, no file dialog and no command line.

Import the modules by name: the packages' docstrings say what lies in them and which modules need ComfyUI on the path.
Of those here `errors`, `low_rank`, `numbers`, `stack` and `contact_sheet` need torch at most.
"""
