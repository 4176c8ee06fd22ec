"""Shell completion: names and PFs come from the daemon, within half a second or not at all."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator

import click
from click.shell_completion import CompletionItem, get_completion_class

from vfd.api.client import ApiError, Client, NoDaemonError, StrangeAnswerError
from vfd.cli.command import Command, Example, Settings, settings
from vfd.cli.source import stem
from vfd.policy.shown import SHOWN

SHELLS = ("bash", "zsh", "fish")
PATIENCE = 0.5
"""Seconds. A key press that hangs is worse than one that completes nothing."""
_LISTED = 10_000
"""Files of config_dir that are looked through."""
_NO_ANSWER = (ApiError, NoDaemonError, StrangeAnswerError, click.UsageError, TypeError)
"""What ends in nothing being offered: a message amid the command line helps nobody."""
_PLAIN = re.compile(r"[\w.:/@%+,=-]+", re.ASCII)
"""What every shell takes as one word and as nothing but a word. A shell puts what it is offered on
the command line as it stands, and a tenant may have chosen a name such as ``a;reboot``: other
names are not offered."""


def _client(context: click.Context) -> Client:
    return context.ensure_object(Settings).client(PATIENCE)


def _rows(context: click.Context) -> list[dict[str, str]]:
    try:
        rows = _client(context).get("/v1/show")["rows"]
    except _NO_ANSWER:
        return []
    return list(rows)


def _fits(word: str, incomplete: str) -> bool:
    return word.startswith(incomplete) and _PLAIN.fullmatch(word) is not None


def complete_vf(
    context: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Names of VFs that have a configuration."""
    return [
        CompletionItem(row["name"], help=f"{row['pf']}:{row['vfid']}")
        for row in _rows(context)
        if row["kind"] == "vf" and _fits(row["name"], incomplete)
    ]


def complete_vf_or_file(
    context: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """The same, and files: what ``update`` takes."""
    return [*complete_vf(context, param, incomplete), CompletionItem(incomplete, type="file")]


def complete_new(
    context: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Files of config_dir that are not in force, also those that were refused, and other files:
    what ``add`` takes."""
    names = {row["name"] for row in _rows(context)}
    found = []
    try:
        folder = _client(context).get("/v1/version")["config_dir"]
    except _NO_ANSWER:
        folder = ""
    for file in itertools.islice(_files_of(folder), _LISTED) if folder else ():
        name = stem(file)
        if name != file and name not in names and _fits(name, incomplete):
            names.add(name)
            found.append(CompletionItem(name, help=file))
    return [*found, CompletionItem(incomplete, type="file")]


def _files_of(folder: str) -> Iterator[str]:
    """None where the user may not list it."""
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for file in sorted(files):
            if not file.startswith("."):
                yield os.path.relpath(f"{parent}/{file}", folder)


def complete_pf(
    context: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    try:
        return [
            CompletionItem(pf["id"], help=" ".join(filter(None, (pf["backend"], pf["model"]))))
            for pf in _client(context).get("/v1/pfs")["pfs"]
            if _fits(pf["id"], incomplete)
        ]
    except _NO_ANSWER:
        return []


def complete_port(
    context: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """PFs, and once a PF is named its VFs: PF:VF."""
    items = []
    for row in _rows(context):
        vf = row["kind"] == "vf"
        port = f"{row['pf']}:{row['vfid']}" if vf else row["pf"]
        if _fits(port, incomplete) and (not vf or len(incomplete) >= len(row["pf"])):
            items.append(CompletionItem(port, help=row["name"] if vf else row["address"]))
    return items


def complete_what(
    context: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    items = [CompletionItem(word) for word in SHOWN if word.startswith(incomplete)]
    return items + complete_port(context, param, incomplete)


BASH = r"""# Completion of iplex for bash. It asks iplex itself at each TAB.

_iplex_completion() {
    local IFS=$'\n' rest=$COMP_LINE cword=0 i word current prefix line
    local -a words=()
    # Bash splits words at colons, which PCI addresses and ports have: undo that.
    for i in "${!COMP_WORDS[@]}"; do
        word=${COMP_WORDS[i]}
        if ((i > 0)) && [[ $rest != [[:space:]]* ]] \
            && [[ $word == :* || ${words[-1]} == *: ]]; then
            words[-1]+=$word
        else
            words+=("$word")
        fi
        rest=${rest#"${rest%%[![:space:]]*}"}
        rest=${rest#"$word"}
        ((i == COMP_CWORD)) && cword=$((${#words[@]} - 1))
    done
    current=${words[cword]}
    prefix=
    [[ $COMP_WORDBREAKS == *:* ]] && prefix=${current%"${current##*:}"}
    COMPREPLY=()
    while read -r line; do
        case $line in
            dir,*) compopt -o dirnames ;;
            file,*) compopt -o default ;;
            plain,*)
                line=${line#plain,}
                COMPREPLY+=("${line#"$prefix"}")
                ;;
        esac
    done < <(env COMP_WORDS="${words[*]}" COMP_CWORD="$cword" _IPLEX_COMPLETE=bash_complete "$1")
}

complete -o nosort -F _iplex_completion iplex
"""
"""Our own: click's loses what stands before a colon."""


def script(shell: str) -> str:
    """The completion script of one shell, which asks ``iplex`` itself at each TAB."""
    if shell == "bash":
        return BASH
    # Imported here: commands import this module for their completers.
    from vfd.cli.main import iplex

    found = get_completion_class(shell)
    assert found is not None
    return found(iplex, {}, "iplex", "_IPLEX_COMPLETE").source().strip() + "\n"


@click.command(
    "completion",
    cls=Command,
    short_help="Print the completion script of a shell.",
    examples=[
        Example('eval "$(iplex completion bash)"', "Now, in this bash."),
        Example(
            "iplex completion bash > /etc/bash_completion.d/iplex", "For every bash of this host."
        ),
        Example(
            "iplex completion zsh > /usr/local/share/zsh/site-functions/_iplex",
            "For every zsh of this host.",
        ),
        Example("iplex completion fish > ~/.config/fish/completions/iplex.fish", "For your fish."),
    ],
)
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print the completion script of a shell.

    It completes commands, options, names of VFs, PFs and ports; the latter are asked of the
    daemon, and left out if it doesn't answer within half a second.
    """
    settings().out(script(shell).rstrip("\n"))
