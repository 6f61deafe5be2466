"""Two torchrun agents as on two nodes, one of which is lost: docs/several_nodes.md."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.processes import arguments
from trainer.optimizer_shards import read_shards
from utils.checkpoint.files import load_checkpoint

EPOCHS = {"2": 30, "1:2": 120}  # alone, one must not be done before the other is back
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"
}  # fmt: skip
pytestmark = pytest.mark.slow


def start_agent(nodes: str, port: int, log: Path, argv: list[str]) -> subprocess.Popen:
    """Start torchrun with one process, which finds the other agent on loopback."""
    rendezvous = [
        "--nnodes", nodes, "--nproc-per-node", "1", "--max-restarts", "3",
        "--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "run",
        "--rdzv-conf", "last_call_timeout=3,keep_alive_interval=1,keep_alive_max_attempt=3",
        "--local-addr", "127.0.0.1", "--monitor-interval", "0.2",
    ]  # fmt: skip
    with log.open("a") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", *rendezvous, "train.py", *argv],
            cwd=ROOT, env=os.environ | ENVIRONMENT,
            stdout=file, stderr=file, start_new_session=True,
        )  # fmt: skip


def kill_node(agent: subprocess.Popen) -> None:
    """Kill an agent and its processes, as a power cut would."""
    listed = subprocess.run(["pgrep", "-P", str(agent.pid)], capture_output=True, text=True)
    for pid in (agent.pid, *map(int, listed.stdout.split())):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    agent.wait()


def wait_until(condition, seconds: float, agents, log: Path) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        text = f"{[agent.poll() for agent in agents]}\n{log.read_text()[-6000:]}"
        assert time.monotonic() < deadline and not any(agent.poll() for agent in agents), text
        time.sleep(0.1)


def read_log(folder: Path) -> str:
    return (folder / "train.log").read_text()


def read_epochs(folder: Path) -> list[int]:
    """The epochs that a run has logged."""
    file = folder / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return [json.loads(line)["epoch"] for line in lines]


@pytest.mark.parametrize("sharding", ["none", "fsdp2"])
@pytest.mark.parametrize("nodes", ["2", "1:2"])
def test_a_node_is_lost_and_comes_back(nodes, sharding, demo, tmp_path):
    """With 2 nodes the other one waits for it; with 1:2 it goes on alone until then."""
    changes = [
        f"trainer.sharding={sharding}",
        f"trainer.epochs={EPOCHS[nodes]}",
        "trainer.verbosity=2",
        "trainer.save_every_steps=1",
        "trainer.save_period=1000",
    ]
    folder, log = tmp_path / "run", tmp_path / "log"
    argv = arguments(demo, folder, *changes)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    agents = [start_agent(nodes, port, log, argv)]
    try:
        time.sleep(1)  # the first one is the host of the rendezvous
        agents.append(start_agent(nodes, port, log, argv))
        wait_until(lambda: len(read_epochs(folder)) >= 3, 120, agents, log)
        kill_node(agents.pop())
        if nodes == "1:2":
            wait_until(lambda: "this run has 1" in read_log(folder), 120, agents, log)
        agents.append(start_agent(nodes, port, log, argv))
        wait_until(lambda: all(agent.poll() == 0 for agent in agents), 300, agents, log)
    finally:
        for agent in agents:
            kill_node(agent)
    state, epochs = load_checkpoint(folder / "model_last.pth"), EPOCHS[nodes]
    assert state["epoch"] == epochs and read_epochs(folder) == list(range(1, epochs + 1))
    assert len(state["random_states"]) == 2
    assert (read_shards(folder / "model_last.pth") is not None) == (sharding == "fsdp2")
    lines = [line for line in read_log(folder).splitlines() if ": resumed " in line]
    steps = [int(line.rpartition("step ")[2]) for line in lines]
    assert steps == sorted(steps) and steps[0] >= 3 * state["step"] // epochs
    if nodes == "1:2":
        assert len(steps) >= 2 and "was written by 1 processes, this run has 2" in read_log(folder)
