"""docs/commands.md: every command with its arguments, options and defaults, from the program itself (a test compares).

    python -m tolsey.client.command_page > docs/commands.md

It loads every room's commands, so it needs the extras `torch` and `chain`.
"""

from __future__ import annotations

from typing import Any

import typer

from tolsey.client import cli

HEAD = """# Commands
Printed by `python -m tolsey.client.command_page`; a test keeps this page and the program equal.
Exit codes: [errors.md](errors.md). Shapes of `--json`: [json.md](json.md).
"""


def page() -> str:
    """The whole page as Markdown."""
    group = typer.main.get_command(cli.app)
    parts = [HEAD]
    for name in group.list_commands(None):  # type: ignore[attr-defined]  # a click group
        parts += _sections(f"tolsey {name}", cli.load(name))
    return "\n".join(parts)


def _sections(path: str, command: Any) -> list[str]:
    if getattr(command, "commands", None):
        lines = [f"## {path}", (command.help or "").strip(), ""]
        for name, inner in sorted(command.commands.items()):
            lines += _sections(f"{path} {name}", inner)
        return lines
    rows = [row for parameter in command.params if (row := _row(parameter)) is not None]
    table = ["", "| argument or option | default | meaning |", "|---|---|---|", *rows] if rows else []
    return [f"## {path}", (command.help or "").strip(), *table, ""]


def _row(parameter: Any) -> str | None:
    if getattr(parameter, "hidden", False) or parameter.name == "help":
        return None
    if parameter.param_type_name == "argument":
        name, meaning = parameter.name, getattr(parameter, "help", None) or ""
    else:
        name, meaning = ", ".join([*parameter.opts, *parameter.secondary_opts]), parameter.help or ""
    default = parameter.default
    plain = isinstance(default, str | int | float) and not isinstance(default, bool) and default != ""
    shown = f"`{default}`" if plain else ("required" if parameter.required else "")
    return f"| `{name}` | {shown} | {' '.join(meaning.split()).replace('|', chr(92) + '|')} |"


if __name__ == "__main__":
    print(page(), end="")
