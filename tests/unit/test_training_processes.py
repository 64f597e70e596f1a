"""Two processes that share a run's micro-batches do what one does."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mixlora.training.distribution import World, joined_world
from mixlora.training.loop import train
from mixlora.training.settings import TrainingError
from safetensors import safe_open
from safetensors.torch import load_file

SCRIPT = Path(__file__).with_name("training_process.py")
pytest.importorskip("accelerate")
_spec = importlib.util.spec_from_file_location("training_process", SCRIPT)
assert _spec and _spec.loader
process = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(process)
toy = process.toy


def alone(settings, **options):
    return train(toy.base(), toy.samples(), settings, **options)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What the two processes wrote, and their folder. One of their runs goes on from a state that is made here."""
    folder = tmp_path_factory.mktemp("two")
    part = alone(process.UNEVEN, autosave=process.autosave(folder, "one-two"), stop=process.stopping(11, every=3))
    assert part.steps == 11
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    started = []
    for rank in "01":
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(SCRIPT), str(folder)]
        started.append(subprocess.Popen(
            command, env={**os.environ, **names, **where}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ))  # fmt: skip
    outputs = [running.communicate(timeout=300)[0] for running in started]
    assert [running.returncode for running in started] == [0, 0], "\n".join(outputs)
    return folder


@pytest.fixture(scope="module")
def results(two):
    return [load_file(two / f"{rank}.safetensors") for rank in range(2)]


def test_both_end_with_the_same_bits(results):
    assert results[0].keys() == results[1].keys()
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


@pytest.mark.parametrize("name, settings", [("even", process.SETTINGS), ("uneven", process.UNEVEN)])
def test_two_processes_are_one(results, name, settings):
    """Twenty steps, one global batch; what differs is the order in which gradients are added."""
    one = alone(settings)
    flat, losses = results[0][name], results[0][f"{name} losses"]
    assert (flat - one.lora.flat).norm() <= 1e-6 * one.lora.flat.norm()
    expected = torch.tensor(one.losses, dtype=torch.float64)
    assert (losses - expected).norm() <= 1e-6 * expected.norm()


def test_a_run_goes_on_with_fewer_or_more_processes(results, two):
    """Stopped by a signal to one of two processes and continued by one; stopped with one, continued by two."""
    whole = alone(process.UNEVEN).lora.flat
    rest = alone(process.UNEVEN, autosave=process.autosave(two, "two-one")).lora.flat
    for flat in (rest, results[0]["resumed"]):
        assert (flat - whole).norm() <= 1e-6 * whole.norm()


def test_an_error_of_one_process_ends_both(two):
    def messages(rank):
        with safe_open(two / f"{rank}.safetensors", "pt") as file:
            return json.loads(file.metadata()["messages"])

    main, other = messages(0), messages(1)
    assert main["failed"] == "Another process failed in step 1; its own message says why."
    assert other["failed"] == "division by zero"
    assert "Process(es) 1 of 2 have other settings" in main["differ"] and "here: samples" in other["differ"]
    assert "1 batch(es) per step cannot be shared by 2 processes" in main["few"]


def test_alone_without_a_launcher(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined_world() as world:
        assert world == World() and world.main
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TrainingError, match="each on its own device; give cuda"), joined_world("cuda:0"):
        pass
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(TrainingError, match="2 processes need the package accelerate"), joined_world():
        pass
