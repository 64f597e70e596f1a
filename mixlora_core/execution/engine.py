"""Runs a composition on a live ComfyUI model: step from sigma -> branches -> executor -> one prediction.

ComfyUI keeps its whole part: samplers, masks and areas, ControlNet, batching by free memory, previews, interrupt. A
branch is a copy of the conditionings; ComfyUI itself averages conditionings of one list, which is the fusion.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import torch
from torch import Tensor

from ..composition import BOTH, Branch, Composition, fusion
from ..composition.fusion import Moment, NothingKept
from ..composition.schedule import step_of
from ..errors import CompositionError
from ..regions.attention_masks import FromAttention
from . import conditioning
from .executor import BranchId, Executor, Origin
from .overhearing import overhearing
from .run import Run

Parts = list[tuple[Sequence[Branch], Tensor]]
"""Predictions for one list of conditionings, and of which branches each is."""


@dataclass(frozen=True, eq=False)
class _Call:
    """One call of the model: what is predicted, from what, and by whom."""

    execute: Any
    model: Any
    conds: list
    origins: Sequence[Origin]
    x: Tensor
    timestep: Tensor
    options: dict


@dataclass(frozen=True, eq=False)
class Engine:
    """One composition on one clone. Holds nothing that changes: what a run knows travels in its own options."""

    key: str
    strengths: Sequence[float]
    composition: Composition
    begin: Callable[[], Executor]
    instead: Callable[[], Executor] | None
    """Begins without a copy of the weights what would need one, where the device has no room for it."""
    branches_at_once: int | None

    def sample(self, execute: Any, guider: Any, sigmas: Tensor, extra_args: dict, *args: Any, **kwargs: Any) -> Any:
        """Around a sampler: opens a run, and puts everything back whatever happens."""
        options = extra_args["model_options"]["transformer_options"]
        run = options[self.key] = self._open(sigmas, guider.inner_model, guider)
        try:
            return execute(guider, sigmas, extra_args, *args, **kwargs)
        finally:
            run.executor.close(guider.inner_model)

    def predict(
        self, execute: Any, model: Any, conds: list, x: Tensor, timestep: Tensor, model_options: dict
    ) -> list[Tensor]:
        """Around the predictions of one model call: one for each list of conditionings, fused over the branches."""
        options = model_options.get("transformer_options", {})
        run = options.get(self.key)
        if run is not None:
            return self._fused(run, execute, model, conds, x, timestep, model_options)
        # Another pack calls the model without one of ComfyUI's samplers.
        run = self._open(options.get("sample_sigmas"), model)
        try:
            model_options = {**model_options, "transformer_options": {**options, self.key: run}}
            return self._fused(run, execute, model, conds, x, timestep, model_options)
        finally:
            run.executor.close(model)

    def forward(self, execute: Any, x: Tensor, t: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Around the forward of one batch: with rows every chunk of it gets its branch's coefficients.

        Other nodes learn which chunks are of the positive prompt and which of the negative one, whatever lists a
        fusion has made of them.
        """
        options = kwargs.get("transformer_options") or args[3]
        run, chunks = options.get(self.key), options.get("uuids", ())
        ids = [chunk for chunk in chunks if isinstance(chunk, BranchId)]
        spoken = [one.spoken[self.key] for one in ids if self.key in one.spoken]
        if run is None or not spoken:
            return execute(x, t, *args, **kwargs)  # not one of this composition's predictions
        if len(ids) == len(chunks):
            options["cond_or_uncond"] = [one.origin.place for one in ids]
        if run.executor.together == 1:  # weights say everything already, whatever the rows are
            return execute(x, t, *args, **kwargs)
        run.check(x, len(chunks), spoken)
        model, each = execute.class_obj, len(x) // len(chunks)
        with (
            run.executor.speaking(model, spoken, x, options),
            overhearing(model, spoken, each, options, run.heard),
        ):
            return execute(x, t, *args, **kwargs)

    def _open(self, sigmas: Tensor | None, model: Any, guider: Any = None) -> Run:
        levels = [] if sigmas is None else sigmas.tolist()
        if len(levels) > 1:  # else there is no step, and nothing will be asked
            self.composition.check(len(levels) - 1)
        streamed = getattr(model, "model_lowvram", False)  # known only now: it was loaded after `attach`
        executor = self.instead() if self.instead and streamed else self.begin()
        return Run(levels, executor, executor.together or self.branches_at_once, guider)

    def _fused(
        self, run: Run, execute: Any, model: Any, conds: list, x: Tensor, timestep: Tensor, model_options: dict
    ) -> list[Tensor]:
        """Predictions for each list of conditionings, those of the branches as one."""
        conditioning.check(conds, len(self.strengths), rewriting=run.executor.together == 1)
        step, run.shape = self._step(run, timestep), tuple(x.shape)
        call = _Call(execute, model, conds, conditioning.origins(conds, run.known), x, timestep, model_options)
        memories = run.memories(conds, call.origins, x, model_options.get("transformer_options", {}))
        moments = [Moment(step, run.steps, x, memory) for memory in memories]
        made = self._made(run, call, step, self.composition.branches(step, run.steps, run.guidance))
        try:
            return [self._fuse(parts, moment) for parts, moment in zip(made, moments, strict=True)]
        except NothingKept:
            composition: Any = self.composition
        made = self._made(run, call, step, composition.renewed(step, run.steps, run.guidance))
        return [self._fuse(parts, moment) for parts, moment in zip(made, moments, strict=True)]

    def _made(self, run: Run, call: _Call, step: int, branches: Sequence[Branch]) -> list[Parts]:
        """The branches' predictions for each list of conditionings, in as few batches as memory allows."""
        conds, sides = call.conds, [origin.side for origin in call.origins]
        told = [run.placed(one, step) for one in branches]
        if any(isinstance(branch.regions, FromAttention) for branch in told):
            conditioning.check_words(conds, sides, len(self.strengths))
        if run.executor.together == 1 and any(branch.regions for branch in told):
            raise CompositionError(
                "The composition gives regions in this step, but does not say that it is `regional`."
            )
        left = self._distinct(told, conds, sides)
        made: list[Parts] = [[] for _ in conds]
        while left:
            some = left[: run.at_once]
            self._prepare(run, call.model, some)
            asked = self._asked(some, call)
            lists = [
                conditioning.copies(conds[place], own, self.key, call.origins[place], call.x.shape[-2:])
                if own
                else None
                for place, own in asked
            ]
            try:
                predictions = call.execute(call.model, lists, call.x, call.timestep, call.options)
            except comfy.model_management.OOM_EXCEPTION:
                if len(some) == 1:
                    raise
                run.at_once = len(some) // 2
            else:
                for (place, own), prediction in zip(asked, predictions, strict=True):
                    made[place] += [(own, prediction)] if own else []
                left = left[len(some) :]
                continue
            # Here, not in the handler: there the error still holds the failed forward's tensors.
            logging.warning("MixLoRA: out of memory; going on with %d branches in a batch.", run.at_once)
            comfy.model_management.soft_empty_cache()
        return made

    def _prepare(self, run: Run, model: Any, branches: Sequence[Branch]) -> None:
        """Before their predictions; goes on without a copy of the weights where there is no memory for one."""
        try:
            run.executor.prepare(model, [branch.coefficients for branch in branches])
            return
        except comfy.model_management.OOM_EXCEPTION:
            if self.instead is None:
                raise
        run.executor.close(model)
        logging.warning("MixLoRA: out of memory for a copy of the weights; going on without one, which is slower.")
        comfy.model_management.soft_empty_cache()
        run.executor = self.instead()

    def _asked(self, branches: Sequence[Branch], call: _Call) -> list[tuple[int, list[Branch]]]:
        """What one model call predicts: places in `conds`, and the branches that ComfyUI averages for each.

        A fusion other than the mean gets every branch's prediction by itself, and so does the mean where ComfyUI
        cannot take it.
        """
        asked: list[tuple[int, list[Branch]]] = []
        for place, (entries, origin) in enumerate(zip(call.conds, call.origins, strict=True)):
            own = [branch for branch in branches if origin.side and branch.side in (BOTH, origin.side)]
            if self.composition.fusion is not None or (own and conditioning.by_themselves(entries)):
                asked += [(place, [branch]) for branch in own]
            else:
                asked.append((place, own))
        return asked

    def _fuse(self, parts: Parts, moment: Moment) -> Tensor:
        if not parts:  # a list of conditionings that is not there, as the negative one without guidance
            return torch.zeros_like(moment.noisy)
        predictions = [prediction for _, prediction in parts]
        if self.composition.fusion is None:
            return fusion.mean(predictions, [sum(branch.weight for branch in own) for own, _ in parts])
        return self.composition.fusion(predictions, [branch for (branch,), _ in parts], moment)

    def _distinct(self, branches: Sequence[Branch], conds: list, sides: Sequence[str]) -> list[Branch]:
        """Branches that are asked for, with strengths in their coefficients; each once where the mean is taken.

        Two adapters of strength 0 predict the same.
        """
        for side in sides:
            if side and not any(branch.side in (BOTH, side) for branch in branches):
                raise CompositionError(f"The composition has no branch for the {side} prompt in this step.")
        own_texts = conditioning.own_texts(conds)
        weights: dict[tuple, float] = {}
        for branch in branches:
            if branch.side == BOTH or branch.side in sides:
                text = branch.text if own_texts or self.composition.fusion is not None else None
                what = (self._coefficients(branch), text, branch.side, branch.regions)
                weights[what] = weights.get(what, 0.0) + branch.weight
        return [Branch(what[0], weight, *what[1:]) for what, weight in weights.items()]

    def _step(self, run: Run, timestep: Tensor) -> int:
        if not self.composition.depends_on_step:
            return 0
        if not run.sigmas:
            raise CompositionError(
                "The sampler does not say its noise levels (sample_sigmas), so the step cannot be found. Use one of "
                "ComfyUI's samplers, or LoRA Composite, which needs no step."
            )
        return step_of(float(timestep.max()), run.sigmas)

    def _coefficients(self, branch: Branch) -> tuple[float, ...]:
        return tuple(c * strength for c, strength in zip(branch.coefficients, self.strengths, strict=True))
