"""The store on plain files. Its contract is imgtool-store(5)."""

from imgtool.disk.store import DiskStore, open_store

__all__ = ["DiskStore", "open_store"]
