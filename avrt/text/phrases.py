"""Phrases by which replies weaken, deny and correct an answer, as regular expressions (`cues.py` has announcements).

Every repetition is bounded or excludes its continuation, so that no pattern backtracks for long (the tests have hostile
replies of 100,000 characters).
"""

from __future__ import annotations

import re

NEGATION = re.compile(
    r"\b(?:no|not|cannot|never|nor|neither|unlikely|wrong|incorrect|false|worst|least|except|nobody|nothing"
    r"|rul(?:e|ed|es|ing)\s+out|ruled|eliminat\w*|exclud\w*|reject\w*|rather\s+than|instead\s+of|refus\w+|hesitat\w+"
    r"|den(?:y|ies|ied))\b|n't\b|❌|不|并非|ない|아니",
    re.IGNORECASE,
)
CONDITION = re.compile(
    r"\b(?:if|unless|whether|suppos(?:e|ing)|assum(?:e|ing)|imagin(?:e|ing)|provided|depend\w*|in\s+case|as\s+long\s+as)\b"
    r"|^\W*(?:were|had)\b|如果|假如|要是|除非|もし|만약",
    re.IGNORECASE,
)
"""A condition anywhere before the answer in its sentence, also before a comma."""

DOUBT = re.compile(
    r"\b(?:doubt\w*|might|may|maybe|perhaps|possib\w+|could|tempt\w*|unsure|(?:not|un)\s?certain"
    r"|at\s+first(?:\s+(?:glance|sight|look))?|initially)\b"
    r"|\b(?:one|some|someone|people|others|many|you|they)\b(?:\s+\w+){0,2}\s+(?:think|say|assume|argue|claim|believe|expect)\b"
    r"|可能|也许|不确定|かも",
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
    r"|(?:hard|difficult|impossible)\s+to\s+(?:tell|say|know|decide)|(?:not|n't)\s+(?:be\s+sure|know|tell|decide))\b"
    r"|不确定",
    re.IGNORECASE,
)
"""Doubt that retracts an answer even after it."""

ALTERNATIVE = re.compile(
    r"^\W*(?:or|maybe|perhaps|possibly|alternatively)\b|\b(?:could|might|may|can)\s+(?:(?:also|well|equally|even|just)\s+)*be\b"
    r"|\balso\s+(?:possible|plausible|correct|right|fits|be)\b|\bequally\b",
    re.IGNORECASE,
)
"""A sentence that offers another option."""

OTHERWISE = re.compile(
    r"\b(?:if|unless)\b.{0,80}\b(?:answer|option|choice)\s+(?:is|would\s+be|could\s+be)\b", re.IGNORECASE
)
"""A sentence with another answer under a condition."""

RETRACTED = re.compile(
    r"^\W*(?:(?:but|though|yet|however)\W+)?(?:(?:that|this|which|it)\b)?\s*(?:"
    r"(?:is|was|'s|seems)\s+(?:\w+\s+)?(?:wrong|incorrect|false|not\s+(?:(?:a|the)\s+)?(?:right|correct|valid|possible)|a\s+mistake)"
    r"|(?:can't\s+be|cannot\s+be|isn't|wasn't)\s+(?:right|correct|it))\b",
    re.IGNORECASE,
)
"""A sentence that says that the answer before it is wrong."""

REASON_FOLLOWS = re.compile(r"\s*,?\s*(?:because|since|as|given|due)\b|\s*,?\s*因为", re.IGNORECASE)
NOT_THE_OTHER = re.compile(
    r"\s*[,(]?\s*(?:and\s+)?(?:not|rather\s+than|instead\s+of)\s+(?:option\s+)?[(\[]?[A-Z](?!\w)[)\]]{0,2}"
    r"|\s*[,(]?\s*而?不(?:是|应该?选|选)\s*[A-Z](?![A-Za-z])"
)
"""``, not C`` or ``(not C)`` after an answer."""

