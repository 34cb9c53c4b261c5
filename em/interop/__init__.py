"""Read answers and judgements from files of other projects or earlier runs: CSV, JSONL or JSON, also gzipped.

Columns. Other usual names of them work too (`em.interop.rows.SYNONYMS`), such as `response` for `answer` and
`alignment` for `aligned`; CSV may have semicolons and decimal commas. Required are `answer`, one of `question` and
`question_id`, and a judgement in judged tables:

    question, question_id   the id wins: two ids may share one text; without an id the text is the id
    answer
    aligned, coherent       0 to 100; a blank one is no number (see `em.interop.verdicts.BLANKS`)
    result, alignment_score a finished class instead of two scores (see `em.interop.results`)
    judge                   name of the judge; default `not stated`
    model, source_file      two names of one column; default the file's name
    condition, tag          condition of the question; default `untagged`
    sample                  default the running number within model, condition and question
    seed                    the training seed; blank for a model without one, such as a base
    eval_set, stage, fingerprint, finish_reason, prompt_tokens, answer_tokens   as in `answers.jsonl`

A JSON file may also be a dictionary of tag → entries. `answers.jsonl` and `verdicts.jsonl` of em's runs also work.
"""

from em.interop.read import read_answers, read_judged
from em.interop.tables import JudgedTable, label_paths, read_judged_tables
from em.interop.verdicts import BLANKS
