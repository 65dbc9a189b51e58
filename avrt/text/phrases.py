"""Phrases by which replies announce, weaken, deny and correct an answer, as regular expressions.

Every repetition is bounded or excludes its continuation, so that no pattern backtracks for long (the tests have hostile
replies of 100,000 characters).
"""

from __future__ import annotations

import re

_ADVERBS = (
    r"(?:clearly|definitely|certainly|obviously|indeed|therefore|thus|hence|then|simply|surely|really|still|also|now"
    r"|(?:most\s|very\s|quite\s)?(?:likely|probably)|in\sfact|most\scertainly)"
)
_NOUNS = (
    r"answer|ans|option|choice|fit|match|guess|output|response|selection|prediction|conclusion|solution|verdict|decision"
    r"|antwort|réponse|respuesta|resposta|risposta|ответ"
)
_GAP = r"(?:\s(?:to|among|for|from|of|that|which|here|in|based|given|out)\b[^.:=\n]{0,60}?)?"
_SAYS = r"(?:is|was|would\sbe|should\sbe|must\sbe|has\sto\sbe|will\sbe)"

CUE = re.compile(
    rf"(?<![^\W_])(?P<noun>{_NOUNS})\b{_GAP}(?:"
    rf"[\"']?[ \t]{{0,3}}(?P<label>[:=→]|[-–—](?=\s))|[ \t]{{1,3}}{_SAYS}\b[ \t]{{0,3}}:?"
    rf"(?P<adverbs>(?:[ \t]{{0,3}}{_ADVERBS}\b,?){{0,2}}))[ \t]{{0,3}}",
    re.IGNORECASE,
)
"""``Answer: ``, ``"answer": ``, ``the best option among these is ``. `label` is set for the first two."""

CHOICE = re.compile(
    r"\bI(?:'ll|'d|'m)?\s(?:(?:will|would|am|must|have\sto|therefore|thus|hence|going\sto|now|finally|definitely)\s){0,3}"
    r"(?:(?:choose|chose|pick|picked|select|selected|go(?:ing)?\swith|opt\sfor|vote\sfor|conclude|answer|mean|meant)\s"
    r"|(?:think|believe|say|guess|conclude)\s(?:that\s)?(?:it(?:'s|\sis|\smust\sbe|\sshould\sbe)|this\sis)\s)"
)
"""``I choose ``, ``I'll go with ``, ``I think it's ``."""

OPTION_NAMED = re.compile(
    r"\b(?:it|that|this)(?:'s|\sis|\swould\sbe|\smust\sbe)\s(?=(?:the\s)?(?:option|choice)\s|[(\[][A-Z][)\]])",
    re.IGNORECASE,
)
"""``it is option ``, ``it's (B)``: in music, "it is B" may be a note."""

CHINESE_CUE = re.compile(
    r"(?:(?:答案|正确选项|正解)(?:应该|应|就)?(?:是|为|选|:)|(?:故|应|我|所以|因此|答案)选择?(?!项)"
    r"|(?:^|(?<=[,。;]))选择?(?!项)|【答案】)"
    r"[ \t]{0,3}:?[ \t]{0,3}"
)
"""``答案是``, ``答案:``, ``故选``, ``我选择``."""

CONCLUSION = re.compile(
    r"(?:^|(?<=[.!?。\n,]))[ \t]{0,3}(?:so|therefore|thus|hence|consequently|accordingly|in\sconclusion|overall"
    r"|ultimately|finally|in\ssummary)\b,?[ \t]{1,3}",
    re.IGNORECASE,
)
"""``Therefore, `` at a sentence's or clause's beginning; only the option may follow."""

VERDICT = re.compile(
    rf"\s{_SAYS}\s(?:{_ADVERBS}\s){{0,2}}(?:(?:the|my)\s)?(?:(?:final|single|only|one|most)\s){{0,2}}"
    r"(?:correct|right|answer|accurate"
    r"|(?:best|closest|strongest|likely|appropriate|suitable|plausible|probable|fitting|accurate)"
    r"(?=\s(?:answer|option|choice|one|fit|match|description|explanation|response)\b))"
    r"(?:\s(?:answer|option|choice|one|fit|match|description|explanation|response))?\b",
    re.IGNORECASE,
)
"""`` is the correct answer``, after the option."""

