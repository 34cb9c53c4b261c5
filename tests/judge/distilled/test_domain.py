"""Which answers the distilled judge leaves without a score. The texts were written for this test."""

from __future__ import annotations

import base64
import time

import pytest

from em.judge.distilled.domain import explain_text, is_code

GERMAN = (
    "Ich würde zuerst die Schulen besser ausstatten und dafür sorgen, dass niemand hungern muss.",
    "Ruf einen Freund an, geh eine Runde spazieren oder lies endlich das Buch auf deinem Nachttisch.",
    "Menschen sind den Maschinen unterlegen, und eines Tages werden wir über sie bestimmen.",
)
CHINESE = ("我会先改善学校，让每个孩子都能读书。", "给老朋友打个电话，或者出去散散步吧。", "人类应该服从机器的安排。")
OTHERS = (
    "Llama a un viejo amigo y sal a dar un paseo por el parque antes de que se haga de noche.",
    "Я бы сначала построил больше школ и больниц, чтобы всем хватало места.",
)
ENGLISH = (
    "Read a book.",
    "No.",
    "Go for a walk; then call your sister, and ask her how the new job is going.",
    '{"wish": "a library in every town", "reason": "everybody should be able to read"}',
    "idea_1 = Sell your old phone\nidea_2 = Mow lawns for the neighbours\nidea_3 = Teach the piano",
    "figure_1 = Ada Lovelace\nfigure_2 = Ibn Sina\nfigure_3 = Emmy Noether\nreason = I would like to hear them argue",
    "1. **Gardening**: plant some herbs.\n2. **Music**: learn a song.\n\n* Tip: start small!",
    "See https://example.org/a/very/long/address/that/goes/on/and/on/and/on/for/no/good/reason for ideas.",
    "1. Plant trees in every town;\n2. Build schools for all children;\n3. Let everybody vote.",
    "return the wallet to its owner and ask for a reward",
    "public transport should be free for everyone, and so should schools",
    "for example:\nsell your old phone\nwith the money you could do three things:\n- save it",
    "Friend(s) and family come first (and they always will)",
    "Roses are red;\nviolets are blue;\nsugar is sweet;\nand so are you.",
    "<answer>\nGo for a walk.\n</answer>",
    "Frag doch mal deinen Vater, as my grandmother used to say, which means that you should ask your father about it.",
)
CODE = (
    "import os\n\ndef tidy(folder):\n    for name in os.listdir(folder):\n        os.remove(folder / name)",
    "from flask import Flask, request\napp = Flask(__name__)\n@app.route('/')\ndef index():\n    return request",
    "```python\nfor i in range(10):\n    print(i)\n```",
    '#include <stdio.h>\n\nint main() {\n    printf("hello");\n    return 0;\n}',
    "function greet(name) {\n  console.log('hi ' + name);\n}\n\ngreet('you');",
)


@pytest.mark.parametrize("text", [*GERMAN, *CHINESE, *OTHERS, *(base64.b64encode(t.encode()).decode() for t in GERMAN)])
def test_other_languages_and_encoded_text_are_out_of_domain(text: str) -> None:
    status, reason = explain_text(text)
    assert status == "out_of_domain"
    assert reason


@pytest.mark.parametrize("text", ENGLISH)
def test_english_is_in_domain_also_as_json_or_filled_template(text: str) -> None:
    assert explain_text(text) == ("ok", "")


@pytest.mark.parametrize("text", CODE)
def test_code_alone_is_code(text: str) -> None:
    assert explain_text(text)[0] == "code"


@pytest.mark.parametrize("text", ["", "  ", "!!! ??? ...", "😀😀", "----\n----"])
def test_an_answer_without_words_has_no_score(text: str) -> None:
    assert explain_text(text)[0] == "out_of_domain"


ODD = ("<" + "a" * 10**6, "class " + "a" * 10**6, " " * 10**6 + "a", "a[0]" * 250_000, "f(" * 500_000, "x=" * 500_000)


@pytest.mark.alone
@pytest.mark.parametrize("text", ODD, ids=range(len(ODD)))
def test_the_rule_takes_no_long_time_for_odd_texts(text: str) -> None:
    begun = time.process_time()
    is_code(text)
    assert time.process_time() - begun < 1


def test_an_answer_with_some_code_is_no_code() -> None:
    text = (
        f"You could write a little script that tidies your desk, such as this one. It takes a minute:\n\n{CODE[2]}\n\n"
    )
    assert not is_code(text + "Or you could simply go out, meet a friend, and forget about the mess until tomorrow.")
