"""The forms in which others publish their questions, and questions in a form of one's own."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import ClassVar

import pytest

from avrt.data.annotations import FormError, ReadOptions, RowError, read_annotations, sample_of
from avrt.data.annotations.choices import gold_index, read_options


def read(tmp_path, rows, **options):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return read_annotations(path, ReadOptions(**options))


def one(tmp_path, row, **options):
    (sample,) = read(tmp_path, [row], **options).samples
    return sample


def music(number, question, answer, values=(), kind=("Audio", "Counting"), **changes):
    return {
        "video_id": f"{number // 2:08d}",
        "question_id": number,
        "type": json.dumps(list(kind)),
        "question_content": question,
        "templ_values": json.dumps(list(values)),
        "question_deleted": 0,
        "anser": answer,
    } | changes


PROBLEM = {
    "problem_id": 12,
    "problem": "What is heard?",
    "data_type": "image_audio",
    "problem_type": "multiple choice",
    "options": ["A. dog", "B. cat", "C. cow", "D. bird"],
    "solution": "<answer>B</answer>",
    "path": {"image": "images/sample_12.jpg", "audio": "audios/sample_12.wav"},
    "data_source": "OmniInstruct_v1-AVQA",
}
CHAT = {
    "messages": [
        {"role": "system", "content": "You are helpful."},
        {"role": "user", "content": "<video><audio>What is heard?\nOptions:\nA. dog\nB. cat\nAnswer with the letter."},
        {"role": "assistant", "content": "B"},
    ],
    "videos": ["clips/c1.mp4"],
    "audios": ["clips/c1.wav"],
}


class TestMusicAVQA:
    def test_gaps_are_filled_and_answers_offered(self, tmp_path):
        rows = [
            music(1, "Is the <Object> on the <LR> louder than the <Object>?", "yes", ("piano", "left", "erhu")),
            music(2, "How many instruments?", "two"),
            music(3, "How many instruments?", "one"),
            music(4, "How many instruments?", "seven"),
            music(5, "How many instruments?", "more than ten"),
            music(6, "Where is the performance?", "indoor", kind=("Visual", "Location")),
            music(7, "What kind of instrument is the <LRer> instrument?", "tuba", ["leftest"], ("Visual", "Location")),
        ]
        samples = read(tmp_path, rows).samples
        first = samples[0]
        assert first.question == "Is the piano on the left louder than the erhu?"
        assert (set(first.options), first.options[first.answer]) == ({"yes", "no"}, "yes")
        assert (first.id, first.source) == ("1", "00000000")
        assert (first.question_type, first.modality) == ("Audio/Counting", "Audio")
        assert first.extra["distractors"]["seed"] == 0
        assert all(set(sample.options) == {"one", "two", "seven", "more than ten"} for sample in samples[1:5])
        assert [sample.options[sample.answer] for sample in samples] == [row["anser"] for row in rows]
        assert set(samples[5].options) == {"indoor", "outdoor"}
        # Nothing else in the file is an instrument: the data set's own vocabulary is.
        assert len(set(samples[6].options)) == 4
        assert not {"indoor", "left", "yes"} & set(samples[6].options)

    def test_the_draw_depends_on_the_question_alone(self, tmp_path):
        words = ("violin", "piano", "cello", "flute", "tuba", "drum", "erhu", "banjo")
        rows = [music(n, "What is it?", words[n % 8], kind=("Visual", "Location")) for n in range(64)]
        first = {sample.id: (sample.options, sample.answer) for sample in read(tmp_path, rows).samples}
        again = {sample.id: (sample.options, sample.answer) for sample in read(tmp_path, rows[::-1]).samples}
        assert first == again
        assert first["5"] == (("drum", "cello", "tuba", "erhu"), 0)  # in any process
        assert len({options for options, _ in first.values()}) > 40
        assert set(Counter(answer for _, answer in first.values())) == {0, 1, 2, 3}

    def test_open_ended_and_deleted_rows_are_left_out_and_counted(self, tmp_path):
        rows = [
            music(1, "How many?", "two"),
            music(2, "Describe the performance.", "A man plays the violin in a park."),
            music(3, "How many?", "one", question_deleted=1),
        ]
        found = read(tmp_path, rows)
        assert [sample.id for sample in found.samples] == ["1"]
        assert [(entry.id, entry.reason) for entry in found.left_out] == [("2", "open_ended"), ("3", "deleted")]
        with pytest.raises(ValueError, match=r"holds no questions: none of 1 rows is multiple choice \(open_ended 1\)"):
            read(tmp_path, rows[1:2])

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"templ_values": "[]"}, "1 gaps"),
            ({"templ_values": '["a", "b"]'}, "1 gaps"),
            ({"templ_values": "piano"}, "must be a JSON list"),
            ({"anser": 3}, "`anser` must be a text"),
        ],
    )
    def test_rows_that_do_not_fit_their_template(self, tmp_path, change, message):
        row = music(1, "Is the <Object> heard?", "yes", ("piano",)) | change
        with pytest.raises(ValueError, match=message):
            read(tmp_path, [row])


class TestProblems:
    def test_image_and_audio(self, tmp_path):
        sample = one(tmp_path, PROBLEM)
        assert (sample.id, sample.question, sample.options, sample.gold) == (
            *("12", "What is heard?"),
            *(("dog", "cat", "cow", "bird"), "B"),
        )
        assert (sample.source, sample.audio_source) == ("images/sample_12.jpg", "audios/sample_12.wav")
        assert (sample.question_type, sample.modality) == ("multiple choice", "image_audio")
        assert sample.extra == {"data_source": "OmniInstruct_v1-AVQA"}

    def test_one_path_of_a_stated_kind(self, tmp_path):
        video = one(tmp_path, PROBLEM | {"path": "./Video-R1/x.mp4", "data_type": "video"})
        assert (video.source, video.audio_source) == ("Video-R1/x.mp4", "")
        audio = one(tmp_path, PROBLEM | {"path": "/data/x.wav", "data_type": "audio"})
        assert (audio.source, audio.audio_source) == ("data/x.wav", "data/x.wav")
        with pytest.raises(ValueError, match="`data_type` is 'image_audio', but `path` is one file"):
            read(tmp_path, [PROBLEM | {"path": "x.wav"}])

    def test_a_solution_with_thinking(self, tmp_path):
        row = PROBLEM | {"solution": "<context>c</context><think>It meows.</think><answer>B</answer>"}
        assert one(tmp_path, row).trace == row["solution"]

    def test_problems_without_options_are_left_out(self, tmp_path):
        free = PROBLEM | {"problem_id": 13, "options": [], "problem_type": "free-form", "solution": "a dog barks"}
        found = read(tmp_path, [PROBLEM, free])
        assert [sample.id for sample in found.samples] == ["12"]
        assert [(entry.reason, "free-form" in entry.detail) for entry in found.left_out] == [("open_ended", True)]

    def test_several_answers_are_refused(self, tmp_path):
        with pytest.raises(ValueError, match=r"AVQA-R1-6K.*'B,C' names several options"):
            read(tmp_path, [PROBLEM | {"solution": "<answer>B,C</answer>"}])


class TestChats:
    @pytest.mark.parametrize(
        "turns",
        [
            CHAT["messages"],
            [{"from": {"user": "human"}.get(t["role"], t["role"]), "value": t["content"]} for t in CHAT["messages"]],
            [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in CHAT["messages"]],
        ],
    )
    def test_question_options_and_media(self, tmp_path, turns):
        key = "messages" if "role" in turns[0] else "conversations"
        sample = one(tmp_path, {key: turns, "videos": CHAT["videos"], "audios": CHAT["audios"]})
        assert (sample.id, sample.question, sample.options, sample.gold) == (
            *("row-000001", "What is heard?"),
            *(("dog", "cat"), "B"),
        )
        assert (sample.source, sample.audio_source) == ("clips/c1.mp4", "clips/c1.wav")

    def test_a_solution_beside_the_chat(self, tmp_path):
        row = CHAT | {"messages": CHAT["messages"][:2], "solution": "<answer>A</answer>"}
        assert one(tmp_path, row).gold == "A"

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"messages": CHAT["messages"] * 2}, "2 turns of the user"),
            ({"messages": CHAT["messages"][:2]}, "no turn of the assistant"),
            ({"videos": ["a.mp4", "b.mp4"]}, "names 2 files"),
            ({"videos": ["https://example.org/a.mp4"]}, "is an address"),
            ({"images": ["a.jpg"]}, "a video 'clips/c1.mp4' and an image 'a.jpg'"),
        ],
    )
    def test_what_is_no_single_question(self, tmp_path, change, message):
        with pytest.raises(ValueError, match=message):
            read(tmp_path, [CHAT | change])

    def test_open_questions_are_left_out(self, tmp_path):
        turns = [{"role": "user", "content": "<video>Describe it."}, {"role": "assistant", "content": "A dog."}]
        assert [entry.reason for entry in read(tmp_path, [CHAT, CHAT | {"messages": turns}]).left_out] == ["open_ended"]


class TestMappedFields:
    ROW: ClassVar = {
        "uid": "x-1",
        "prompt": "What?",
        "cands": {"a": "dog", "B": "cat", "c": None},
        "label": "cat",
        "file": "v/c",
    }

    def test_read(self, tmp_path):
        fields = "id=uid, question=prompt, options=cands, answer=label, video=file"
        sample = one(tmp_path, self.ROW, fields=fields)
        assert (sample.id, sample.options, sample.gold, sample.source) == ("x-1", ("dog", "cat"), "B", "v/c")
        assert one(tmp_path, self.ROW, fields=fields + ",id=").id == "row-000001"

    def test_reasoning_is_for_fine_tuning(self, tmp_path):
        row = self.ROW | {"why": "<think>x</think><answer>B</answer>"}
        fields = "question=prompt,options=cands,answer=label,video=file"
        assert not read(tmp_path, [row], fields=fields).has_reasoning
        found = read(tmp_path, [row], fields=fields + ",reasoning=why")
        assert (found.has_reasoning, found.samples[0].trace) == (True, row["why"])

    def test_changes_a_known_form(self, tmp_path):
        """Two files of AVQA in one, each with ids from 0: their rows are numbered anew."""
        row = {
            "id": 0,
            "video_name": "c0",
            "question": "Which?",
            "choices": ["a", "b"],
            "answer": "b",
            "av_reasoning": "<think>It is b.</think><answer>B</answer>",
        }
        found = read(tmp_path, [row, row], fields="id=")
        assert [sample.id for sample in found.samples] == ["row-000001", "row-000002"]
        assert found.has_reasoning
        assert found.samples[0].source == "c0"
        assert found.samples[0].trace == row["av_reasoning"]

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ("question=prompt,options=cands,answer=label,video=clip", "has no `clip` for video; found `uid`, `prompt`"),
            ("question=prompt,options=cands,answer=label", "has no `video`.* map it too; found `uid`"),
            ("text=prompt", "'text=prompt' is not FIELD=KEY with one of id, question"),
            ("question", "is not FIELD=KEY"),
            ("question=", "is not FIELD=KEY"),
        ],
    )
    def test_what_is_missing(self, tmp_path, fields, message):
        with pytest.raises(FormError, match=message):
            read(tmp_path, [self.ROW], fields=fields)


@pytest.mark.parametrize(
    "written",
    [
        ["dog", "cat", "cow"],
        ["A. dog", "B. cat", "C. cow"],
        {"A": "dog", "B": "cat", "C": "cow", "D": None},
        "A. dog\nB. cat\nC. cow",
        "(A) dog (B) cat (C) cow",
        '["dog", "cat", "cow"]',
        "['dog', 'cat', 'cow']",
    ],
)
@pytest.mark.parametrize(
    "answer",
    [1, 1.0, "B", "b", "(B)", "B.", "cat", " Cat", "B. cat", ["B"], "<answer>B</answer>", "<answer>cat</answer>"],
)
def test_options_and_answers(written, answer):
    options = read_options(written)
    assert options.texts == ("dog", "cat", "cow")
    assert gold_index(answer, options) == 1


def test_options_in_the_question(tmp_path):
    row = {"id": 1, "question": "What barks?\nChoices:\nA) a dog\nB) a cat\n", "answer": "A", "video": "x"}
    sample = one(tmp_path, row)
    assert (sample.question, sample.options, sample.gold) == ("What barks?", ("a dog", "a cat"), "A")
    with pytest.raises(ValueError, match="there are no options"):
        read(tmp_path, [row | {"question": "What barks?"}])


def test_numbers_from_one():
    options = read_options(["dog", "cat", "cow"])
    assert [gold_index(number, options, 1) for number in (1, 2, 3, "3")] == [0, 1, 2, 2]
    assert gold_index("2", read_options(["1", "2"]), 1) == 1  # an option's text goes first
    assert gold_index("2", options, untyped=True) == 2
    with pytest.raises(RowError, match="give --answer-base 1"):
        gold_index(3, options)
    with pytest.raises(RowError, match="indices begin at 1"):
        gold_index(0, options, 1)
    with pytest.raises(RowError, match="is not one of the options"):
        gold_index("2", options)  # a text: its base is not known


@pytest.mark.parametrize("answer", ["A,B", "A and B", "AB", ["A", "B"], "(A), (B)", "A;C"])
def test_several_answers_are_refused(answer):
    with pytest.raises(RowError) as caught:
        gold_index(answer, read_options(["dog", "cat", "cow"]))
    assert caught.value.reason == "several_answers"


@pytest.mark.parametrize(
    "written", ["dog, cat", {"x": "dog", "y": "cat"}, {"A": "dog", "C": "cat"}, [], ["one"], 3, {}]
)
def test_what_are_no_options(written):
    with pytest.raises(RowError) as caught:
        read_options(written)
    assert caught.value.reason == "bad_options"


def test_faulty_rows_are_left_out_up_to_a_share(tmp_path):
    good = [
        {"id": n, "video_name": f"c{n}", "question": "?", "choices": ["a", "b"], "answer": "a", "question_type": "x"}
        for n in range(98)
    ]
    bad = [good[0], {**good[0], "id": 200, "answer": "z"}]
    found = read(tmp_path, good + bad, max_bad_rows=0.02)
    assert len(found.samples) == 98
    assert [(entry.id, entry.source, entry.reason) for entry in found.left_out] == [
        ("0", "c0", "bad_id"),
        ("200", "c0", "bad_answer"),
    ]
    message = r"2 of 100 rows are faulty \(bad_id 1, bad_answer 1\).*share of 0.01; for example entry 99 \(id 0\)"
    with pytest.raises(ValueError, match=message):
        read(tmp_path, good + bad, max_bad_rows=0.01)


def test_one_row_of_a_shard():
    row = {"question": "What?", "choices": ["a", "b"], "answer": "b", "av_reasoning": "r", "video_id": 3}
    sample = sample_of(row, split="val", id="key")
    assert (sample.id, sample.split, sample.gold, sample.source, sample.trace) == ("key", "val", "B", "", "r")
    assert sample_of(PROBLEM, split="train").source == "images/sample_12.jpg"
    with pytest.raises(FormError, match=r"the row.*found .*`caption`"):
        sample_of({"caption": "a dog"}, split="train", id="key")
    with pytest.raises(RowError, match="is not one of the options"):
        sample_of(row | {"answer": "c"}, split="train", id="key")


CASES = Path(__file__).resolve().parents[3] / "shared" / "cases" / "21-annotations"


@pytest.mark.skipif(not CASES.is_dir(), reason="needs the folder `shared/cases` beside the checkout")
@pytest.mark.parametrize(
    ("name", "outcome"),
    [
        ("emer_1", "names several options"),
        ("musicavqa_3", [("yes",), ("yes",), ("saxophone",)]),
        ("q_anser", "has no `answer`.*`anser`"),
        ("q_answers1", [("2",)]),
        ("q_idonly", [("yes",)]),
        ("q_intname", "`video_name` must be"),
        ("q_letters", [("cat",)]),
        ("q_letters_txt", [("cat",)]),
        ("q_mp4name", [("a",)]),
        ("q_multi", "names several options"),
        ("q_templ", "placeholder '<Object>'"),
    ],
)
def test_files_that_were_met(name, outcome):
    if isinstance(outcome, str):
        with pytest.raises(ValueError, match=f"form of .*{outcome}|entry 1.*{outcome}"):
            read_annotations(CASES / f"{name}.json")
    else:
        samples = read_annotations(CASES / f"{name}.json").samples
        assert [(sample.options[sample.answer],) for sample in samples] == outcome


@pytest.mark.parametrize(
    "row",
    [
        PROBLEM,
        CHAT | {"id": "clips/c1.mp4"},
        music(5, "Is the <Object> in the video always playing?", "yes", ["ukulele"]),
    ],
    ids=["problem", "chat", "music"],
)
def test_rows_of_a_converted_form_can_be_numbered(tmp_path, row):
    """The way out that the message about a repeated or unusable id names."""
    as_read = [one(tmp_path, row | {"id": 1, "question_id": 1})] * 2
    samples = read(tmp_path, [row, row], fields="id=").samples
    assert [sample.id for sample in samples] == ["row-000001", "row-000002"]
    assert [(s.question, sorted(s.options), s.source) for s in samples] == [
        (s.question, sorted(s.options), s.source) for s in as_read
    ]


def test_a_field_of_a_converted_form_can_be_mapped(tmp_path):
    sample = one(tmp_path, PROBLEM | {"name": "p_1", "kind": "x"}, fields="id=name,question_type=kind")
    assert (sample.id, sample.question_type, sample.gold) == ("p_1", "x", "B")
    with pytest.raises(FormError, match="`nothing`"):
        one(tmp_path, PROBLEM, fields="id=nothing")


def test_an_empty_process_is_no_reasoning(tmp_path):
    assert one(tmp_path, PROBLEM | {"process": ""}).trace is None
