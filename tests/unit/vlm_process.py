"""A judge that test_judge_vlm.py kills: the real one, on painted pictures, against a server elsewhere.

python vlm_process.py FOLDER URL
"""

import importlib.util
import sys
from pathlib import Path

from mixlora.evaluation.judges import vlm
from mixlora.evaluation.judges.client import Client, Endpoint
from mixlora.evaluation.runner import open_results

_spec = importlib.util.spec_from_file_location("judge_world", Path(__file__).with_name("judge_world.py"))
assert _spec and _spec.loader
world = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(world)

if __name__ == "__main__":
    endpoint = Endpoint("eyes", sys.argv[2])
    with open_results(Path(sys.argv[1])) as store:
        showings, _ = vlm.showings(world.jobs(), world.ELEMENTS, store)
        vlm.ask(vlm.Docket(showings, store, endpoint, 3), Client(endpoint, "none"), 1, world.nothing)
