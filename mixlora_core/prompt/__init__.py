"""Strengths and schedules that stand in a prompt: who is meant, what is said, what comes of it.

`names` finds the adapter that words mean, `numbers` reads strengths and windows, `grammar` finds what is said where,
`plan` puts it together: all pure. `similarity` asks a CLIP, `speaking` applies a plan, `report` tells it in words.
"""
