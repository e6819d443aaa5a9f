"""Sentences in the reader's own language, on pages whose context has that `language`."""

from __future__ import annotations

from typing import Any

from django import template
from django.template import Context

from enrollment.languages import Language

register = template.Library()


@register.simple_tag(takes_context=True)
def say(context: Context, section: str, key: str, **facts: Any) -> str:
    """`{% say "guest" "hello" name=person.full_name %}`; escaped like every other text."""
    language: Language = context["language"]
    return language.say(section, key, **facts)
