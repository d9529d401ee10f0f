"""Function words in the languages of Western Europe, and words that join the parts of a name.

The lists are short on purpose: they only serve to find where a subject ends (`nse_plugin.facts.subject_of`).
"""

from __future__ import annotations


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


ARTICLES = _set("a an the la le les lo il gli el los las un una une der die das den dem o os as")
AUXILIARIES = _set("""
am are be became become been being can could did do does had has have is may might must shall should was were will would
es est ist sind war è é fue était
""")
FUNCTION_WORDS = (
    ARTICLES
    | AUXILIARIES
    | _set("""
about after against all also and any at before between both but by during each for from he her hers him his how i if in
into it its itself me more most my no nor not of off on one only or other our out over own she so some such than that
their them then there these they this those through to under until up us we what when where which while who whom whose
why with within without you your
als am au auf aus bei che con da dans de dei del della des di do du e ein eine en er et im les mit nel no para por pour
que se sont sul sur um und van vom von y zu zum zur à
""")
)
ASKING = _set("which what whose how who")
# Participles that say something about a subject but are not part of it.
PARTICIPLES = _set("""
based born called created designed developed died famous founded found known located made named originally originated
played playing produced situated spoken used written
""")
# Words that join the words of one name.
JOINING = _set("""
of the and for in on to at de la le les du des del della di da do dos von van der den zu et y e el al ibn bin
""")
# In scripts without spaces, and in Korean: particles that may come before a name, after it, or between two names.
PARTICLES_BEFORE = ("在", "ใน", "ของ", "ที่")
PARTICLES_BEHIND = (
    "の", "は", "が", "を", "に", "で", "と", "も", "的", "是", "在", "于", "於", "ของ", "คือ", "อยู่", "ใน", "ที่", "เป็น",
    "의", "에서", "에", "는", "은", "를", "을",
)  # fmt: skip
PARTICLES_BETWEEN = ("の", "的", "ของ")
