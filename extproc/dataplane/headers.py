"""Header mutations, as filters of the listener and of the clusters use them."""

from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutation, HeaderMutationRemoveOnMatch
from envoy_data_plane.envoy.config.core.v3 import (
    HeaderValue,
    HeaderValueOption,
    HeaderValueOptionHeaderAppendAction,
)
from envoy_data_plane.envoy.type.matcher.v3 import RegexMatcher, StringMatcher


def remove(name: str) -> HeaderMutation:
    return HeaderMutation(remove=name)


def remove_prefix(prefix: str) -> HeaderMutation:
    """Every header whose (always lower-case) name starts with `prefix`."""
    matcher = StringMatcher(prefix=prefix)
    return HeaderMutation(remove_on_match=HeaderMutationRemoveOnMatch(key_matcher=matcher))


def remove_matching(pattern: str) -> HeaderMutation:
    """Every header whose (always lower-case) name is all of what the pattern (RE2) describes."""
    matcher = StringMatcher(safe_regex=RegexMatcher(regex=pattern))
    return HeaderMutation(remove_on_match=HeaderMutationRemoveOnMatch(key_matcher=matcher))


def overwrite(name: str, value: str) -> HeaderMutation:
    """One value in the place of all there were. A format that gives nothing changes nothing."""
    return HeaderMutation(append=overwriting(name, value))


def overwriting(name: str, value: str) -> HeaderValueOption:
    return HeaderValueOption(
        header=HeaderValue(key=name, value=value),
        append_action=HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD,
    )
