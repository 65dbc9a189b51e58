r"""Words by which replies announce their answer, as tables of patterns.

`ANNOUNCEMENTS` are words before the option (``I choose B``), `VERDICT` and `CJK_VERDICT` words around it (``B is
correct``), and `LABEL` the commonest form, ``Answer: B`` or ``the answer is B``. A pattern is only tried on a line that
has one of its `words`, because most lines have none of them. Every repetition is bounded or excludes its continuation.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

ADVERBS = (
    r"(?:clearly|definitely|certainly|obviously|indeed|therefore|thus|hence|then|simply|surely|really|still|also|now"
    r"|(?:most\s|very\s|quite\s)?(?:likely|probably)|in\sfact|most\scertainly)"
)
_NOUNS = (
    r"answers?|ans|option|choice|fit|match|guess|selection|prediction|conclusion|solution|verdict|decision"
    r"|(?<!is\s)(?<!so\s)(?:selected|correct|chosen|final)(?=[\"']?[ \t]{0,3}[:=])"
    r"|one(?=\s(?:that|which)\s)|(?<=correct\s)one|(?<=right\s)one"
    r"|antwort|réponse|respuesta|opci[oó]n|resposta|opção|risposta|opzione|ответ|jawaban|odpowiedź|antwoord|cevap"
    r"|đáp\sán|คําตอบ|उत्तर|উত্তর|الإجابة|الجواب"
)
_LOOSE_NOUNS = r"(?:output|response|result|letter|pick)"
_GAP = (
    r"(?:\s(?:correct[ao]?|correcte|corretta|correta|finale?|الصحيحة)\b)?"
    r"(?:\s(?:to|among|for|from|of|with|that|which|here|in|based|given|out)\b[^.:=\n]{0,60}?)?"
)
_MODAL = rf"(?:would|should|must|will|has\sto)\s(?:{ADVERBS}\s)?be"
_SAYS = rf"(?:is|was|{_MODAL})"
_SAYS_ANYWHERE = rf"(?:is|was|{_MODAL}|es|est|ist|é|è|هي)"

LABEL_WORDS = (
    *("answer", "ans", "option", "choice", "fit", "match", "guess", "pick", "output", "respon", "result", "selecti"),
    *(
        "prediction",
        "conclusion",
        "solution",
        "verdict",
        "decision",
        "letter",
        "selected",
        "correct",
        "chosen",
        "final",
        "one ",
    ),
    *("antwo", "répon", "respuesta", "opci", "respos", "opç", "rispos", "opzione", "ответ", "jawaban", "odpowied"),
    *("cevap", "đáp", "คําตอบ", "उत्तर", "উত্তর", "الإجابة", "الجواب"),
)
AFTER_ARTICLE_A = ("resposta", "opção")
"""Nouns before which "a" is the definite article."""
LABEL = re.compile(
    rf"(?<![^\W_])(?P<noun>(?:{_NOUNS})(?!\w){_GAP}|{_LOOSE_NOUNS}\b)(?:"
    rf"(?P<label>\]?[\"']?[ \t]{{0,3}}(?:[:=→][-–—]?|[-–—](?=\s))|\])"
    rf"|[ \t]{{1,3}}{_SAYS_ANYWHERE}(?!\w)(?:\s(?:la|le|el|die)(?=\s[(\[]?[A-Z](?!\w)))?[ \t]{{0,3}}:?"
    rf"(?P<adverbs>(?:[ \t]{{0,3}}{ADVERBS}\b,?){{0,2}}))[ \t]{{0,3}}",
    re.IGNORECASE,
)
"""``Answer: ``, ``"answer": ``, ``the best option among these is ``. `label` is set for the first two."""

NOT_CHOSEN = re.compile(
    r"\b(?:each|every|all|any|an?|one|another|some|other|both|first|second|third|fourth|next|last|previous|alternative"
    r"|possible|(?<!most\s)plausible|potential|candidate|wrong|given|which|what|example|sample|evaluat\w+|analy[sz]\w+"
    r"|examin\w+|compar\w+|check\w*|go(?:ing)?\sthrough|consider\w*|look\w*\sat|discuss\w*|review\w*|explor\w+|assess\w*)"
    r"\s(?:(?!the\b|my\b|our\b)\w+\s){0,3}$",
    re.IGNORECASE,
)
"""Words before ``option is`` that discuss an option without choosing it: ``each option:``, ``another answer is``."""

ANSWER_HEADING = re.compile(
    r"(?:.*\b(?:the|my|final|correct|best|right)\s|)answer(?:\s(?:is|to|for)\b[^.:=\n]{0,60})?[ \t]{0,3}[:=]?"
    r"|(?:.*\s)?(?:the|my)\s(?:correct|best|right|closest|final|most\s\w+)\s(?:answer|option|choice|match|fit)"
    r"\b[^.:=\n]{0,60}\s(?:is|be|to)[ \t]{0,3}[:=]?",
    re.IGNORECASE,
)
"""A line after which the answer may be on the next: ``Answer:``, ``### Final answer``, ``So the answer is:``."""


