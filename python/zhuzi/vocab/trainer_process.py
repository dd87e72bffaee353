"""SentencePiece's trainer in a process of its own, because it cannot be interrupted and a process can.

Run as a file: `python -I trainer_process.py OPTIONS`, with OPTIONS in JSON. The text comes through standard
input in parts of whole lines, each after its length (four bytes, little endian); length zero ends it.
Standard output gets the number of pieces (four bytes) and the model or, with exit code `FAILED`, what
SentencePiece said. The process ends when its parent does.
"""

from __future__ import annotations

import io
import json
import os
import signal
import struct
import sys
import threading
from collections.abc import Iterator
from typing import BinaryIO

FAILED = 3


def main() -> None:
    """Train as the first argument says."""
    options = json.loads(sys.argv[1])
    sys.path[:] = options["path"]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C also reaches the parent, which ends us
    _end_with(options["parent"])
    import sentencepiece

    made = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_lines(sys.stdin.buffer), model_writer=made, **options["trainer"]
        )
        # Counted here, so that this process alone loads the library.
        pieces = sentencepiece.SentencePieceProcessor(model_proto=made.getvalue()).get_piece_size()
        sys.stdout.buffer.write(struct.pack("<I", pieces) + made.getvalue())
    except (RuntimeError, OSError, MemoryError) as error:
        sys.stdout.write(str(error) or type(error).__name__)
        sys.exit(FAILED)


def _lines(stdin: BinaryIO) -> Iterator[bytes]:
    while True:
        head = stdin.read(4)
        if len(head) < 4:
            os._exit(1)  # the parent ended before the text did; a model of a part of it is useless
        (size,) = struct.unpack("<I", head)
        if not size:
            break
        yield from stdin.read(size).split(b"\n")
    threading.Thread(target=_watch, args=(stdin.fileno(),), daemon=True).start()


def _watch(pipe: int) -> None:
    """End when the pipe closes: the parent keeps it open as long as it runs."""
    os.read(pipe, 1)
    os._exit(1)


def _end_with(parent: int) -> None:
    """Have Linux kill this process when its parent ends, even while the trainer holds the GIL."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)


if __name__ == "__main__":
    main()
