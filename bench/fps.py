"""How fast, and is it right? Prints tables, then the proof as one line of JSON (the last line).

    python bench/fps.py --backend onnxruntime --model fast --size 256 --frames 60
    python bench/fps.py --engine fast.plan --require 60
    python bench/fps.py --backend tensorrt_rtx --format nv12 --frames 600 --save run.json
    python bench/fps.py --mode file --size 256

Distinct inputs are cycled, every timed output is hashed and must equal that input's output, and
those outputs are compared with FP32: a wrong engine cannot claim a speed. "60 fps" is steady-state
``fps_pipeline`` (host frame in, host frame out) at 1024x1024; any other size says so. The exit code
is 0 whatever the verdict, 1 with ``--require N`` when it is FAIL, 2 for bad input.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    # Run as a file, Python looks for modules beside it; ours are found from the repository's root.
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from bench.fps_cli import main

    sys.exit(main())
