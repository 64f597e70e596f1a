"""What a vision-language model is asked: the rubric of Multi-LoRA Composition (arXiv 2402.16843) in our words.

It names no method. The answer ends in the paper's two lines of scores, not in JSON: every server can give plain text,
hosted or local, and a model that explains itself before it counts follows the rubric better.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..jobs import Element

COMPOSITION, QUALITY = "composition", "quality"
MEASURES = (COMPOSITION, QUALITY)

HIGHEST, STEP = 10.0, 0.5

LINE = "Image {number}: Composition Quality: {composition}/10, Image Quality: {quality}/10"
"""How a picture's scores are written."""

_RUBRIC = """\
Image 1 and Image 2 were made by two text-to-image systems that had the same task: to bring these elements together in \
one picture. After each element stand the features that it should show.

{elements}

Rate both pictures on two scales from 0 (worst) to 10 (best), in steps of 0.5.

Composition quality: begin with 10 and take off
- 3 for each element that is missing or depicted wrongly,
- 1 for each feature of an element that is missing or wrong,
- 1 where elements do not quite fit or harmonise with each other,
- more where the whole lacks coherence, creativity or realism.

Image quality: begin with 10 and take off
- 3 for each deformity, such as extra limbs or fingers, a distorted face, wrong proportions,
- 2 where texture, light or colour are noticeably wrong,
- 1 for each smaller flaw,
- more where anything else spoils beauty or clarity.

Be critical, and try not to give both pictures the same scores on both scales.

Go through the rubric step by step, in a few sentences for each picture. Then end your answer with exactly these two \
lines, with numbers in place of X:
{lines}"""


def question(elements: Sequence[Element]) -> str:
    """The text that goes with two pictures of a set."""
    listed = (f"{number}. {one.category} ({one.name}): {one.trigger}" for number, one in enumerate(elements, 1))
    lines = (LINE.format(number=number, composition="X", quality="X") for number in (1, 2))
    return _RUBRIC.format(elements="\n".join(listed), lines="\n".join(lines))
