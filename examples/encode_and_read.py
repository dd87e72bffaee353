"""Encode text files and read the shards back: python encode_and_read.py TOKENIZER_DIR OUT_DIR FILE...

The shards are Megatron's; this shows that plain numpy reads them too.
"""

import sys
from pathlib import Path

import zhuzi


def main() -> None:
    tokenizer_dir, out, *files = sys.argv[1:]
    made = zhuzi.encode_corpus(files, tokenizer_dir, out)
    sys.stdout.write(
        f"{made.documents:,} documents, {made.characters / made.tokens:.2f} characters per token\n"
    )

    tokenizer = zhuzi.Tokenizer.from_dir(tokenizer_dir)
    corpus = zhuzi.Corpus(Path(out))
    for number in range(min(3, len(corpus))):
        ids = corpus[number].tolist()
        sys.stdout.write(f"{number}: {len(ids)} tokens: {tokenizer.decode(ids)[:40]!r}\n")


if __name__ == "__main__":
    main()
