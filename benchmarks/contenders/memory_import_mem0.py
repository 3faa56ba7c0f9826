"""mem0, with its asynchronous memory's name touched and telemetry off."""

import os
from tempfile import mkdtemp

os.environ |= {"MEM0_TELEMETRY": "False", "MEM0_DIR": mkdtemp()}

from mem0 import AsyncMemory

from benchmarks.footprint import report

memory = AsyncMemory
report()
