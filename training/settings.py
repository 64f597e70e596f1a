"""Every training option: its default, range and help, in one place; the command line and TOML files map onto it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import Field, asdict, dataclass, field, fields
from typing import Any

TARGETS = ("attention", "ff", "proj", "conv")
"""Kinds of layers that can be adapted."""

OPTIMIZERS = {"adamw": 5e-4, "lion": 1e-4, "prodigy": 1.0}
"""Each optimizer's own default learning rate."""


class TrainingError(Exception):
    """Something that the user can mend; the message says what was expected, what was found and what to do."""


def _option(
    default: Any,
    kind: type,
    help: str,
    allowed: Callable[[Any], bool] = lambda value: True,
    expected: str = "",
    *,
    choices: tuple[str, ...] | None = None,
    shapes_result: bool = True,
    group: str = "training",
) -> Any:
    """A field that knows its help and its range; `shapes_result` False if the trained bytes don't depend on it."""
    if choices:
        allowed, expected = lambda value: value in choices, "one of " + ", ".join(choices)
    details = dict(kind=kind, help=help, allowed=allowed, expected=expected, choices=choices, group=group)
    return field(default=default, metadata={**details, "shapes_result": shapes_result})


_data: dict[str, Any] = dict(group="pictures and captions", shapes_result=False)  # what of it counts is in the samples


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How to train one LoRA. Raises TrainingError that lists every value out of range.

    A step is one update of the adapter; it sees ``batch * accumulate`` samples.
    """

    trigger: str = _option(
        "", str, "words that ask for the style in a prompt; added to every caption that lacks them, and the caption of "
        "pictures without one", **_data,
    )  # fmt: skip
    resolution: int = _option(
        512, int, "pictures are scaled and cut to about the area of a square of so many pixels a side",
        lambda v: v >= 64 and v % 8 == 0, "a multiple of 8, 64 or more", **_data,
    )  # fmt: skip
    buckets: bool = _option(
        True, bool, "cut each picture to the nearest of several proportions, with sides of multiples of 64 pixels "
        "between half and twice the resolution; without, cut all to squares", **_data,
    )  # fmt: skip
    flip: bool = _option(False, bool, "show half of the samples mirrored left to right", **_data)
    repeats: int = _option(
        1, int, "how often an epoch shows a picture; the length of a run is set by steps alone", lambda v: v >= 1,
        "1 or more", **_data,
    )  # fmt: skip
    folder_repeats: bool = _option(
        True, bool, "show what lies in a folder of the data named like 10_monet ten times as often", **_data
    )
    caption_shuffle: int = _option(
        0, int, "show each caption in so many orders of its comma-separated tags, the written one among them; 0 for "
        "that one only, 8 are plenty", lambda v: v == 0 or v >= 2, "0, or 2 or more", **_data,
    )  # fmt: skip
    keep_tags: int = _option(
        0, int, "tags that caption_shuffle leaves in front", lambda v: v >= 0, "0 or more", **_data
    )  # fmt: skip
    caption_chunks: int = _option(
        3, int, "longest caption, in chunks of CLIP's 75 tokens", lambda v: 1 <= v <= 3, "1, 2 or 3", **_data
    )
    clip_skip: int = _option(
        1, int, "which of SD v1.5's text layers is read, counted from the last; some models were made for 2",
        lambda v: 1 <= v <= 12, "from 1 to 12", **_data,
    )  # fmt: skip
    targets: str = _option(
        "attention", str, 'kinds of layers to adapt, joined by "+": attention; ff (feed-forward); proj (in and out of '
        'the transformers); conv (residual, down, up); or "all"',
        lambda v: v == "all" or (set(v.split("+")) <= set(TARGETS) and len(set(v.split("+"))) == v.count("+") + 1),
        f'"all" or some of {", ".join(TARGETS)}, joined by "+"',
    )  # fmt: skip
    blocks: str = _option(
        "all", str, 'blocks to adapt: "all", or patterns such as "middle output" or "input.[4-8], output.3"'
    )
    rank: int = _option(4, int, "rank of the adapter", lambda v: v >= 1, "1 or more")
    alpha: float = _option(
        None, float, "the adapter is scaled by alpha / rank (default: equal to rank)", lambda v: v > 0, "more than 0"
    )
    steps: int = _option(1500, int, "updates of the adapter", lambda v: v >= 1, "1 or more")
    batch: int = _option(1, int, "pictures that go through the UNet together", lambda v: v >= 1, "1 or more")
    accumulate: int = _option(4, int, "batches whose gradients make one step", lambda v: v >= 1, "1 or more")
    optimizer: str = _option(
        "adamw", str, "adamw; lion (half of its memory); prodigy (finds the learning rate itself). The last two need "
        "the package pytorch_optimizer",
        choices=tuple(OPTIMIZERS),
    )  # fmt: skip
    lr: float = _option(
        None, float, "highest learning rate; prodigy multiplies its own by it (default: "
        + ", ".join(f"{lr:g} for {name}" for name, lr in OPTIMIZERS.items()) + ")",
        lambda v: v > 0, "more than 0",
    )  # fmt: skip
    schedule: str = _option(
        "cosine", str, "learning rate after the warm-up",
        choices=("constant", "linear", "cosine", "cosine_with_restarts", "polynomial"),
    )  # fmt: skip
    cycles: int = _option(3, int, "cosine_with_restarts: how often it falls", lambda v: v >= 1, "1 or more")
    power: float = _option(2.0, float, "polynomial: its power; 1 is linear", lambda v: v > 0, "more than 0")
    warmup: float = _option(
        0.05, float, "share of the steps in which the learning rate rises", lambda v: 0 <= v < 1, "0 or more, below 1"
    )
    weight_decay: float = _option(0.01, float, "weight decay, as in AdamW", lambda v: v >= 0, "0 or more")
    clip_norm: float = _option(1.0, float, "longest gradient, 0 for no limit", lambda v: v >= 0, "0 or more")
    min_snr: float = _option(
        5.0, float, "gamma of the min-SNR loss weights (arXiv 2303.09556), 0 for none", lambda v: v >= 0, "0 or more"
    )
    noise_offset: float = _option(
        0.0, float, "strength of noise that is equal over a whole channel, for very dark and bright pictures; 0.05 to "
        "0.1 where wanted", lambda v: v >= 0, "0 or more",
    )  # fmt: skip
    caption_dropout: float = _option(
        0.1, float, "share of the samples that see an empty caption", lambda v: 0 <= v <= 1, "from 0 to 1",
        group=_data["group"],
    )  # fmt: skip
    ema: float = _option(
        0.0, float, "decay of a moving average of the adapter, which is then the result; 0 for none",
        lambda v: 0 <= v < 1, "0 or more, below 1",
    )  # fmt: skip
    seed: int = _option(0, int, "seed of everything random")
    dtype: str = _option(
        "auto", str, "number format of the frozen base; auto is bf16 where the device multiplies it. The adapter is "
        "always fp32",
        choices=("auto", "fp32", "bf16", "fp16"), shapes_result=False,
    )  # fmt: skip
    channels_last: bool = _option(True, bool, "keep the UNet's convolutions in channels-last order (faster)")

    def __post_init__(self) -> None:
        if self.alpha is None:
            object.__setattr__(self, "alpha", float(self.rank) if isinstance(self.rank, (int, float)) else 1.0)
        if self.lr is None:
            object.__setattr__(self, "lr", OPTIMIZERS.get(self.optimizer, 1.0))
        more = []
        if self.keep_tags and not self.caption_shuffle:
            more.append("keep_tags: no tag is moved without caption_shuffle")
        _check(self, more)

    @property
    def global_batch(self) -> int:
        """Samples per step."""
        return self.batch * self.accumulate

    def shaping_result(self) -> dict[str, Any]:
        """The options that the trained bytes depend on, beside base and samples; a resumed run must repeat them."""
        shaping = {option.name for option in fields(self) if option.metadata["shapes_result"]}
        return {name: value for name, value in asdict(self).items() if name in shaping}


_not_negative: dict[str, Any] = dict(allowed=lambda v: v >= 0, expected="0 or more")
_keep: dict[str, Any] = dict(group="keeping the run", shapes_result=False)
_see: dict[str, Any] = dict(group="seeing the run", shapes_result=False)


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """What is seen and kept of a run. Raises TrainingError that lists all that is out of range or contradictory."""

    save_every: int = _option(
        250, int, "steps between saves of the run, 0 for none", **_not_negative, **_keep
    )  # fmt: skip
    save_minutes: float = _option(
        10.0, float, "minutes between saves of the run, 0 for none", **_not_negative, **_keep
    )  # fmt: skip
    max_minutes: float = _option(
        0.0, float, "save and stop so many minutes after the start, 0 for no limit", **_not_negative, **_keep
    )  # fmt: skip
    export_every: int = _option(
        0, int, "steps between LoRA files on the way (NAME-step000500.safetensors), 0 for none",
        **_not_negative, **_keep,
    )  # fmt: skip
    keep_best: bool = _option(
        False, bool, "also write NAME-best.safetensors, the adapter of the best validation", **_keep
    )  # fmt: skip
    validation: float = _option(
        0.1, float,
        "pictures held out from training to see whether it learns or overfits: below 1 a share (at least two pictures; "
        "none of a folder with fewer than ten), from 1 on their number, 0 for none",
        lambda v: v >= 0 and (v < 1 or v == int(v)), "a share below 1 or a whole number", **_see,
    )  # fmt: skip
    validate_every: int = _option(
        100, int, "steps between validations; then curves are drawn, too", lambda v: v >= 1, "1 or more", **_see
    )
    sample_every: int = _option(0, int, "steps between sample pictures, 0 for none", **_not_negative, **_see)
    sample_prompts: tuple[str, ...] = _option(
        (), tuple,
        "prompts of the sample pictures, or a .txt file with one on each line (default: the captions of four pictures)",
        lambda v: all(text.strip() for text in v), "prompts that are not empty", **_see,
    )  # fmt: skip
    sample_negative: str = _option("", str, "negative prompt of the sample pictures", **_see)
    sample_seed: int = _option(0, int, "seed of the first sample picture, the next one has the next", **_see)
    sample_steps: int = _option(20, int, "sampling steps of a sample picture", lambda v: v >= 1, "1 or more", **_see)
    sample_cfg: float = _option(7.0, float, "guidance of the sample pictures", lambda v: v >= 1, "1 or more", **_see)
    tensorboard: bool = _option(False, bool, "also write TensorBoard's event files", **_see)

    def __post_init__(self) -> None:
        if isinstance(self.sample_prompts, list):  # as TOML and argparse have it
            object.__setattr__(self, "sample_prompts", tuple(self.sample_prompts))
        more = []
        if self.keep_best and not self.validation:
            more.append("keep_best: needs a validation; give validation, or leave keep_best out")
        if self.sample_prompts and not self.sample_every:
            more.append("sample_prompts: no picture is painted without sample_every")
        _check(self, more)


def _check(settings: Any, more: Sequence[str] = ()) -> None:
    found = (_problem(option, getattr(settings, option.name)) for option in fields(settings))
    if problems := [*filter(None, found), *more]:
        raise TrainingError("Settings out of range:\n" + "\n".join(f"  {problem}" for problem in problems))


def _problem(option: Field[Any], value: Any) -> str | None:
    kind, expected = option.metadata["kind"], option.metadata["expected"]
    accepted = (int, float) if kind is float else kind
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        return f"{option.name}: expected {_KINDS[kind]}, found {value!r}"
    if kind is float and not math.isfinite(value):
        return f"{option.name}: expected a finite number, found {value!r}"
    if isinstance(value, tuple) and not all(isinstance(entry, str) for entry in value):
        return f"{option.name}: expected {_KINDS[kind]}, found {value!r}"
    if not option.metadata["allowed"](value):
        return f"{option.name}: expected {expected}, found {value!r}"
    return None


_KINDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false", tuple: "a list of texts"}
