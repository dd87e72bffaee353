"""The same ids in every engine, document by document, for every way to make a vocabulary.

    python benches/bench_parity.py --base BASE.model --donor DONOR.model [--also M.model ...] TEXT...

Makes of base and donor the merges `paper`, `ordered` and `ordered --repair`, and of base and TEXT, with as
many new pieces, `extend` with `han` and with `all`. Each engine that is installed encodes every document of
TEXT (anything that `zhuzi corpus encode` reads), and those to which it gives other ids than ours are counted.
The table `special` is of the same documents with special tokens written into them, which the engines
recognise there (`parse_special`; sentencepiece cannot). `--every N` takes each Nth document. `--record FILE`
appends the tables to a file of records such as benches/results.json.

Engines that are not installed are named. An environment with another version of one (`tokenizers` 1.0) needs
zhuzi, sentencepiece, transformers and that version: `--engines tokenizers`.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from recording import Recorder, Row

import zhuzi
from zhuzi.corpus.read import read_texts
from zhuzi.vocab import dead_pieces, engines

PACKAGES = ("zhuzi", "sentencepiece", "tokenizers", "transformers", "llama-cpp-python", "gguf")

TABLES = {
    "text": "documents to which an engine gives other ids than ours; special tokens in a text are text",
    "special": "the same, special tokens are written into each document and recognised",
}

#: Special tokens written into a document, one for so many characters.
EVERY = 60


def make_vocabularies(base: Path, donor: Path, texts: Sequence[Path], folder: Path) -> dict[str, Path]:
    """Name -> tokenizer folder or model of each vocabulary."""
    made = {"base": base}
    paper = zhuzi.merge_vocab(base, donor, folder / "paper", add_tokens=["[PAD]"])
    made["paper"] = paper.folder
    for name, repair in (("ordered", False), ("ordered --repair", True)):
        out = folder / name.replace(" ", "")
        made[name] = zhuzi.merge_vocab(
            base, donor, out, policy="ordered", repair=repair, add_tokens=["[PAD]"]
        ).folder
    for scripts in ("han", "all"):
        made[f"extend --scripts {scripts}"] = zhuzi.vocab.extend_vocab(
            texts,
            base,
            folder / scripts,
            new_pieces=paper.appended,
            scripts=scripts,
            add_tokens=["[PAD]"],
        ).folder
    return made


def documents(texts: Sequence[Path], every: int, special: Sequence[str] = ()) -> Iterator[str]:
    """Each document whose number `every` divides; with special tokens written in at random places."""
    for number, text in enumerate(read_texts(texts)):
        if number % every:
            continue
        if special:
            draw = random.Random(number)
            for _ in range(1 + len(text) // EVERY):
                at = draw.randint(0, len(text))
                text = text[:at] + draw.choice(special) + text[at:]
        yield text


def main() -> None:
    """Make the vocabularies, compare, print and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("texts", nargs="+", type=Path)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--donor", type=Path, required=True)
    parser.add_argument("--also", type=Path, action="append", default=[])
    names = [*engines.ENGINES[1:], engines.ZHUZI_TOKENIZER]
    parser.add_argument("--engines", nargs="+", choices=names, default=names)
    parser.add_argument("--vocabularies", nargs="+", help="only these (base, paper, ..., the stem of --also)")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--record", type=Path)
    parser.add_argument("--label", default="all")
    arguments = parser.parse_args()
    recorder = Recorder("parity", arguments.label, arguments.record, PACKAGES)
    with tempfile.TemporaryDirectory() as folder:
        made = make_vocabularies(arguments.base, arguments.donor, arguments.texts, Path(folder))
        made |= {path.stem: path for path in arguments.also}
        if arguments.vocabularies:
            made = {name: made[name] for name in arguments.vocabularies}
        for table in arguments.tables:
            rows: list[Row] = []
            more = {}
            for name, path in made.items():
                special = list(engines.special_tokens(engines.load(path))) if table == "special" else []
                parity = engines.compare(
                    path,
                    documents(arguments.texts, arguments.every, special),
                    engines=arguments.engines,
                    parse_special=table == "special",
                )
                more = {
                    "rounds": 1,
                    "documents": parity.documents,
                    "text_mb": round(parity.text_bytes / 1e6, 1),
                }
                sys.stderr.write(f"{table}: {name}: {parity}\n")
                shown = [None if engine.absent else engine.differing for engine in parity.engines]
                rows.append((name, len(dead_pieces(path)), *shown))
            recorder.table(
                table, TABLES[table], ["vocabulary", "dead pieces", *arguments.engines], rows, **more
            )


if __name__ == "__main__":
    main()