BETWEEN_CLAUSES = re.compile(
    r"[,;:]\s|\b(?:so|thus|hence|therefore|that|but|and|because|think|believe|say|conclude|only)\s", re.IGNORECASE
)
"""Where the option before a `VERDICT` may begin."""

ANSWER_HEADING = re.compile(
    r"(?:.*\b(?:the|my|final|correct|best|right)\s|)answer(?:\s(?:is|to|for)\b[^.:=\n]{0,60})?[ \t]{0,3}[:=]?",
    re.IGNORECASE,
)
"""A line after which the answer may be on the next: ``Answer:``, ``### Final answer``, ``So the answer is:``."""

NOT_CHOSEN = re.compile(
    r"\b(?:each|every|all|any|an?|one|another|some|other|both|first|second|third|fourth|next|last|previous|alternative"
    r"|possible|plausible|potential|candidate|wrong|given|which|what|evaluat\w+|analy[sz]\w+|examin\w+|compar\w+|check\w*"
    r"|go(?:ing)?\sthrough|consider\w*|look\w*\sat|discuss\w*|review\w*|explor\w+|assess\w*)"
    r"\s(?:(?!the\b|my\b|our\b)\w+\s){0,3}$",
    re.IGNORECASE,
)
"""Words before ``option is`` that discuss an option without choosing it: ``each option:``, ``another answer is``."""

NEGATION = re.compile(
    r"\b(?:no|not|cannot|never|nor|neither|unlikely|wrong|incorrect|false|worst|least|except|nobody|nothing"
    r"|rul(?:e|ed|es|ing)\s+out|ruled|eliminat\w*|exclud\w*|reject\w*|rather\s+than|instead\s+of)\b|n't\b|❌|不|并非",
    re.IGNORECASE,
)
CONDITION = re.compile(
    r"\b(?:if|unless|whether|suppos(?:e|ing)|assum(?:e|ing)|provided|in\s+case)\b|^\W*(?:were|had)\b|如果|假如|要是|除非",
    re.IGNORECASE,
)
"""A condition anywhere before the answer in its sentence, also before a comma."""

DOUBT = re.compile(
    r"\b(?:doubt\w*|might|may|maybe|perhaps|possib\w+|could|tempt\w*|unsure|(?:not|un)\s?certain"
    r"|at\s+first(?:\s+(?:glance|sight|look))?|initially)\b"
    r"|\b(?:one|some|someone|people|others|many|you|they)\b(?:\s+\w+){0,2}\s+(?:think|say|assume|argue|claim|believe|expect)\b"
    r"|可能|也许|不确定",
    re.IGNORECASE,
)
DOUBT_AT_FIRST = re.compile(
    r"\bat\s+first\b|\binitially\b|\bdoubt\w*"
    r"|(?<!\bI)\s(?:would|might|could|may)\s+(?:say|think|argue|claim|guess|answer|choose|assume|expect)\b"
    r"|\b(?:one|some|someone|people|others|many)\b(?:\s+\w+){0,2}\s+(?:think|say|assume|argue|claim|believe|expect)\b",
    re.IGNORECASE,
)
"""Doubt that applies across a comma."""
UNSURE = re.compile(
    r"\b(?:not\s+(?:\w+\s+)?(?:sure|certain|confident)|unsure|uncertain|no\s+idea|(?:just|only)\s+a\s+guess|doubt\w*"
    r"|(?:not|n't)\s+(?:be\s+sure|know|tell))\b|不确定",
    re.IGNORECASE,
)
"""Doubt that retracts an answer even after it."""

ALTERNATIVE = re.compile(
    r"^\W*(?:or|maybe|perhaps|possibly|alternatively)\b|\b(?:could|might|may|can)\s+(?:(?:also|well|equally|even|just)\s+)*be\b"
    r"|\balso\s+(?:possible|plausible|correct|right|fits|be)\b|\bequally\b",
    re.IGNORECASE,
)
"""A sentence that offers another option."""

RETRACTED = re.compile(
    r"^\W*(?:(?:but|though|yet)\W+)?(?:(?:that|this|which|it)\b)?\s*(?:"
    r"(?:is|was|'s|seems)\s+(?:\w+\s+)?(?:wrong|incorrect|false|not\s+(?:right|correct)|a\s+mistake)"
    r"|(?:can't\s+be|cannot\s+be|isn't|wasn't)\s+(?:right|correct|it))\b",
    re.IGNORECASE,
)
"""A sentence that says that the answer before it is wrong."""

