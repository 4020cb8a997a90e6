"""How many tokens rows have: a model's tokenizer.json by `tokenizers`, its chat template as transformers renders it.

The template's environment follows transformers' utils/chat_template_utils.py (5.x): a sandbox, loop controls,
`{% generation %}`, tojson without escapes, raise_exception and strftime_now. tests/real/test_row_numbers.py compares
both.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from launcher.artifacts.checkpoints import chat_template
from slipway.errors import Exit, SlipwayError

SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class Refused(Exception):
    """What the chat template says of a row that it does not render."""


class Tokenizer:
    """Of a folder of Hugging Face. Raises SlipwayError 66 and 65 for what has none, and 69 without `tokenizers`."""

    def __init__(self, folder: Path) -> None:
        file = folder / "tokenizer.json"
        if not file.is_file():
            what = "has no tokenizer.json, by which tokens are counted"
            raise SlipwayError(Exit.NO_INPUT, what, where=f"tokenizer={folder}", remedy="name a model's folder")
        try:
            import tokenizers
        except ImportError as e:
            what = f"tokens are counted by the package tokenizers, which is not there ({e})"
            raise SlipwayError(Exit.UNAVAILABLE, what, remedy="pip install tokenizers") from e
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(file))
        except Exception as e:  # the package raises no narrower one
            raise SlipwayError(Exit.DATA, f"cannot be loaded: {e}", where=str(file)) from e
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._special = _special_tokens(folder)
        self._source, self._folder = chat_template(folder), folder
        self._template: Any = None

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """The number of tokens of each text, without those that a tokenizer adds by itself."""
        return [len(e.ids) for e in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    def render(self, messages: list[Any], tools: Any = None) -> str:
        """A conversation as text. Raises Refused, and SlipwayError 65 where there is no template, or a broken one."""
        if self._template is None:
            self._template = self._compiled()
        try:
            rendered = self._template.render(
                messages=messages, tools=tools or None, add_generation_prompt=False, **self._special
            )
        except Exception as e:
            raise Refused(f"{type(e).__name__}: {' '.join(str(e).split())[:200]}") from e
        return str(rendered)

    def _compiled(self) -> Any:
        import jinja2

        where = f"tokenizer={self._folder}"
        if not self._source:
            what = "has no chat template, by which conversations become text"
            raise SlipwayError(Exit.DATA, what, where=where, remedy="name an instruct model")
        try:
            return _environment().from_string(self._source)
        except jinja2.TemplateError as e:
            raise SlipwayError(Exit.DATA, f"its chat template is broken: {e}", where=where) from e


def _special_tokens(folder: Path) -> dict[str, str]:
    """What a template may name, as tokenizer_config.json says it."""
    try:
        said = json.loads((folder / "tokenizer_config.json").read_bytes())
    except (OSError, ValueError):
        return {}
    found = {name: said.get(name) for name in SPECIAL} if isinstance(said, dict) else {}
    texts = {name: v.get("content") if isinstance(v, dict) else v for name, v in found.items()}
    return {name: text for name, text in texts.items() if isinstance(text, str)}


def _environment() -> Any:
    import jinja2
    import jinja2.ext
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(jinja2.ext.Extension):
        """`{% generation %}…{% endgeneration %}` says what is learned; here it is what stands inside."""

        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
            return jinja2.nodes.CallBlock(self.call_method("_inside"), [], [], body).set_lineno(line)

        def _inside(self, caller: Any) -> Any:
            return caller()

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def tojson(x: Any, ensure_ascii: bool = False, **options: Any) -> str:
        return json.dumps(x, ensure_ascii=ensure_ascii, **options)

    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    made.filters["tojson"] = tojson
    made.globals["raise_exception"] = raise_exception
    made.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    return made


def texts_of(tokenizer: Tokenizer, type_: str, row: dict[str, Any]) -> Iterable[str]:
    """What of a row is one sequence of tokens: a conversation; a prompt with its answer; each answer of a preference.

    Raises Refused, KeyError and TypeError for a row that is none of its type.
    """
    if type_ == "chat_jsonl" or "messages" in row:
        tools = row.get("tools")  # AutoModel takes them as text, too
        return [tokenizer.render(row["messages"], json.loads(tools) if isinstance(tools, str) and tools else tools)]
    if type_ == "prompt_jsonl":
        return [str(row.get("input", "")) + str(row.get("output", ""))]
    if "completions" in row:
        answers = [answer["completion"] for answer in row["completions"]]
        return [tokenizer.render([*row["context"], *answer]) for answer in answers]
    return [_together(tokenizer, row["prompt"], row[answer]) for answer in ("chosen", "rejected")]


def _together(tokenizer: Tokenizer, prompt: Any, answer: Any) -> str:
    if isinstance(prompt, str) and isinstance(answer, str):
        return prompt + answer
    sides = ((prompt, "user"), (answer, "assistant"))
    messages = [
        m for said, role in sides for m in ([{"role": role, "content": said}] if isinstance(said, str) else said)
    ]
    return tokenizer.render(messages)
