# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of how chat templates are rendered: as transformers does, and none gets out."""

import time

import pytest

pytest.importorskip("jinja2", reason="the extra 'hf' is not installed")

from fspo_jax.episodes import chat_rendering
from fspo_jax.episodes.chat_rendering import ChatTemplateError

CHAT = [{"role": "user", "content": "<a> & 'b'"}]


def _render(source, **options):
  (text,) = chat_rendering.render(source, [CHAT], {"bos_token": "<s>"}, **options)
  return text


@pytest.mark.parametrize(
  "source, text",
  [
    ("{{ bos_token }}{{ messages[0]['content'] }}", "<s><a> & 'b'"),
    ("{{ messages[0]|tojson }}", '{"role": "user", "content": "<a> & \'b\'"}'),
    ("{% if tools is not none and tools %}t{% else %}n{% endif %}{{ eos_token }}", "n"),
    ("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"),
    ("a\n  {% if true %}\nb\n  {% endif %}\nc", "a\nb\nc"),
    ("{% generation %}x{{ add_generation_prompt }}{% endgeneration %}", "xTrue"),
    ("{% set ns = namespace(n=1) %}{% set ns.n = 2 %}{{ ns.n }}", "2"),
  ],
)
def test_a_template_has_what_transformers_gives_it(source, text):
  assert _render(source) == text


def test_several_conversations_are_rendered_at_once():
  assert chat_rendering.render("{{ messages|length }}", [CHAT, CHAT * 2, []], {}) == ["1", "2", "0"]


def test_the_date_is_the_one_that_is_given():
  assert _render("{{ strftime_now('%d %b %Y') }}", date="2024-07-26") == "26 Jul 2024"
  with pytest.raises(ChatTemplateError, match="asks for today's date.*chat.date"):
    _render("{{ strftime_now('%Y') }}")


_HOSTILE = {
  "the class of a text": ("{{ ''.__class__ }}", r"may not have: .*'__class__' of a str"),
  "its subclasses": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "may not have"),
  "by a filter": ("{{ ''|attr('__class__') }}", "may not have"),
  "by a subscript": ("{{ ''['__class__'] }}", "may not have"),
  "the globals of a function": ("{{ raise_exception.__globals__ }}", "may not have"),
  "the globals of a built-in": ("{{ dict.__base__ }}", "may not have"),
  "a format string": ("{{ '{0.__class__}'.format(1) }}", "may not have"),
  "a template's own frame": ("{{ self.__init__.__globals__ }}", "may not have"),
  "a loop's own frame": (
    "{% for i in [1] %}{{ loop.__init__.__globals__ }}{% endfor %}",
    "may not have",
  ),
  "changing what it is given": ("{{ messages.append(1) }}", "may not have"),
  "another file": ("{% include '/etc/passwd' %}", "fails with"),
  "an import": ("{% import 'os' as os %}", "fails with"),
  "a module": ("{{ os.system('true') }}", "fails with UndefinedError"),
  "a very long range": ("{% for i in range(10**9) %}{% endfor %}", "fails with OverflowError"),
  "no end": (
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    r"stopped by signal|found no end",
  ),
  "recursion": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "fails with RecursionError"),
  "a long text": ("{{ 'x' * 10000000 }}", "writes 10000000 characters"),
  "all memory": ("{{ 'x' * 10000000000 }}", "more than 1024 MiB"),
  "all memory, by a filter": ("{{ 'x'|center(10000000000) }}", "more than 1024 MiB"),
  "a huge number": ("{{ 10**10000000000 }}", "more than 1024|stopped by signal|found no end"),
  "no Jinja": ("{% for %}", r"found no Jinja: line 1"),
  "a refusal": ("{{ raise_exception('only tools') }}", "refuses the conversation: only tools"),
}


@pytest.mark.parametrize("case", _HOSTILE)
def test_a_template_that_wants_out_is_refused(case):
  source, message = _HOSTILE[case]
  started = time.monotonic()
  with pytest.raises(ChatTemplateError, match=message) as caught:
    _render(source)
  assert time.monotonic() - started < 60
  assert "\n" not in str(caught.value)


def test_a_template_longer_than_any_is_refused():
  with pytest.raises(ChatTemplateError, match=r"found 1048577 characters"):
    _render("x" * ((1 << 20) + 1))