class Announcement(NamedTuple):
    """Words before an option that choose it.

    Attributes:
        words: lower-case pieces of text. The announcement begins with one of them, or (``anywhere``) has one in its
            line.
        then: what must follow the option: the end of its ``sentence``, nothing else (``all``), or ``fits``.
        kind: ``label``, if it has the word "answer" or one like it, else ``choice``.
    """

    pattern: re.Pattern[str]
    words: tuple[str, ...]
    then: Literal["sentence", "all", "fits"] = "sentence"
    kind: Literal["label", "choice"] = "choice"
    anywhere: bool = False


_AUXILIARY = (
    r"(?:(?:will|would|am|are|have|must|have\sto|therefore|thus|hence|going\sto|now|finally|definitely)\s){0,3}"
)
_CHOOSE = r"(?:choos(?:e|ing)|chosen?|pick(?:ed|ing)?|select(?:ed|ing)?|go(?:ing)?\swith|opt(?:ing)?\sfor)"
_NAMED_OPTION = r"(?=(?:the\s)?(?:option|choice)\s|[(\[][A-Z][)\]])"

ANNOUNCEMENTS = (
    # I choose B; I'll go with B; we pick B; I'd say B
    Announcement(
        re.compile(
            rf"\b(?:I|[Ww]e)(?:'ll|'d|'m|'re|'ve)?\s{_AUXILIARY}"
            rf"(?:(?:{_CHOOSE}|vote(?:\sfor)?|say|conclude|answer|mean|meant)\s"
            r"|(?:think|believe|say|guess|conclude)\s(?:that\s)?"
            r"(?:it(?:'s|\sis|\smust\sbe|\sshould\sbe)|this\sis)\s)"
        ),
        ("i ", "i'", "we ", "we'"),
    ),
    # I think B.
    Announcement(re.compile(r"\bI\s(?:think|believe|guess|suspect)\s(?=\W{0,2}[A-Z](?!\w))"), ("i ",), "all"),
    # Let's go with B. Select B.
    Announcement(
        re.compile(
            r"\b[Ll]et(?:'s|\sus)\s(?:go\swith|choose|pick|select)\s"
            r"|(?:^|(?<=[.!?:,]\s))(?:[Gg]oing\swith|[Ss]elect|[Cc]hoose|[Pp]ick):?\s(?=(?:option\s)?\W{0,2}[A-Z](?!\w))"
        ),
        ("let's ", "let us", "going with", "select", "choose", "pick"),
    ),
    # it is option B; it's (B): in music, "it is B" may be a note
    Announcement(
        re.compile(rf"\b(?:it|that|this)(?:'s|\sis|\swould\sbe|\smust\sbe)\s{_NAMED_OPTION}", re.IGNORECASE),
        ("it is ", "it's ", "it would ", "it must ", "that is ", "that's ", "that would ", "this is ", "this would "),
    ),
    Announcement(re.compile(r"\bit\s(?:must|has\sto|should)\sbe\s", re.IGNORECASE), ("it must", "it has", "it should")),
    # not A but B; not A, it is B
    Announcement(
        re.compile(
            r"\bnot\s(?:option\s)?[(\[]?[A-Z](?!\w)[)\]]?"
            r"(?:\s?[,;.]?\sbut\s(?:rather\s)?|\s?[,;.]\s?(?:it(?:'s|\sis)|rather|instead)\s)"
        ),
        ("not ",),
    ),
    # only B fits
    Announcement(re.compile(r"\bonly\s", re.IGNORECASE), ("only ",), "fits"),
    # Therefore, B.
    Announcement(
        re.compile(
            r"(?:^|(?<=[.!?。,])|(?<=[.!?。,] )|(?<=[.!?。,]  ))(?:so|therefore|thus|hence"
            r"|consequently|accordingly|in\sconclusion|overall"
            r"|ultimately|finally|in\ssummary)\b[,:]?[ \t]{1,3}",
            re.IGNORECASE,
        ),
        (
            *("so ", "so,", "so:", "therefore", "thus", "hence", "consequ", "accord", "in conclu", "overall"),
            *("ultim", "finally", "in summary"),
        ),
        "all",
    ),
    # Chinese: 答案是B, 答案:B, 正确选项为B, 故选B, 我认为是B, 不是A,而是B
    Announcement(
        re.compile(
            r"(?:答案(?:选项)?|正解|选项)(?:应该|应|就)?(?:是|为|选择?|:)"
            r"|(?:正确|最终)(?:答案|选项)\s(?=\W?[A-Z]\W*$)|(?:答复|答曰|回答|解答|(?:^|(?<=[,。;\s]))答):"
            r"|(?:故|应该?|我|所以|因此|综上[,]?)选择?(?!项)|(?:^|(?<=[,。;]))选择?(?!项)|【答案】"
            r"|我(?:认为|觉得)(?:应该?)?(?:是|选)|(?:不是|并非)\W?[A-Z]\W{1,3}而是"
            r"|(?:所以|因此|故)答?(?=\W?[A-Z]\W*$)"
        ),
        ("答", "选", "正解", "我", "而是", "所以", "因此", "故"),
        kind="label",
        anywhere=True,
    ),
    # Japanese: 答えはB, 正解:B; Korean: 정답은 B, 답: B
    Announcement(
        re.compile(r"(?:答え|正解|正答|回答|解答|選択肢)[はが:]|(?:정답|답변|답)\s?[은는이:]"),
        ("答", "正解", "選択肢", "답"),
        kind="label",
        anywhere=True,
    ),
)
_FILLER = r"[ \t]{0,3}:?[ \t]{0,3}"
AFTER_ANNOUNCEMENT = re.compile(_FILLER)

