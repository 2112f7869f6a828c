"""containerd's gRPC API over a store. The only package that imports hpack and protobuf: the extra `serve`.

`launch` begins, `server` runs, `parts` says what is composed of what. `services/` holds the faces, thin
translations of the local services in `local/`; `calls` has metadata and errors, `messages` the nouns.
What carries them: `http2` and `headers` the bytes, `rpc` the calls, `handlers` finds who answers.
"""