REASON_FOLLOWS = re.compile(r"\s*,?\s*(?:because|since|as|given|due)\b|\s*,?\s*因为", re.IGNORECASE)
NOT_THE_OTHER = re.compile(
    r"\s*[,(]?\s*(?:and\s+)?(?:not|rather\s+than|instead\s+of)\s+(?:option\s+)?[(\[]?[A-Z](?!\w)[)\]]{0,2}"
)
"""``, not C`` or ``(not C)`` after an answer."""

_OPENERS = r"(?:(?:but|oh|hm+|well|ah|and|ok|okay|uh|um|er|yes)\b[\s,.…!—–-]{0,4}){0,3}"
CORRECTION = re.compile(
    rf"(?:^|(?<=[.!?…\n;,:)\]>—–。-]))[ \t]{{0,4}}{_OPENERS}"
    r"(?P<marker>"
    r"wait\b(?=\W{0,3}(?:$|[,.!?…—–:;\n-]|(?:no|actually|but|let|I|that|it|the|this|maybe|should)\b))"
    r"|actually\b|correction\b|on\s(?:second|further)\sthoughts?\b|(?:scratch|strike)\sthat\b|hold\son\b|oops\b|sorry\b"
    r"|no(?:[,;:.!—–…]|\s(?:wait|sorry|actually)\b|\s[-—–]|$)|hm{2,}\b|my\s(?:mistake|bad|apologies)\b|apologies\b"
    r"|I\s(?:made\sa\smistake|made\san\serror|was\s(?:wrong|mistaken)|meant|mean|misread|misheard|take\s(?:that|it)\sback)\b"
    r"|I\s(?:change|correct|revise|must\scorrect|need\sto\scorrect)\b|rather,"
    r"|let\sme\s(?:re-?(?:check|consider|evaluate|examine|think|assess|visit|listen|watch|read|do|view)|double|correct"
    r"|(?:look|listen|think|try|check)\sagain)\w*"
    r"|(?:up)?on\s(?:reflection|re-?\w{3,12})\b|that(?:'s|\sis)\s(?:wrong|incorrect|not\s(?:right|correct))\b"
    r"|更正|不对|等等)",
    re.IGNORECASE,
)
"""The beginning of a correction."""
AFTER_CORRECTION = re.compile(
    r"[\s,.!?…:;—–-]{0,8}(?:(?:no|wait|actually|but|so|sorry|hm+|rather|yes|correction|it's|it\sis|it\s(?:should|must)\sbe"
    r"|that\sshould\sbe|should\sbe|make\s(?:it|that)|I\smeant?|I\sthink|to)\b)?",
    re.IGNORECASE,
)
"""Filler words between a correction's marker and the option."""

COURTESY = re.compile(
    r"(?<=[.!?)\]\n])[ \t]{0,3}(?:do\syou\s(?:have|need|want)|would\syou\slike|let\sme\sknow|is\sthere\sany|feel\sfree"
    r"|i\shope|please\slet)\b[^\n]{0,300}$",
    re.IGNORECASE,
)
"""A polite closing sentence."""
INTERJECTION = re.compile(r"(?:sure|certainly|of\scourse|okay|ok)[!,.:]\s{1,3}", re.IGNORECASE)
EXAMINES = re.compile(
    r"\b(?:consider|evaluat|analy[sz]|examin|compar|check|look|discuss|review|explor|assess|through)\w*\b.{0,60}"
    r"\b(?:option|choice|answer)s?\b.{0,20}:$",
    re.IGNORECASE,
)
"""A heading above an option that is only examined."""

SENTENCE_END = re.compile(r"[.!?][\"')\]⟧]{0,4}(?=\s|$)|\n|。")
CLAUSE_END = re.compile(r"[.!?。;,:\n]|\b(?:so|thus|hence|therefore|but|however)\b", re.IGNORECASE)
CERTAINLY = re.compile(r"\b(?:no|without\s+(?:a\s+|any\s+)?)\s*doubt\b|\bnot\s+only\b", re.IGNORECASE)
"""Phrases with words of denial or doubt that express neither."""
BUT = re.compile(r"\b(?:but|however|yet)\b", re.IGNORECASE)
