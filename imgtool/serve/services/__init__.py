"""The faces: each translates the messages of one gRPC service, and calls its local service once."""
