"""The answer parser on the corpus of replies: it never accepts wrongly and rarely misses what a person is sure of."""

import pytest

from tests.text.reply_corpus import OWN_SETS, SETS, cases_of, read_forms, wrong_readings

FORMS = read_forms()
GROUPS = tuple(dict.fromkeys(form.group for form in FORMS))
MAX_REJECTED = 0.01
"""The share of sure replies that may stay unread, in each group and so in all."""


@pytest.mark.parametrize("group", GROUPS)
def test_no_reply_is_accepted_wrongly_and_few_are_rejected_wrongly(group):
    counts, wrong = wrong_readings([form for form in FORMS if form.group == group])
    examples = [(case.reply, case.options, letter) for case, letter in wrong]
    assert counts[group, "accepted wrongly"] == 0, [example for example in examples if example[2]][:5]
    assert counts[group, "rejected wrongly"] <= MAX_REJECTED * counts[group, "sure"], examples[:5]


def test_the_corpus_is_broad():
    assert len({form.text for form in FORMS}) > 600
    assert {len(options) for options in SETS} == set(range(2, 11))
    for sure in (True, False):
        assert sum(form.sure is sure for form in FORMS) > 150
    used = {form.text.rpartition(" ")[2] for form in FORMS}
    assert set(OWN_SETS) <= used


def test_every_option_of_a_set_is_intended_once():
    form = next(form for form in FORMS if form.sure)
    assert [case.letter for case in cases_of(form) if case.options == SETS[2]] == list("ABCD")
