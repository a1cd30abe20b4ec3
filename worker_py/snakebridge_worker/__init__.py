"""The worker: its loop, codec, refs and zygote. Standard library only, CPython 3.10 and later."""
