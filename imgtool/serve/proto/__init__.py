"""The messages and services on the wire: `*.proto`, and the modules that protoc makes of them.

Packages, names, numbers and types are containerd's, of which files holds what imgtool answers. Whoever
changes one runs `python -m tests.serve.protoc`, with the version that it asks for.
"""
