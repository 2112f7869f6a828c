"""The local services: what a call does, in the words of `imgtool.model`, whoever asks. No gRPC here."""