FITS = re.compile(r"\s(?:fits?|match(?:es)?|works?|remains?|applies|makes\ssense|is\sleft)\b", re.IGNORECASE)
"""After ``only B``."""

VERDICT_STARTS = (
    *(" is ", " was ", " would ", " should ", " must ", " will ", " has ", " it is"),
    *(" best ", " fits ", " matches ", " suits ", " describes ", " answers "),
)
VERDICT_WORDS = (
    *("correct", "right", "answer", "accurate", "best", "closest", "strongest", "likely", "appropriate"),
    *("suitable", "plausible", "probable", "fitting", "it is", "the one"),
)
_QUALITIES = r"best|closest|strongest|likely|appropriate|suitable|plausible|probable|fitting|accurate"
_THINGS = r"answer|option|choice|one|fit|match|description|explanation|response"
_FITS_BEST = (
    r"(?P<describes>\sbest\s(?:fits|matches|describes|represents|suits|answers|explains|captures|reflects|aligns)\b"
    r"|\s(?:fits|matches|suits|describes|answers)\s(?:(?!second|third|next|not|least)\w+\s){0,4}?best\b)"
)
VERDICT = re.compile(
    rf"\s{_SAYS}\s(?:{ADVERBS}\s){{0,2}}(?:(?:the|my)\s)?(?:(?:final|single|only|one|most)\s){{0,2}}"
    rf"(?:correct|right|answer|accurate|(?:best|closest|one)(?=\W*$|[.,]|\sto\b)|(?:{_QUALITIES})(?=\s(?:{_THINGS})\b))"
    rf"(?:\s(?:{_THINGS}))?\b|{_FITS_BEST}|\sit\sis(?=\W*$|[.!,])",
    re.IGNORECASE,
)
"""`` is the correct answer``, `` fits best``, `` it is``, after the option."""

