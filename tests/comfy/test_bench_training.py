"""The trainer's benchmark in small: every part runs, and the peers do the work that they are said to do."""

import comfy.utils
import pytest
import torch
from mixlora.benchmarks import training, training_exactness, training_peers, training_processes
from mixlora.benchmarks.training import Extent, Size
from mixlora.training.distribution import World
from torch import nn

SMALL = Extent((Size(8, 2, 3),), rounds=1, depth="two levels")


@pytest.fixture(scope="module")
def task():
    return training.resized(training.make_task("two levels", 8), Size(8, 1, 4))


def watched(unet, count):
    """Counts the rows that go through the UNet."""
    return unet.register_forward_pre_hook(lambda _, inputs: count.append(len(inputs[0])))


def test_the_file_and_the_resumed_run_are_exact(task):
    file, effect, resumed = training_exactness.file_rows(task) + training_exactness.resume_rows(task, steps=3)
    assert file.holds and 0 < effect.value < 1e-4 and resumed.value == 0 and resumed.holds


def test_two_processes_train_as_one():
    pytest.importorskip("accelerate")
    adapter, losses, movement = training_processes.process_rows(steps=2)
    assert (adapter.value, losses.value, movement.value) == (0, 0, 0), "sums in fp64 do not depend on who adds up what"
    start, two = (training_processes.trained(World(), steps)["adapter"] for steps in (0, 2))
    assert (two - start).norm() > 1e-4 * start.norm(), "else nothing was compared"


def test_the_peers_do_what_is_said_of_them(task, monkeypatch):
    pytest.importorskip("peft", exc_type=ImportError)
    try:
        scripts = training_peers.Scripts(task.device, task.dtype, full=False)
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"diffusers cannot be imported: {error}")
    unet, rows, encoded, trained = task.model.model.diffusion_model, [], [], []
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    handles = [watched(unet, rows), watched(scripts.unet, rows)]
    handles.append(scripts.text_encoder.register_forward_pre_hook(lambda *_: encoded.append("text")))
    handles.append(scripts.vae.encoder.register_forward_pre_hook(lambda *_: encoded.append("picture")))
    adamw = torch.optim.AdamW

    def optimizer(parameters, *args, **options):
        trained.append(list(parameters))
        return adamw(trained[-1], *args, **options)

    monkeypatch.setattr(torch.optim, "AdamW", optimizer)
    bar = comfy.utils.PROGRESS_BAR_ENABLED, comfy.utils.PROGRESS_BAR_HOOK
    for run, texts, pictures in (
        (lambda: training.ours(task, 1), 0, 0),
        (lambda: training_peers.train_lora_node(task, 1), 0, 0),
        (lambda: scripts.diffusers_way(task, 1), 8, 8),
        (lambda: scripts.kohya_way(task, 1), 8, 0),
    ):
        assert len(run()) == 1 and rows == [1] * 8  # two steps of four pictures, one timed
        assert (encoded.count("text"), encoded.count("picture")) == (texts, pictures)
        rows.clear()
        encoded.clear()
    own, node, peft, beside = trained
    assert [parameter.numel() for parameter in own] == [sum(parameter.numel() for parameter in peft)]
    matrices = [m for m in unet.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    assert len(node) > 3 * len(matrices)  # two factors each, and all biases and norms
    assert len(peft) == 2 * 56 and len(beside) == 2 * (56 + 7 * 2 + 7 * 2)  # attention; and feed-forward, projections
    assert all(parameter.dtype == torch.float32 for parameter in peft)
    assert all(parameter.grad is None for parameter in peft)  # stepped and cleared
    assert all(up.any() for up in beside[1::2]) and any(factor.any() for factor in peft[1::2])

    after = unet.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert not any(getattr(module, "weight_function", None) for module in unet.modules())
    assert not any("lora" in name for name, _ in scripts.unet.named_modules())
    assert bar == (comfy.utils.PROGRESS_BAR_ENABLED, comfy.utils.PROGRESS_BAR_HOOK)
    for handle in handles:
        handle.remove()


@pytest.fixture
def fast(monkeypatch):
    """Without the clean-up before every turn: a test process has much to look through."""
    monkeypatch.setattr(training.gc, "collect", lambda: 0)


def test_ratios_are_of_the_fastest_steps_and_a_part_is_not_the_table(task, fast, monkeypatch, capsys):
    class Scripts:
        def __init__(self, *_):
            self.diffusers_way, self.kohya_way = (lambda *_: [7.0, 6.0]), (lambda *_: [4.4])

    monkeypatch.setattr(training, "ours", lambda _, steps, **options: [5.0 if options else 4.0] * steps)
    monkeypatch.setattr(training_peers, "Scripts", Scripts)
    monkeypatch.setattr(training_peers, "train_lora_node", lambda *_: [10.0])
    found = training.speed_rows(task, SMALL)
    assert [row.value for row in found] == [1.5, 2.5, 2.0, 1.5, pytest.approx(1.1)]
    assert [row.holds for row in found] == [None, True, None, True, False]
    assert all(row.name.startswith("64 px, batch 2 x 3: ") for row in found)

    written = []
    monkeypatch.setattr(training, "make_task", lambda *_: task)
    monkeypatch.setattr(training, "write_results", lambda *arguments: written.append(arguments))
    for name in ("file_rows", "resume_rows"):
        monkeypatch.setattr(training_exactness, name, lambda *_: [])
    monkeypatch.setattr(training_processes, "process_rows", lambda *_: [])
    looks = (["--side=8"], ["--rounds=1"], ["--depth=two levels"])
    topics = (([], ["training"]), (["--only", "speed", "file"], ["training-file-speed"]))
    for arguments, expected in (*topics, *((look, []) for look in looks)):
        written.clear()
        assert training.main(arguments) == 0 and [topic for topic, *_ in written] == expected
    assert "512 px, batch 1: ours / kohya's way (CLIP in each batch)" in capsys.readouterr().out


def test_the_fastest_step_counts(fast):
    spent = iter([[3.0, 2.0], [9.0], [4.0], [1.0, 8.0]])
    found = training.fastest({"a": lambda _: next(spent), "b": lambda _: next(spent)}, 1, 2)
    assert found == {"a": 2.0, "b": 1.0}
