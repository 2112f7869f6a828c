"""Bytes to meaning: what OCI and docker documents, layouts, platforms and references say.

Everything read here came from outside and is judged before it is believed. The package knows the
contracts of level 0 and no store's files.
"""
