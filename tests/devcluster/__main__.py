"""The command line: `python -P -m devcluster up | down | status | kubeconfig | s3-env | build`.

Run by the Makefile with `PYTHONPATH=tests`; for people, and for `make demo`.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from pathlib import Path

from devcluster import binaries
from devcluster.cluster import DevCluster, stop
from devcluster.errors import DevClusterError
from devcluster.paths import default_state_dir


def parser() -> argparse.ArgumentParser:
    """Returns the command line's grammar."""
    top = argparse.ArgumentParser(prog="devcluster", description="A Kubernetes cluster, no Docker.")
    top.add_argument("--state", type=Path, default=default_state_dir(), help="the state folder")
    commands = top.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start, or find the running cluster")
    up.add_argument("--nodes", type=int, default=1, help="how many process nodes")
    up.add_argument("--bucket", action="append", default=[], help="S3 bucket to make")
    up.add_argument("--images", type=Path, help="JSON file: image name to local argv")
    up.add_argument("--existing", type=Path, help="kubeconfig of a cluster to use instead")
    commands.add_parser("down", help="stop everything")
    commands.add_parser("status", help="show the processes")
    commands.add_parser("kubeconfig", help="print the kubeconfig's path")
    commands.add_parser("s3-env", help="print the tenant's S3 variables as export lines")
    commands.add_parser("build", help="only build the binaries")
    return top


def up(args: argparse.Namespace) -> None:
    """Starts the cluster and says how to reach it."""
    began = time.monotonic()
    cluster = DevCluster.start(
        args.state,
        images=json.loads(args.images.read_text()) if args.images else {},
        s3_buckets=args.bucket,
        nodes=args.nodes,
        existing=args.existing,
    )
    print(f"ready in {time.monotonic() - began:.0f} s")
    print(f"KUBECONFIG={cluster.kubeconfig}")
    if cluster.s3:
        print(f"S3={cluster.s3.endpoint}")


def s3_env(cluster: DevCluster) -> None:
    """Prints what a shell needs to speak to the S3 server as the tenant."""
    if cluster.s3 is None:
        raise DevClusterError("this cluster was started without an S3 server")
    for key, value in cluster.s3.env().items():
        print(f"export {key}={shlex.quote(value)}")


def run(args: argparse.Namespace) -> None:
    """Runs one command."""
    if args.command == "up":
        up(args)
    elif args.command == "down":
        stop(args.state)
    elif args.command == "build":
        for path in binaries.find_all().values():
            print(path)
    elif args.command == "s3-env":
        s3_env(DevCluster.attach(args.state))
    elif args.command == "kubeconfig":
        print(DevCluster.attach(args.state).kubeconfig)
    else:
        print(*DevCluster.attach(args.state).status_lines(), sep="\n")


def main() -> int:
    """Runs the command line; an error of ours is shown without a traceback."""
    try:
        run(parser().parse_args())
    except DevClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
