"""A run of the toy that test_training_keeping.py kills: it saves and validates after every step.

python killed_process.py FOLDER
"""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

from mixlora.training.between import Between
from mixlora.training.checkpoint import Autosave
from mixlora.training.display import Display
from mixlora.training.ending import seen_off
from mixlora.training.export import Exported
from mixlora.training.files import serialise, write_atomically
from mixlora.training.loop import train
from mixlora.training.run_folder import RunFolder
from mixlora.training.settings import RunSettings
from mixlora.training.validation import Validation, held_out

_spec = importlib.util.spec_from_file_location("toy", Path(__file__).with_name("test_training_loop.py"))
assert _spec and _spec.loader
toy = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(toy)

SETTINGS = replace(toy.SETTINGS, steps=60, ema=0.9)
KEEPING = RunSettings(save_every=1, save_minutes=0.0, validate_every=13, export_every=10, keep_best=True, validation=2)


def run(output: Path, settings=SETTINGS, keeping=KEEPING, *, stop=lambda: False, on_step=None, board=None, base=None):
    """Trains as the command line does, with the toy for a base and bare tensors for LoRA files."""
    folder = RunFolder(output)

    def export(lora, path, steps):
        write_atomically(path, serialise({"flat": lora.flat}, {"steps": str(steps)}))
        return Exported(path, len(lora.names), path.stat().st_size, "", 0.0)

    everything = toy.samples(8)
    held = held_out(len(everything), keeping.validation, settings.seed)
    rest = everything.subset([i for i in range(len(everything)) if i not in held])
    validation = Validation(everything.subset(held), keeping.validate_every)
    watch = Between(folder, keeping, Display(), stop, export, validation, board=board)
    autosave = Autosave(folder.state, keeping.save_every, keeping.save_minutes, resume=True)
    on_step = on_step or watch.on_step
    with folder.locked():
        with seen_off(watch):
            trained = train(
                base or toy.base(), rest, settings, autosave=autosave, watch=watch, on_step=on_step, stop=stop
            )
        if trained.finished:
            export(trained.lora, output, trained.steps)
    return trained, validation


if __name__ == "__main__":
    run(Path(sys.argv[1]) / "toy.safetensors", on_step=lambda at: print(at.step, flush=True))
