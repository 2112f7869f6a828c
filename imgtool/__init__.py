"""containerd's image store and content store, rebuilt on plain files."""

__version__ = "0.1.0"
