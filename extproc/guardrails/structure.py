"""What a request holds that no look at its texts sees: how much of what, tools, images, files, servers."""

from collections.abc import Iterator, Mapping, Sequence

from extproc.guardrails import tools
from extproc.guardrails.hosts import host_of, is_among
from extproc.guardrails.inventory import Inventory, take
from extproc.guardrails.policy import Images, Structure
from extproc.guardrails.verdict import Verdict, told
from extproc.redaction.policy import Mode
from extproc.redaction.positions import Path

Found = tuple[str, int, Sequence[Path]]
"""A rule that is broken: how often, and where."""

RULES = frozenset(
    (
        "files",
        "hosted_tools",
        "image_hosts",
        "images",
        "max_images",
        "max_messages",
        "max_text",
        "max_tools",
        "mcp_hosts",
        "stored_prompts",
        "tools",
    )
)
"""What verdicts call them: the fields of the policy, and `stored_prompts` where `files` are not allowed."""


def check(rules: Structure, document: Mapping[str, object]) -> list[Verdict]:
    """What a parsed request, of any surface, holds against the rules."""
    if rules.mode is Mode.OFF:
        return []
    found = take(document)
    broken: list[Found] = []
    for look in (_too_many, _images, _tools, _files):
        broken += look(rules, found)
    return [Verdict("structure", rule, rules.mode, rules.action, count, told(places)) for rule, count, places in broken]


def _too_many(rules: Structure, found: Inventory) -> Iterator[Found]:
    for rule, most, count in (
        ("max_messages", rules.max_messages, found.messages),
        ("max_text", rules.max_text, found.text),
        ("max_images", rules.max_images, len(found.images)),
        ("max_tools", rules.max_tools, len(found.tools)),
    ):
        if most is not None and count > most:
            yield rule, count, ()


def _images(rules: Structure, found: Inventory) -> Iterator[Found]:
    if rules.images is Images.NONE:
        yield from _each("images", [image.path for image in found.images])
    elif rules.images is Images.INLINE:
        yield from _each("images", [image.path for image in found.images if not image.is_inline])
    allowed = rules.image_hosts
    if allowed is not None:
        fetched = [(image.path, image.url) for image in found.images if image.url is not None]
        yield from _each("image_hosts", [path for path, url in fetched if not is_among(host_of(url), allowed)])


def _tools(rules: Structure, found: Inventory) -> Iterator[Found]:
    names, types, hosts = rules.tools, rules.hosted_tools, rules.mcp_hosts
    if names is not None:
        own = [tool for tool in found.tools if not tool.is_hosted]
        yield from _each("tools", [tool.path for tool in own if not tools.is_called(tool.name, names)])
    if types is not None:
        hosted = [tool for tool in found.tools if tool.is_hosted]
        yield from _each("hosted_tools", [tool.path for tool in hosted if tool.name not in types])
    if hosts is not None:
        servers = [path for path, url in found.servers if url is None or not is_among(host_of(url), hosts)]
        yield from _each("mcp_hosts", servers)


def _files(rules: Structure, found: Inventory) -> Iterator[Found]:
    if not rules.files:
        yield from _each("files", found.files)
        yield from _each("stored_prompts", found.prompts)


def _each(rule: str, places: Sequence[Path]) -> Iterator[Found]:
    if places:
        yield rule, len(places), places
