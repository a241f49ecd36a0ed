"""What a run is: its identity, the seeds derived from it, and how methods and their parameters are written."""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
)

import methods
from benchmark.common.canonical import canonical_json
from benchmark.common.errors import UserError, nearest, unknown
from benchmark.records.method_version import method_version as method_version
from benchmark.records.precision import Precision

#: Of a whole number: every one up to it is a float of its own, in JSON as well.
LARGEST = 2**53
LONGEST_SHOWN = 60

#: Rows that every board shows and does not rank: the lower and the upper reference.
REFERENCE_ROWS = ("pretrained", "individual")


class RunSpec(BaseModel):
    """Everything that decides a run's numbers, and nothing else.

    Device, evaluation batch size, workers and paths are provenance, not identity. The runner builds `parameters` with
    `resolve_parameters`, so that defaults are included and 1 and 1.0 of one parameter are the same run.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    suite: str = Field(description="name of the suite, e.g. vision-mini-8")
    suite_version: str = Field(description="version of its tasks and protocol, from its YAML")
    backbone: str = Field(description="name of the backbone, e.g. ViT-mini")
    family: str = Field(description="who trained the experts; families never share a table")
    checkpoints: dict[str, str] = Field(description="sha256 of each checkpoint file by name (base, experts, heads)")
    data: dict[str, dict[str, str]] = Field(
        description="sha256 of what the run reads, by split and task (and what tasks share): test, the splits of its "
        "access, those of the suite's protocol"
    )
    method: str = Field(description="name of the method in the registry")
    method_version: str = Field(description="hash of the method's arithmetic, whatever its parts are called")
    parameters: dict[str, Any] = Field(description="every keyword of the method except seed, defaults included")
    seed: int | None = Field(description="seed of a stochastic method, None for a deterministic one")
    dtype: str = Field(default="float32", description="dtype of the merged weights")
    autocast: Literal["float16", "bfloat16"] | None = Field(default=None, description="dtype of autocast, None without")
    vectors: Literal["float32", "float16", "bfloat16"] = Field(
        default="float32", description="dtype in which adaptation holds the task vectors"
    )

    limit: int | None = Field(
        default=None,
        ge=1,
        description="of a trial: at most so many samples of a task in every split; None (then not written): all",
    )

    @model_serializer(mode="wrap")
    def _without_limit(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A run on all samples says nothing of a limit: its identity is what it was before there were trials."""
        fields: dict[str, Any] = handler(self)
        if fields.get("limit") is None:
            fields.pop("limit", None)
        return fields

    @field_validator("suite_version", mode="before")
    @classmethod
    def _version_as_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, (int, float)) else value

    @field_validator("parameters")
    @classmethod
    def _json_values(cls, value: dict[str, Any]) -> dict[str, Any]:
        return json.loads(canonical_json(value))

    @property
    def precision(self) -> Precision:
        """Its three dtypes as one value."""
        return Precision(self.dtype, self.autocast, self.vectors)

    @property
    def run_id(self) -> str:
        """First 16 hexadecimal digits of the sha256 of the canonical JSON."""
        return hashlib.sha256(canonical_json(self.model_dump()).encode()).hexdigest()[:16]


def other_data(data: Mapping[str, Mapping[str, str]], present: Mapping[str, Mapping[str, str]]) -> str | None:
    """How ``data`` (as in a spec) differ from the ``present`` ones in a split of a task that both have, or None.

    >>> other_data({"test": {"MNIST": "12ab" * 16}}, {"test": {"MNIST": "34cd" * 16}})
    'MNIST (test) had sha256 12ab12ab12ab, now 34cd34cd34cd'
    """
    for split, tasks in data.items():
        for task, sha256 in tasks.items():
            if (now := present.get(split, {}).get(task, sha256)) != sha256:
                return f"{task} ({split}) had sha256 {sha256[:12]}, now {now[:12]}"
    return None


