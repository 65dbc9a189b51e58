"""AVQA's and AVRT-20K's annotation files to samples, and what is refused."""

import json

import pytest

from avrt.data.annotations import FormError, ReadOptions, read_annotations

AVQA = {
    "id": 183,
    "video_name": "-HG3Omg_89c_000030",
    "video_id": 341,
    "question_text": "What happened in the video?",
    "multi_choice": ["motorboat", "Yacht consignment", "Sailboat set sail", "Consignment car"],
    "answer": 1,
    "question_relation": "View",
    "question_type": "Happening",
}
AVRT_20K = {
    "id": 7,
    "video_name": "0-00uubiDNU_000210",
    "video_id": 12,
    "question": "What is heard?",
    "choices": ["dog", "cat", "bird", "cow"],
    "answer": "cat",
    "question_relation": "Sound",
    "question_type": "Come From",
    "av_reasoning": "<think>It meows.</think><answer>B</answer>",
}


def read(path, **options):
    return read_annotations(path, ReadOptions(**options)).samples


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_avqa(tmp_path):
    (sample,) = read(write(tmp_path / "a.json", [AVQA]), split="val")
    assert sample.id == "183"
    assert sample.source == "-HG3Omg_89c_000030"
    assert sample.question == "What happened in the video?"
    assert sample.options == ("motorboat", "Yacht consignment", "Sailboat set sail", "Consignment car")
    assert (sample.answer, sample.gold) == (1, "B")
    assert (sample.split, sample.modality, sample.question_type) == ("val", "View", "Happening")
    assert (sample.trace, sample.clip) == (None, None)
    assert sample.extra == {"video_id": 341}


def test_avrt_20k(tmp_path):
    (sample,) = read(write(tmp_path / "a.json", [AVRT_20K]))
    assert (sample.answer, sample.options, sample.question) == (1, ("dog", "cat", "bird", "cow"), "What is heard?")
    assert sample.trace == "<think>It meows.</think><answer>B</answer>"


@pytest.mark.parametrize(
    "options",
    [
        ["A. dog", "B. cat", "C. car"],
        ["(A) dog", "(B) cat", "(C) car"],
        ["A: dog", "B: cat", "C: car"],
        ["a) dog", "b) cat", "c) car"],
        [" A.dog ", "B.  cat", "C . car"],
    ],
)
@pytest.mark.parametrize("answer", [1, "B", "cat", "labeled"])
def test_options_lose_their_letters(tmp_path, options, answer):
    """When every option begins with its own: a prompt adds the letters."""
    record = {**AVQA, "multi_choice": options, "answer": options[1] if answer == "labeled" else answer}
    (sample,) = read(write(tmp_path / "a.json", [record]))
    assert sample.options == ("dog", "cat", "car")
    assert sample.answer == 1


@pytest.mark.parametrize(
    "options",
    [
        ["A. Lincoln", "G. Washington", "T. Jefferson"],  # initials
        ["D", "C", "B", "A"],  # notes
        ["A dog", "B flat", "C sharp"],
        ["1. dog", "2. cat"],
    ],
)
def test_options_that_only_look_labeled_stay(tmp_path, options):
    record = {**AVQA, "multi_choice": options, "answer": options[0]}
    (sample,) = read(write(tmp_path / "a.json", [record]))
    assert sample.options == tuple(options)
    assert sample.answer == 0


@pytest.mark.parametrize(
    ("entry", "form", "lacks"),
    [
        ({"video_id": "c0", "question_content": "?", "templ_values": "[]"}, "MUSIC-AVQA", "anser"),
        ({"problem": "?", "options": ["A. x"], "solution": "<answer>A</answer>"}, "AVQA-R1-6K", "path"),
        ({"id": "1", "conversations": []}, "ShareGPT", "videos"),
        ({"question": "?", "choices": ["a", "b"], "answer": "a"}, "plain", "audio_path"),
        ({"data": []}, "AVQA", "question_text"),
        ({name: value for name, value in AVQA.items() if name != "answer"} | {"anser": 1}, "AVQA", "answer"),
    ],
)
def test_incomplete_forms_are_named(tmp_path, entry, form, lacks):
    """One line, at once: the form that was read, which keys are missing, which are there, and what to do."""
    path = write(tmp_path / "a.json", [entry])
    with pytest.raises(FormError, match=r"entry 1.* has no ") as caught:
        read(path, max_bad_rows=1)
    line = str(caught.value)
    assert "\n" not in line
    assert str(path) in line
    assert form in line
    assert f"`{lacks}`" in line.partition("found")[0]
    assert all(f"`{name}`" in line.partition("found")[2] for name in entry)
    assert "--fields" in line


