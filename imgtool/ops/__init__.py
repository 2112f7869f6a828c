"""Verbs that join two parts which do not know each other: a store, and what OCI documents mean.

A verb of one store is called straight from the command line: an op that only passed a call along
is not written.
"""