def normalise(value: Any, default: Any) -> Any:
    """`value` in the type of the parameter's default, so that equal settings have one identity.

    An int for a float default becomes a float, an integral float for an int default an int, 0 or 1 for a bool default a
    bool, a tuple a list. Without a number as default (None, text), integral floats become ints. None passes.
    Raises ValueError where no number of the default's type equals the value.
    """
    if isinstance(value, tuple):
        value = list(value)
    if isinstance(value, list):
        inner = default[0] if isinstance(default, (list, tuple)) and default else None
        return [normalise(item, inner) for item in value]
    if isinstance(value, str) and isinstance(default, (int, float)):
        # YAML reads 1e-3 as text.
        number = parse_value(value)
        value = number if isinstance(number, (int, float)) else value
    if value is None or isinstance(value, (str, Mapping)):
        return value
    if isinstance(default, bool):
        if value in (0, 1):
            return bool(value)
        raise ValueError("true or false is wanted")
    if isinstance(value, bool):
        if isinstance(default, (int, float)):
            raise ValueError("a number is wanted")
        return value
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("a finite number is wanted")
    if abs(value) > LARGEST and (isinstance(value, int) or not isinstance(default, float)):
        raise ValueError(f"a number up to {LARGEST:,} is wanted")
    if isinstance(default, float) and isinstance(value, (int, float)):
        return float(value) + 0.0
    if isinstance(value, float):
        if value.is_integer():
            return int(value)
        if isinstance(default, int):
            raise ValueError("a whole number is wanted")
    return value


