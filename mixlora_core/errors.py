"""What can be wrong with a LoRA, as exceptions. Every message names the file, what was expected, and what to do."""

from __future__ import annotations


class AdapterError(ValueError):
    """A LoRA that cannot be used as asked; the base of all errors that this package raises on purpose."""


class LoraNameError(AdapterError):
    """A name that is no file in ComfyUI's `loras` folders, or that tries to leave them."""


class StrengthError(AdapterError):
    """A strength, total or limit that is no finite number, or a row of a stack that cannot be understood."""


class UnreadableFileError(AdapterError):
    """A file that is empty, truncated, pickled, or no safetensors file at all."""


class TensorError(AdapterError):
    """A tensor that is not finite, lacks its partner, or does not fit the others or the model."""


class NoMatchError(AdapterError):
    """A file of which nothing belongs to the model: applying it would silently do nothing."""


class CompositionError(AdapterError):
    """A composition that cannot be run as asked: no adapters, an impossible timetable, weights that say nothing."""


class PromptError(AdapterError):
    """A prompt whose strengths cannot be understood: an unknown or doubtful name, no number, an impossible window."""


class MergeError(AdapterError):
    """A merge that cannot be made as asked: settings out of range, an order for another stack, no CLIP."""


class LearnedMixError(AdapterError):
    """A file with a learned mix that is none, or that is for other adapters or another base than those at hand."""


class RouterError(AdapterError):
    """A router file that is none, is damaged, or was trained for other adapters or for another base model."""
