"""Starts the process node agents of a cluster, each from a configuration file of its own.

Called by `cluster`; the agent itself is `node`.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from devcluster import binaries
from devcluster.controlplane import ControlPlane
from devcluster.node import NodeConfig
from devcluster.processes import Process, spawn


def configure_node(plane: ControlPlane, name: str) -> Process:
    """Writes a node's configuration and starts its agent."""
    config = NodeConfig(
        name=name,
        kubeconfig=str(plane.kubeconfig_of(f"system:node:{name}")),
        certificate=str(plane.certificate),
        key=str(plane.key),
        state=str(plane.state),
        version=binaries.programs()["kube-apiserver"].version,
    )
    file = node_file(plane.state, name)
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(asdict(config)))
    return spawn_node(plane.state, name)


def spawn_node(state: Path, name: str) -> Process:
    """Starts the agent of a configured node."""
    env = {"PYTHONPATH": str(Path(__file__).parents[1])}
    argv = [sys.executable, "-P", "-m", "devcluster.node", str(node_file(state, name))]
    return spawn(name, argv, state, env)


def node_file(state: Path, name: str) -> Path:
    """Returns the place of a node's configuration."""
    return state / "nodes" / f"{name}.json"
