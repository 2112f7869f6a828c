"""The stores in dicts: a double for tests, and the shortest description of what a store does.

Behaves as `imgtool.disk` does, as far as `imgtool.stores` says, and passes the same suites in
`tests/conformance/`. It is for one thread, and keeps nothing when the process ends. Its modules are named
like those of `imgtool.disk`.
"""

from imgtool.memory.store import MemoryStore

__all__ = ["MemoryStore"]
