"""Tells a text word by word, as slowly as a model that makes one token after the other."""

import os
import time

#: How many words each telling had made when it ended.
endings = []


def tell(text, seconds):
    """The words of the text, one in so many seconds."""
    made = 0
    try:
        for word in text.split():
            time.sleep(seconds)
            made += 1
            yield word
    finally:
        endings.append(made)


def told():
    """Which process this is, and the endings of its tellings."""
    return os.getpid(), list(endings)