def resolve_parameters(method: str, keywords: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """All parameters of a run: `defaults` (without seed) with `keywords` over them, each of its default's type.

    Raises UserError for a keyword the method does not have (nearest ones named) or a value of the wrong kind.
    """
    resolved = {key: normalise(value, value) for key, value in defaults.items() if key != "seed"}
    for key, value in keywords.items():
        if key == "seed" and "seed" in defaults:
            raise UserError(f"{method}: seed is not set as a parameter", "Use --seeds, e.g. --seeds 0 1 2")
        if key not in resolved:
            raise unknown(f"keyword of {method}", key, resolved)
        try:
            resolved[key] = normalise(value, defaults[key])
        except ValueError as error:
            usual = format_value(defaults[key])
            raise UserError(
                f"{method}: {key}={_shown(value)} does not fit its default {usual}: {error}",
                f"Write e.g. {method}:{key}={usual}",
            ) from None
    return resolved


def checked_parameters(
    method: str, keywords: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """All parameters of a run, as `resolve_parameters` gives them, of values that the method's annotations allow.

    `defaults` are the suite's, by default the method's own. A word such as none or true that the annotation lists as
    text is that text. Every plan is made by this, so that a wrong value is refused before anything runs.
    Raises UserError with what is allowed and what to type, MergingError for an unknown method.
    """
    about = methods.describe(method)
    defaults = about.parameters if defaults is None else defaults
    words = {key: format_value(value) for key, value in keywords.items() if value is None or isinstance(value, bool)}
    keywords = {**keywords, **{k: w for k, w in words.items() if k in about.parameters and w in about.choices(k)}}
    parameters = resolve_parameters(method, keywords, defaults)
    for key, value in parameters.items():
        check_value(about, key, value, defaults[key])
    return parameters


def check_value(about: methods.Method, key: str, value: Any, usual: Any) -> None:
    """Refuse a value that the keyword's annotation does not allow, or text where its default is a number.

    Where there is no annotation, the default's kind decides: a number for a number, true or false for these.

    Raises UserError with what is allowed and what to type, MergingError for an unknown or broken method as a value.
    """
    searched = key in about.grids and value == "val"
    number = isinstance(usual, (int, float)) and not isinstance(usual, bool)
    said = about.allowed_text(key) and not (number and isinstance(value, str))
    if about.allows(key, value) and (searched or said or _alike(value, usual)):
        return
    if about.takes_method(key) and isinstance(value, str) and value != about.name:
        methods.describe(value)
    allowed = about.allowed_text(key) or ("true or false" if isinstance(usual, bool) else "a number")
    near = nearest(str(value), map(str, about.choices(key)), count=1)
    raise UserError(
        f"{about.name}: {key}={_shown(value)} is not allowed; allowed: {allowed}",
        f"Write e.g. {about.name}:{key}={near[0] if near else format_value(usual)}",
    )


def _alike(value: Any, usual: Any) -> bool:
    """Whether a value is a number, or true or false, where the usual one is: all that an annotation left out says."""
    if isinstance(usual, bool):
        return isinstance(value, bool)
    return not isinstance(usual, (int, float)) or (isinstance(value, (int, float)) and not isinstance(value, bool))


def _shown(value: Any) -> str:
    """A value in a message, in short."""
    text = format_value(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}... ({len(text):,} characters)"


def check_texts(texts: Iterable[str], sets: Mapping[str, Mapping[str, Any]]) -> None:
    """Check `NAME[:key=value,...]` and the values of --set as far as it can be done without the suite, at once.

    Raises UserError or MergingError for an unknown method, an unknown keyword or a value that is not allowed.
    """
    for name, keywords in [parse_method(text) for text in texts] + list(sets.items()):
        checked_parameters(name, keywords)


def present_version(method: str, parameters: Mapping[str, Any]) -> str:
    """The version of a method's code as it is now, that of its inner method counted with it.

    Raises MergingError for an unknown or broken method.
    """
    inner = parameters.get("inner")
    is_method = isinstance(inner, str) and inner in methods.names()
    others = ((methods.describe(str(inner)).path, str(inner)),) if is_method else ()
    return _version(methods.describe(method).path, method, others)


@functools.cache
def _version(path: Path, name: str, others: tuple[tuple[Path, str], ...]) -> str:
    return method_version(path, name, others)


def changed_parameters(parameters: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the resolved `parameters` that differ from the normalised defaults, in the order of the signature."""
    return {
        key: parameters[key]
        for key, value in defaults.items()
        if key in parameters and canonical_json(parameters[key]) != canonical_json(normalise(value, value))
    }


def variant_label(method: str, changed: Mapping[str, Any]) -> str:
    """`NAME` or `NAME:key=value,...`, which `parse_method` reads back."""
    if not changed:
        return method
    return method + ":" + ",".join(f"{key}={format_value(value)}" for key, value in changed.items())


_WORDS = {"true": True, "false": False, "none": None, "null": None}


def parse_value(text: str) -> Any:
    """A Python literal (with true, false, none in any case), else the text itself."""
    text = text.strip()
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        value = ast.literal_eval(text)
        canonical_json(value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text
    return list(value) if isinstance(value, tuple) else value


def format_value(value: Any) -> str:
    """The text from which `parse_value` makes `value` again."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    if isinstance(value, str):
        plain = value == parse_value(value) and not any(char in value for char in ",=:'\"[](){} \n\\")
        return value if plain and value else repr(value)
    return _literal(value)


def _literal(value: Any) -> str:
    return f"[{','.join(map(_literal, value))}]" if isinstance(value, (list, tuple)) else repr(value)


def parse_method(text: str) -> tuple[str, dict[str, Any]]:
    """`NAME[:key=value,...]` as (name, {key: value}); commas inside brackets and quotes do not separate.

    >>> parse_method("adamerging:granularity=task,trim=true")
    ('adamerging', {'granularity': 'task', 'trim': True})
    """
    name, colon, rest = text.partition(":")
    name = name.strip()
    if "," in name:
        raise UserError(
            f"{text!r} holds a comma", f"Methods are separated by spaces: --methods {text.replace(',', ' ')}"
        )
    if not name or (colon and not rest.strip()):
        raise _syntax(text)
    keywords: dict[str, Any] = {}
    for part in _split(rest) if colon else []:
        key, equals, value = part.partition("=")
        key = key.strip()
        if not equals or not key.isidentifier() or not value.strip():
            raise _syntax(text)
        if key in keywords:
            raise UserError(f"{key} is given twice in {text!r}", f"Write it once: {name}:{key}={value}")
        keywords[key] = parse_value(value)
    return name, keywords


def parse_set(text: str) -> tuple[str, str, Any]:
    """`name.key=value` (the argument of --set) as (name, key, value)."""
    target, equals, value = text.partition("=")
    name, dot, key = target.strip().rpartition(".")
    if not equals or not dot or not name or not key.isidentifier() or not value.strip():
        raise UserError(f"--set {text!r} is not NAME.KEY=VALUE", "Write e.g. --set ties.keep=0.1")
    return name, key, parse_value(value)


def _syntax(text: str) -> UserError:
    example = "Write e.g. --methods adamerging:granularity=task,trim=true"
    return UserError(f"{text!r} is not NAME[:key=value,...]", example)


def _split(text: str) -> list[str]:
    parts, depth, quote, start, escaped = [], 0, "", 0, False
    for index, char in enumerate(text):
        if quote:
            if escaped:
                escaped = False
            elif char == "\\":
                escaped = True
            elif char == quote:
                quote = ""
        elif char in "'\"":
            quote = char
        elif char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
        elif char == "," and depth == 0:
            parts.append(text[start:index])
            start = index + 1
    return [*parts, text[start:]]