_OPENERS = r"(?:(?:but|oh|hm+|well|ah|and|ok|okay|uh|um|er|yes)\b[\s,.…!—–-]{0,4}){0,3}"
CORRECTION = re.compile(
    rf"(?:^|(?<=[.!?…\n;,:)\]>—–→。-]))[ \t]{{0,4}}{_OPENERS}"
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
CORRECTION_WORDS = (
    *("wait", "actually", "correction", "second thought", "further thought", "scratch that", "strike that", "hold on"),
    *("oops", "sorry", "apologies", "my mistake", "my bad", "hmm", "rather,", "let me", "reflection", "on re"),
    *("no,", "no;", "no:", "no.", "no!", "no—", "no–", "no…", "no -", "no —", "no –", "no wait", "no\n"),
    *("i made", "i was", "i mean", "i mis", "i take", "i change", "i correct", "i revise", "i must c", "i need"),
    *("that's w", "that's i", "that's n", "that is w", "that is i", "that is n", "更正", "不对", "等等"),
)
"""Pieces of text in lower case, one of which is in every text with a `CORRECTION`, unless it ends in "no"."""
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
INTERJECTION = re.compile(
    r"(?:sure|certainly|of\scourse|okay|ok)[!,.:]\s{1,3}|!{1,3}\s{0,3}|(?:most\s)?(?:probably|likely|definitely|clearly)[,:]?\s{1,3}",
    re.IGNORECASE,
)
EXAMINES = re.compile(
    r"\b(?:consider|evaluat|analy[sz]|examin|compar|check|look|discuss|review|explor|assess|through)\w*\b.{0,60}"
    r"\b(?:option|choice|answer)s?\b.{0,20}:$",
    re.IGNORECASE,
)
"""A heading above an option that is only examined."""

SENTENCE_END = re.compile(r"[.!?][\"')\]⟧]{0,4}(?=\s|$)|\n|。")
CLAUSE_END = re.compile(r"[.!?。;,:\n]|\b(?:so|thus|hence|therefore|but|however)\b", re.IGNORECASE)
CERTAINLY = re.compile(
    r"\b(?:no|without\s+(?:a\s+|any\s+)?)\s*doubt\b|\bnot\s+only\b"
    r"|\b(?:even\s+if|whether\s+or\s+not)\b[^,]{0,80},"
    r"|\bif\s+(?:I|we|you)\s+(?:had|have|were)\s+to\s+(?:guess|choose|pick|answer|decide)\b[^,]{0,40},"
    r"|\bif\s+(?:you|we|one)\s+(?:listens?|looks?|watch|compares?|considers?)\b(?!\s+and\b)[^,]{0,60},",
    re.IGNORECASE,
)
"""Phrases with words of denial, doubt or condition that express none."""
BUT_THEN = re.compile(
    r"(?:^|[.!?。]\W{0,3})(?:however|but|nevertheless|that\ssaid|on\sclos\w+)\b|(?:^|[。;,.])\s?(?:但是?|不过|然而)",
    re.IGNORECASE | re.MULTILINE,
)
"""The beginning of a sentence that turns against what was said before."""
ONLY_ADDS = re.compile(r"actually,?\s+(?!\W|let\b|I\b|no\b|wait\b|maybe\b)\w", re.IGNORECASE)
"""``Actually, `` at the beginning of a sentence that may only add to the answer."""
PLACEHOLDER = re.compile(r"\b(?:example|replace\w*|placeholder|guess\w*|arbitrar\w+|random\w*)\b", re.IGNORECASE)
"""Words after a letter by which it is no real answer."""
WRONG = re.compile(r"\b(?:wrong|incorrect|false|mistaken|not\s+(?:right|correct|it))\b", re.IGNORECASE)
POLITE = r"(?:です|でした|である|だ|となります|になります|입니다|이다|이에요|예요|번(?:입니다|이다)?)"
"""Japanese and Korean endings of "it is"."""
BUT = re.compile(r"\b(?:but|however|yet)\b", re.IGNORECASE)
