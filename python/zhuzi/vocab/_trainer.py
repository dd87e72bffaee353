"""SentencePiece's trainer in a process of its own, because it cannot be interrupted and a process can.

Run as a file: `python -I _trainer.py OPTIONS`, OPTIONS in JSON. Standard input brings the text in parts, each
with its length in front (four bytes, little endian) and of whole lines; length zero ends it. Standard output
gets the number of pieces (four bytes) and the model, or, with exit code `FAILED`, what SentencePiece said.
The process ends when its parent does.
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
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent as well, which ends us
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
            os._exit(1)  # the parent ended within the text; a model of a part of it is of no use
        (size,) = struct.unpack("<I", head)
        if not size:
            break
        yield from stdin.read(size).split(b"\n")
    threading.Thread(target=_watch, args=(stdin.fileno(),), daemon=True).start()


def _watch(pipe: int) -> None:
    """End when the pipe closes: the parent holds it open as long as it lives."""
    os.read(pipe, 1)
    os._exit(1)


def _end_with(parent: int) -> None:
    """Have Linux kill this process when its parent ends, also where the trainer holds Python's lock."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)


if __name__ == "__main__":
    main()
