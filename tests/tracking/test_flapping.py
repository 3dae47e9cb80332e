"""A tracking server that is down, slow, or full of errors: the training knows nothing of it, and the next push loses nothing."""

import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlparse

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
import toy

from pipeline.files import write_json
from pipeline.plan import Plan, Run, plan_json
from pipeline.verbs import mirror as verb

RUN = "toy-s0-0123456789"


class Server(BaseHTTPRequestHandler):
    """The part of MLflow's REST interface that the mirror uses, kept in memory. ``mood`` says how it behaves: well, 500, slow, rude."""

    mood, runs, calls = "well", {}, 0

    def do_POST(self):
        self.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"] or 0)) or b"{}"))

    def do_GET(self):
        self.answer({name: values[0] for name, values in parse_qs(urlparse(self.path).query).items()})

    def answer(self, asked):
        Server.calls += 1
        mood = Server.mood if Server.mood != "flapping" else ("500", "well", "rude")[Server.calls % 3]
        if mood == "slow":
            time.sleep(1.5)
        if mood == "rude":
            self.connection.close()
            return
        code, found = (500, {"error_code": "INTERNAL_ERROR", "message": "no"}) if mood == "500" else self.served(asked)
        data = json.dumps(found).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def served(self, asked):
        what = urlparse(self.path).path.partition("/mlflow/")[2]
        runs = Server.runs
        if what.startswith("experiments/"):
            return 200, {"experiment": {"experiment_id": "1", "name": "tiny", "lifecycle_stage": "active"}}
        if what == "runs/create":
            number = f"{len(runs):032x}"
            runs[number] = {"tags": {tag["key"]: tag["value"] for tag in asked.get("tags", [])}, "metrics": {}, "params": {}}
            return 200, {"run": self.shown(number)}
        if what == "runs/search":
            return 200, {"runs": [self.shown(number) for number in runs]}
        if what == "runs/get":
            return 200, {"run": self.shown(asked["run_id"])}
        if what == "runs/set-tag":
            runs[asked["run_id"]]["tags"][asked["key"]] = asked["value"]
        elif what == "runs/log-batch":
            own = runs[asked["run_id"]]
            own["params"] |= {item["key"]: item["value"] for item in asked.get("params", [])}
            for item in asked.get("metrics", []):
                own["metrics"].setdefault((item["key"], int(item.get("step", 0))), []).append(item["value"])
        return 200, {}

    def shown(self, number):
        own = Server.runs[number]
        pairs = {name: [{"key": k, "value": v} for k, v in own[name].items()] for name in ("tags", "params")}
        info = {"run_id": number, "run_uuid": number, "experiment_id": "1", "status": "RUNNING", "lifecycle_stage": "active",
                "artifact_uri": "none", "start_time": 0}  # fmt: skip
        return {"info": info, "data": pairs}

    def log_message(self, *words):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    Server.mood, Server.runs, Server.calls = "well", {}, 0
    found = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{found.server_port}"
    found.shutdown()
    found.server_close()


def make_study(folder, uri):
    plan = Plan(
        version="0.1.0", study={"name": "tiny", "tracking": {"uri": uri}, "initialisations": {}}, recipes={"toy": {"name": "toy"}},
        tasks={}, shards=("00",), runs=(Run(RUN, "toy", 0, None, None, ()),), lexicons=(), transfers=(), comparisons=(), inputs={},
        results=str(folder),
    )  # fmt: skip
    write_json(folder / "plan.json", plan_json(plan))
    return folder / "runs" / RUN


def test_the_loss_curve_is_that_of_a_run_without_a_server_and_nothing_is_lost_or_doubled(tmp_path, server):
    stored = toy.make_store(tmp_path)
    assert toy.train(stored, tmp_path / "alone") == [0]
    study = tmp_path / "study"
    folder = make_study(study, server)
    moods = iter(["flapping", "500", "slow", "rude", "flapping"] * 100)

    def follow():
        while not done:
            Server.mood = next(moods)
            verb.run(study, also=None)

    Server.mood = "500"
    verb.run(study, also=None)
    done = []
    mirror = threading.Thread(target=follow)
    mirror.start()
    assert toy.train(stored, folder) == [0]
    done.append(True)
    mirror.join()
    assert toy.final(folder) == toy.final(tmp_path / "alone")
    assert toy.entries(folder) == toy.entries(tmp_path / "alone")
    Server.mood = "well"
    verb.run(study, also=None)
    assert json.loads((study / "mirror.json").read_text())["complete"]
    own = next(value for value in Server.runs.values() if value["tags"].get("vesalius.key") == f"run:{RUN}")
    expected = {("loss", e["step"]): e["metrics"]["loss"] for e in toy.entries(folder) if e["kind"] == "train"}
    assert {at: values[-1] for at, values in own["metrics"].items() if at[0] == "loss"} == pytest.approx(expected)
    assert all(len(set(values)) == 1 for values in own["metrics"].values()), "a point that was pushed twice is the same point"
    before = {at: len(values) for at, values in own["metrics"].items()}
    verb.run(study, also=None)
    assert {at: len(values) for at, values in own["metrics"].items()} == before