CHOOSES = re.compile(r"answer|option|choice|\bthe\b|\bit\b|best|only", re.IGNORECASE)
"""In a `VERDICT`, a word that makes it more than an assessment of a statement (``is correct``)."""

BETWEEN_CLAUSES = re.compile(
    r"[,;:]\s|\b(?:so|thus|hence|therefore|that|but|and|because|think|believe|say|conclude|only)\s", re.IGNORECASE
)
"""Where the option before a `VERDICT` may begin."""

CJK_WORDS = ("正", "对", "最", "適切", "정답", "맞")
CJK_VERDICT = re.compile(
    r"(?:^|(?<=[,。;:\s、]))(?:(?:因此|所以|故|综上|显然|したがって|よって|따라서)[,、]?\s?)?(?:只有)?"
    r"(?:选项|選項|選択肢|선택지|보기)?\s?[(「\"]?(?P<letter>[A-Z])[)」\"]?\s?(?:选项|项)?\s?"
    r"(?:(?:才?是|为)?(?:唯一)?(?:正确|对)的?(?:答案|选项)?|最(?:符合|合适|恰当|准确|佳)|が(?:正解|正しい|最?も?適切)|번?[이가]\s?(?:정답|맞))"
    r"(?:です|である|だ|입니다|이다|습니다)?(?=\s*(?:[。.,!;]|$))"
)
"""``选项B是正确的``, ``Bが正解です``, ``B가 정답입니다``."""

ANSWER_WORD = re.compile(
    r"\b(?:answer|option|choice|should|must|let|think|again|listen\w*|check|reconsider)\b", re.IGNORECASE
)
"""Words of a correction, which a sentence that only adds to an answer has not."""
REFERS_TO = re.compile(
    r"\b(?:correspond\w*|match\w*|point\w*|consistent|align\w*|lead\w*|so|thus|hence)\s(?:(?:to|with|us|the|is)\s){0,2}"
    r"(?:option|choice|answer)\s[(\[]?(?P<letter>[A-Z])(?!\w)[)\]]?|\b(?:is|be)\s[(\[](?P<bracketed>[A-Z])[)\]]",
    re.IGNORECASE,
)
"""``which corresponds to option B``, ``the source is (B)``, in a closing sentence."""
ENDS_WITH = re.compile(
    r"\b(?:is|are|was|were|be|with|to|as|approximately|about|called|named)(?:\sthe)?(?:\s(?:option|choice|answer))?\s[(\[]?([A-Z])[)\]]?[.:,)]{1,2}\s"
)
"""``is C. ``, before the text of option C at a reply's end."""
LAST_WORD = re.compile(r"(?:\w\W{0,3}[.!。…]|…)\s{0,3}[(\[]?([A-Z])[)\]]?[.。]?$")
"""``Let me think... B``"""
CONCLUDES = re.compile(r"^\W*(?:so|therefore|thus|hence|in\sconclusion|overall|finally|based\son)\b", re.IGNORECASE)
