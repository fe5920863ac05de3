"""Cleaning a post's text: what identifies people or leads elsewhere goes, the words stay.

The order matters: entities first (they may hide markup), then markup (it may hide URLs), then URLs
before anything that could split them. The whole is repeated until nothing changes, so that cleaning
cleaned text is the same text.
"""

import html
import re
from typing import Literal

import emoji as emojis

_URL_CHARACTERS = r"[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%\u00a1-\u1fff]"
_ATTRIBUTE = r"""\s+(?:[\w:.-]+\s*=\s*(?:"[^"]*"|'[^']*'|[^\s"'<>]+)|controls|async|defer|hidden|disabled|checked)"""
_TAGS = (
    "a|abbr|article|aside|audio|b|big|blockquote|body|br|button|caption|center|cite|code|dd|del|details|div|dl|dt|em|"
    "embed|figcaption|figure|font|footer|form|h[1-6]|head|header|hr|html|i|iframe|img|input|ins|kbd|label|li|link|main|mark|"
    "meta|nav|ol|option|p|picture|pre|q|s|samp|script|section|select|small|source|span|strike|strong|style|sub|summary|"
    "sup|table|tbody|td|tfoot|th|thead|title|tr|tt|u|ul|video|wbr"
)
_HIDDEN = re.compile(r"<!--.*?-->|<(script|style)\b[^<>]*>.*?</\1\s*>|<!doctype[^<>]*>", re.IGNORECASE | re.DOTALL)
_TAG = re.compile(rf"</?(?:{_TAGS})(?:{_ATTRIBUTE})*\s*/?>", re.IGNORECASE)
_MARKDOWN_LINK = re.compile(r"!?\[([^\[\]]*)\]\((?:[^()\s]|\([^()\s]*\))+(?:\s+\"[^\"]*\")?\)")
_URL = re.compile(
    rf"(?:https?|ftp)://{_URL_CHARACTERS}*…?"  # also one that was cut off: http://t.co/a…
    r"|\bhttps?:?/{0,2}…"
    rf"|\bwww\.{_URL_CHARACTERS}+…?"
    rf"|(?<![\w@.])(?:[a-z0-9-]+\.)+(?:com|org|net|co|ly|gl|me|be|tv|io|gd|is|it|to|tt)/{_URL_CHARACTERS}*…?",
    re.IGNORECASE,
)
_RETWEET = re.compile(r"^\s*(?:RT\s*(?:[@＠]\w+\s*:?|:)\s*)+")
_MENTION = re.compile(r"(?<!\w)(?:[@＠](?:\w[\w.-]*@[\w-]+(?:\.\w+)+|\w+)(?::(?=\s|$))?)+")
_HASHTAGS = re.compile(r"(?<!\w)(?:[#＃]+\w+)+")
_HASH = re.compile(r"[#＃]+")
_CONTROL = re.compile(
    r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff"
    r"\ufff9-\ufffb\ud800-\udfff]"
)
_VARIATION = re.compile(r"[\ufe0e\ufe0f]")
_SPACE = re.compile(r"\s+")


def clean(text: str, emoji: Literal["remove", "describe", "keep"]) -> str:
    """The post's words on one line; may be empty.

    Removed are markup, URLs, @mentions, leading "RT @name:" and control characters. Hashtags keep
    their words ('#legday' -> 'legday'); e-mail addresses, '<3' and 'a < b' are left as they are.
    """
    while (cleaner := _clean_once(text, emoji)) != text:
        text = cleaner
    return text


def _clean_once(text: str, emoji: Literal["remove", "describe", "keep"]) -> str:
    text = _CONTROL.sub("", _unescape(text))
    if "<" in text:
        text = _TAG.sub(" ", _HIDDEN.sub(" ", text))
    text = _URL.sub(" ", _MARKDOWN_LINK.sub(r"\1", text))
    text = _MENTION.sub(" ", _RETWEET.sub("", text))
    text = _HASHTAGS.sub(lambda found: _HASH.sub(" ", found.group()), text)
    if emoji != "keep" and not text.isascii():
        text = _VARIATION.sub("", emojis.replace_emoji(text, _describe if emoji == "describe" else " "))
    return _SPACE.sub(" ", text).strip()


def _unescape(text: str) -> str:
    while "&" in text and (plainer := html.unescape(text)) != text:
        text = plainer
    return text


def _describe(_: str, data: dict[str, str]) -> str:
    """An emoji's Unicode name in words: ' face with tears of joy '."""
    return f" {data['en'].strip(':').replace('_', ' ')} "