def test_real_files(real_data):
    train = read(real_data / "avqa" / "train_qa.json")
    val = read(real_data / "avqa" / "val_qa.json", split="val")
    assert (len(train), len(val)) == (15, 4)
    for sample in train + val:
        assert (real_data / "avqa" / "videos" / f"{sample.source}.mp4").is_file()
    published = read(real_data / "annotations" / "avqa_train_qa.sample.json")
    assert published[0].id == "183"
    assert published[0].options[published[0].answer] == "Yacht consignment"


def test_json_lines_with_separators_inside(tmp_path):
    first = {**AVQA, "question_text": "one\u2028two"}
    lines = json.dumps(first, ensure_ascii=False) + "\r\n\n" + json.dumps(AVRT_20K) + "\n"
    samples = read(write(tmp_path / "a.jsonl", "\ufeff" + lines))
    assert [sample.id for sample in samples] == ["183", "7"]
    assert samples[0].question == "one\u2028two"


def test_odd_options_become_text(tmp_path):
    record = {**AVQA, "multi_choice": [None, 3, 2.5, "three"], "answer": 1}
    (sample,) = read(write(tmp_path / "a.json", [record]))
    assert sample.options == ("null", "3", "2.5", "three")


@pytest.mark.parametrize(
    ("answer", "options", "index"),
    [
        ("cat", ["dog", "cat"], 1),
        ("cat ", ["dog", " cat"], 1),
        ("B", ["dog", "cat"], 1),
        ("A", ["B", "A"], 1),  # an option's text goes before a letter
        ("B", ["A", "B", "C"], 1),
    ],
)
def test_text_answers(tmp_path, answer, options, index):
    (sample,) = read(write(tmp_path / "a.json", [{**AVRT_20K, "answer": answer, "choices": options}]), split="train")
    assert sample.answer == index


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": 4}, "not an index of the 4 options"),
        ({"answer": -1}, "not an index of the 4 options"),
        ({"answer": 4}, "begin at 0"),
        ({"answer": "1", "multi_choice": ["a", "b"]}, "index from 0 as a number"),
        ({"answer": "A,B"}, "names several options"),
        ({"answer": "B; C"}, "names several options"),
        ({"question_text": "Is the <Object> always playing?"}, "'<Object>'.*templ_values"),
        ({"question_text": "What is the <LR> instrument?"}, "'<LR>'"),
        ({"multi_choice": ["A. dog", "B. cat", "C. bird", "cow"]}, "some of the options"),
        ({"multi_choice": ["B. dog", "A. cat"]}, "some of the options"),
        ({"multi_choice": ["A. ", "B. "]}, "letters without a text"),
        ({"multi_choice": ["A. B", "B. C", "C. D"], "answer": "C"}, "letter of one option and the text of another"),
        ({"answer": True}, "not one of the options"),
        ({"answer": None}, "not one of the options"),
        ({"answer": "zebra"}, "'zebra' is not one of the options"),
        ({"answer": "E"}, "not one of the options"),
        ({"answer": "x", "multi_choice": ["x", "x"]}, "more than once"),
        ({"multi_choice": ["only"], "answer": 0}, "2 to 26 options"),
        ({"multi_choice": "abcd"}, "must be a list"),
        ({"question_text": " "}, "must be a text"),
        ({"video_name": "../../etc/passwd"}, "plain file name"),
        ({"video_name": ".."}, "plain file name"),
        ({"video_name": 12}, "clip's name"),
        ({"id": "a.b"}, "cannot name a sample"),
        ({"id": "a/b"}, "cannot name a sample"),
        ({"id": ""}, "cannot name a sample"),
        ({"id": 1.5}, "number or a text"),
        ({"av_reasoning": 3}, "must be a text"),
    ],
)
def test_refused_with_file_and_id(tmp_path, change, message):
    path = write(tmp_path / "a.json", [{**AVQA, **change}])
    with pytest.raises(ValueError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert repr(change.get("id", 183)) in str(caught.value)


def test_missing_keys(tmp_path):
    for key in ("question_text", "multi_choice", "video_name", "answer"):
        record = {name: value for name, value in AVQA.items() if name != key}
        with pytest.raises(ValueError, match="183"):
            read(write(tmp_path / "a.json", [record]))
    with pytest.raises(ValueError, match="entry 2: has no `id`"):
        read(write(tmp_path / "a.json", [AVQA, {"video_name": "x"}]))
    with pytest.raises(ValueError, match="entry 1 is not a JSON object"):
        read(write(tmp_path / "a.json", [3]))


def test_an_id_twice(tmp_path):
    # 183 and "183" would be the same key in a shard.
    with pytest.raises(ValueError, match=r"id '183'.* occurs twice"):
        read(write(tmp_path / "a.json", [AVQA, {**AVQA, "id": "183"}]))


@pytest.mark.parametrize("content", ["", "[]", "   \n"])
def test_no_questions(tmp_path, content):
    with pytest.raises(ValueError, match="holds no questions"):
        read(write(tmp_path / "a.json", content))


def test_broken_files(tmp_path):
    with pytest.raises(ValueError, match="not valid JSON at line 1"):
        read(write(tmp_path / "a.json", '[{"id": 1,'))
    with pytest.raises(ValueError, match="line 2 is not valid JSON"):
        read(write(tmp_path / "a.json", json.dumps(AVQA) + "\n{"))
    (tmp_path / "b.json").write_bytes(b"\xff\xfe[]")
    with pytest.raises(ValueError, match="not UTF-8"):
        read(tmp_path / "b.json")


def test_a_blank_split_is_refused(tmp_path):
    with pytest.raises(ValueError, match="split: must be a name"):
        read(write(tmp_path / "a.json", [AVQA]), split=" ")


@pytest.mark.parametrize("empty", ["", [], float("nan")], ids=["text", "list", "nan"])
def test_empty_options_are_those_of_the_question(tmp_path, empty):
    row = AVQA | {"question_text": "What is heard?\nA. dog\nB. cat", "multi_choice": empty}
    (sample,) = read(write(tmp_path / "a.json", [row]))
    assert (sample.question, sample.options) == ("What is heard?", ("dog", "cat"))


@pytest.mark.parametrize(
    ("written", "options"),
    [
        ("A. dog, B. cat, C. car", ("dog", "cat", "car")),
        ("A) dog; B) cat;", ("dog", "cat")),
        ("A. dog,\nB. cat, big,\nC. car", ("dog", "cat, big", "car")),
        ("A. dog, B. cat C. car", ("dog,", "cat", "car")),
        ("['dog' 'cat']", ("dog", "cat")),
        ("['big dog'\n \"cat's\" 'a ] b']", ("big dog", "cat's", "a ] b")),
    ],
)
def test_options_in_one_text(tmp_path, written, options):
    """With separators between labels, and as numpy prints an array into a cell of a CSV file."""
    (sample,) = read(write(tmp_path / "a.json", [AVQA | {"multi_choice": written}]))
    assert sample.options == options


def test_numbers_of_a_column_with_gaps(tmp_path):
    """pandas turns a column of integers with an empty cell into floats."""
    rows = [AVQA | {"id": 4.0, "answer": 1.0}, AVQA | {"id": float("nan"), "answer": 2.0}]
    samples = read(write(tmp_path / "a.json", rows))
    assert [(sample.id, sample.gold) for sample in samples] == [("4", "B"), ("row-000002", "C")]
    table = write(tmp_path / "a.csv", "question,options,answer,video\nq,\"['x', 'y']\",1.0,c\n")
    assert [sample.gold for sample in read(table)] == ["B"]


def test_a_number_as_text_names_the_option(tmp_path):
    with pytest.raises(ValueError, match="--answer-base"):
        read(write(tmp_path / "a.json", [AVQA | {"answer": "2"}]))
