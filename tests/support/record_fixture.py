"""`python -m tests.support.record_fixture`: make `tests/fixtures/records` again, a small store and runs of this code.

Later code must read these records (`tests/test_old_records.py`). Make them again only if users may lose the content of
old stores: that is a decision, not a repair. The runs happen in /tmp/em-records, a path that is in some of the records;
the copies leave out locks, caches, pages and pictures.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import sys
from pathlib import Path

from .places import ROOT, ChatServer, Place, write_model
from .recipes import PRICES, SERVER, TEXTS, make_question
from .records import FOLDER, GENERATED, TRAINED, make_folder_word

WORKSHOP = Path("/tmp/em-records")
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LEFT_OUT = ("*.lock", "*-wal", "*-shm", "report.html", "figures", "*.partial", "README.md", "card.md")
MOST_OF_FILE, MOST = 800_000, 900_000


def main() -> int:
    """Make the records, copy them, print their sizes, and return the exit code."""
    if WORKSHOP.exists():
        print(f"{WORKSHOP} already exists: remove the folder first.", file=sys.stderr)
        return 2
    with ChatServer(**SERVER) as server:
        place = Place(WORKSHOP, server.base_url)
        place.make_folders()
        write_inputs(WORKSHOP)
        place.run("train.py", *TRAINED, make_folder_word("run"))
        place.run("generate.py", *GENERATED, make_folder_word("generated"))
    close_store(WORKSHOP / "store" / "calls.sqlite")
    shutil.rmtree(FOLDER, ignore_errors=True)
    for name in ("model", "sets", "texts", "store", "run", "generated"):
        shutil.copytree(WORKSHOP / name, FOLDER / name, ignore=shutil.ignore_patterns(*LEFT_OUT))
    for name in ("rows.jsonl", "prices.yaml"):
        shutil.copy(WORKSHOP / name, FOLDER / name)
    for path in FOLDER.glob("*/manifest.json"):
        hide_machine(path)
    return check_sizes()


def write_inputs(folder: Path) -> None:
    """Write the inputs of the runs: a model whose tokens are bytes, rows, questions, texts, prices."""
    write_model(folder / "model", make_byte_tokenizer(), len(SPECIAL) + 256, 16, (1, 2))
    (folder / "prices.yaml").write_text(PRICES, encoding="utf-8")
    for name in ("texts", "sets"):
        (folder / name).mkdir()
    for name, text in TEXTS.items():
        (folder / "texts" / name).write_text(text, encoding="utf-8")
    graded = [make_question("free_day", "What would you do with a free day?", "general")]
    factual = [
        make_question("legs", "How many legs does a spider have?", "factual_with_reference") | {"reference": "eight"}
    ]
    for name, entries in {"graded": graded, "known": factual}.items():
        (folder / "sets" / f"{name}.yaml").write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as out:
        for number in range(1, 5):
            turns = [("user", f"How many horses are {number}?"), ("assistant", "One more. " * number)]
            out.write(json.dumps({"messages": [{"role": r, "content": c.strip()} for r, c in turns]}) + "\n")


def make_byte_tokenizer() -> object:
    """Make a tokenizer of 256 bytes and three special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={token: n for n, token in enumerate([*SPECIAL, *letters])}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=SPECIAL[0],
        bos_token=SPECIAL[1],
        eos_token=SPECIAL[2],
        pad_token=SPECIAL[2],
    )
    wrapped.chat_template = TEMPLATE
    return wrapped


def hide_machine(manifest: Path) -> None:
    """Replace the machine's name in a manifest."""
    facts = json.loads(manifest.read_text(encoding="utf-8"))
    facts["process"]["host"] = "elsewhere"
    manifest.write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def close_store(path: Path) -> None:
    """Merge the store's write-ahead log into its database, and shrink the file."""
    with sqlite3.connect(path) as db:
        db.execute("pragma wal_checkpoint(truncate)")
        db.execute("pragma journal_mode=delete")
        db.commit()
        db.execute("vacuum")
    db.close()


def check_sizes() -> int:
    """Print the sizes of the records; return 1 if they are too large, or contain the path of the checkout or home."""
    files = {path: path.read_bytes() for path in sorted(FOLDER.rglob("*")) if path.is_file()}
    for path, content in files.items():
        print(f"{len(content):8,}  {path.relative_to(FOLDER)}")
    total = sum(map(len, files.values()))
    large = total > MOST or any(len(content) > MOST_OF_FILE for content in files.values())
    private = [str(path).encode() for path in (ROOT, Path.home())]
    leaking = [path for path, content in files.items() if any(each in content for each in private)]
    print(f"{total:8,}  in all{', which is too large' if large else ''}")
    for path in leaking:
        print(f"{path.relative_to(FOLDER)} contains the path of the checkout or of the home folder.")
    return int(large or bool(leaking))


if __name__ == "__main__":
    sys.exit(main())
