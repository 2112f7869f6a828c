"""The command table: what there is, in the order of the help, with one line on each.

The command `X` is `run` in `imgtool.cli.cmd_X`; the command `G X` is `run_X` in `imgtool.cli.cmd_G`.
Nothing is imported before it is called, so the summaries stand here.
"""

from __future__ import annotations

COMMANDS: dict[str, str] = {
    "ingest": "Take files, image layouts and archives into the store",
    "list": "List images",
    "update": "Change labels, annotations, target or name of images",
    "delete": "Delete images",
    "gc": "Remove all content that no image or lease reaches",
    "label": "Set and remove labels of an image",
    "tag": "Give an image or a digest further names",
    "inspect": "Show an image, its manifests and what is absent",
    "tree": "Show images as trees of what they are made of",
    "du": "Show how much space images hold, alone and with others",
    "cat": "Write the bytes of content to stdout",
    "resolve": "Print the digest that a name points to",
    "exists": "Tell by the exit status whether images exist",
    "info": "Show what the store holds",
    "namespace": "Manage namespaces",
    "content": "Manage content and unfinished writes",
    "lease": "Manage leases, which keep content from gc",
    "export": "Write images to an archive or an image layout",
    "events": "Print what has been changed, as containerd's events",
    "fsck": "Check every object, record and graph of the store",
    "serve": "Serve the store to containerd's clients, such as ctr",
}

GROUPS: dict[str, dict[str, str]] = {
    "namespace": {
        "list": "List namespaces",
        "create": "Create a namespace",
        "label": "Set and remove labels of a namespace",
        "rm": "Remove empty namespaces",
    },
    "content": {
        "list": "List content",
        "info": "Show the records of content",
        "get": "Write the bytes of content to stdout",
        "ingest": "Store bytes and print their digest",
        "label": "Set and remove labels of content",
        "rm": "Remove content from the namespace",
        "active": "List unfinished writes",
        "abort": "Drop unfinished writes",
    },
    "lease": {
        "list": "List leases",
        "create": "Create a lease",
        "label": "Set and remove labels of a lease, and renew it",
        "add": "Make a lease hold resources",
        "drop": "Make a lease let go of resources",
        "resources": "List what leases hold",
        "rm": "Remove leases",
    },
}

ALIASES: dict[str, str] = {"ls": "list", "rm": "delete", "ns": "namespace"}
GROUP_ALIASES: dict[str, str] = {"ls": "list", "delete": "rm"}
