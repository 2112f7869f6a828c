"""Makes the modules of `imgtool/serve/proto/` anew: `python -m tests.serve.protoc`.

protobuf reads what an older protoc made, not what a newer one did. So they are made with the oldest that
the extra `serve` allows: `pip install grpcio-tools==1.64.3`, in an environment of its own.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROTO = ROOT / "imgtool" / "serve" / "proto"
MADE_WITH = "# Protobuf Python Version: 5.26.1"


def protoc(*options: str) -> None:
    """Run protoc over all our files."""
    files = [str(path.relative_to(ROOT)) for path in sorted(PROTO.glob("*.proto"))]
    argv = [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT}", *options, *files]
    subprocess.run(argv, cwd=ROOT, check=True)


def main() -> None:
    protoc(f"--python_out={ROOT}", f"--pyi_out={ROOT}")
    for path in PROTO.glob("*_pb2.py"):
        if MADE_WITH not in path.read_text():
            sys.exit(f"{path.name} is not made with {MADE_WITH.removeprefix('# ')}: see {__file__}")


if __name__ == "__main__":
    main()
