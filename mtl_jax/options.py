"""Options of the command line that depend on what is chosen by name: a weighting scheme's, a tracker's."""

import ast
import dataclasses
import inspect
from collections.abc import Callable

from mtl_jax.config import Config
from mtl_jax.errors import UserError


def named_options(
    arguments: list[str], defaults: Config, part: str, name_field: str, options_field: str, flag: str = ""
) -> tuple[list[str], Config]:
    """Puts `--PART NAME`, and options of its own such as `--weighting.c 0.4`, into the defaults.

    Another name does not inherit the options that the experiment gives its own.

    Args:
        arguments: Words of the command line.
        defaults: The experiment.
        part: `weighting`, `tracker` or `model`: a part of the configuration in which something is chosen by name.
        name_field: Field with the name.
        options_field: Field with the options that only what is named has.
        flag: What stands before the name; `--PART` if empty.

    Returns:
        The other arguments, and the defaults.

    Raises:
        UserError: If a name or value is missing.
    """
    config = getattr(defaults, part)
    # What is no field of the part is an option of what is named.
    fields = set() if flag else {field.name for field in dataclasses.fields(config)}
    flag = flag or f"--{part}"
    rest: list[str] = []
    chosen, given = None, {}
    words = iter([word for a in arguments for word in (a.split("=", 1) if _begins(a, flag) else [a])])
    for word in words:
        name = word.removeprefix(flag + ".").replace("-", "_")
        dotted = word.startswith(flag + ".") and name.split(".")[0] not in fields
        if word != flag and not dotted:
            rest.append(word)
            continue
        value = next(words, None)
        if value is None:
            raise UserError(f"{word}: no value; give one")
        if word == flag:
            chosen = value
        else:
            given[name] = _number_or_word(value)
    if chosen is not None:
        config = dataclasses.replace(config, **{name_field: chosen, options_field: {}})
    config = dataclasses.replace(config, **{options_field: getattr(config, options_field) | given})
    return rest, dataclasses.replace(defaults, **{part: config})


def _begins(word: str, flag: str) -> bool:
    return word.split("=", 1)[0] == flag or word.startswith(flag + ".")


def _number_or_word(text: str) -> bool | int | float | str:
    try:
        value = ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text
    return value if isinstance(value, (bool, int, float)) else text


def telling_options(
    command: Callable[..., None], arguments: list[str], chosen: Config
) -> Callable[..., None]:
    """Returns the command with the trackers, and the options of the chosen one, in its help."""
    if {"-h", "--help"} & set(arguments):
        from mtl_jax import tracking

        tracker = tracking.TRACKERS.get(chosen.tracker.name, tracking.Tracker)
        options = [
            f"--tracker.{field.name.replace('_', '-')} {field.default}"
            for field in dataclasses.fields(tracker)
        ]
        summary, arguments_part = inspect.cleandoc(command.__doc__ or "").split("Args:", 1)
        command.__doc__ = (
            f"{summary.rstrip()}\n\nTrackers: {', '.join(tracking.names())}.\n\n"
            f"Options of {chosen.tracker.name}, with their defaults: {', '.join(options)}.\n\nArgs:{arguments_part}"
        )
    return command
