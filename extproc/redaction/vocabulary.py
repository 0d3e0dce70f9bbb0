"""Words of the providers' APIs: what in a request is structure and says nothing of anybody.

A string is passed over only where both its place and what it is are known: a word of `WORDS` under a key of
`ENUMERATED`, an id that a provider issued under a key of `ISSUED`, base64 under a key of `SEALED`. Everything else is
looked at.
"""

import re

ENUMERATED = frozenset(
    (
        "detail",
        "effort",
        "encoding_format",
        "format",
        "media_type",
        "modalities",
        "object",
        "phase",
        "reasoning_effort",
        "response_format",
        "role",
        "service_tier",
        "status",
        "tool_choice",
        "truncation",
        "type",
        "verbosity",
        "voice",
    )
)
_WORDS = b"""
    any array assistant audio auto base64 boolean completed computer_call computer_call_output content custom
    custom_tool_call custom_tool_call_output default developer disabled document enabled ephemeral file file_search
    file_search_call flex float function function_call function_call_output high image image_generation
    image_generation_call image_url in_progress incomplete input_audio input_file input_image input_text integer
    item_reference json_object json_schema list local_shell_call low mcp mcp_call medium message minimal none null
    number object output_text priority reasoning reasoning_text redacted_thinking refusal required standard string
    summary_text system text thinking tool tool_result tool_use url user web_search web_search_call
    mp3 opus pcm16 wav application/pdf image/gif image/jpeg image/png image/webp text/plain
"""
WORDS = frozenset(_WORDS.split())

ISSUED = frozenset(
    ("call_id", "file_id", "id", "item_id", "previous_response_id", "response_id", "tool_call_id", "tool_use_id")
)
ISSUED_ID = re.compile(
    # By a prefix that providers give, and with letters among the digits, which no number of a person has; or a call's,
    # whose digits some count up: with fewer than a card's number has.
    rb"(?:asst|batch|call|chatcmpl|ci|cmpl|cntr|conv|ctc|cu|fc|fco|file|fs|ig|item|lsh|mcp|mcpl|mcpr|msg|pmpt|prompt|req"
    rb"|resp|rs|run|srvtoolu|thread|toolu|vs|ws)[_-](?=(?:[0-9]*[A-Za-z]){3})[A-Za-z0-9]{6,128}"
    rb"|(?:call|func|function|tool|toolu)[_-](?!.*[0-9]{13})[A-Za-z0-9_-]{1,128}"
)

SEALED = frozenset(
    (
        "audio",
        "b64_json",
        "data",
        "encrypted_content",
        "file_data",
        "image",
        "image_url",
        "partial_image_b64",
        "result",
        "signature",
        "thought_signature",
        "url",
    )
)
"""Where media, and reasoning that only its provider can read, stand as base64."""
SEALED_BYTES = 4096
"""Shorter strings are looked at: hardly any media are so small, and keys are written in the same letters."""

_PLAIN_NUMBERS = """
    budget_tokens cached_tokens completed_at completion_tokens created created_at dimensions expires_at finish_reason
    index input input_tokens logit_bias max_completion_tokens max_output_tokens max_tokens maximum minimum n
    output_tokens prompt prompt_tokens reasoning_tokens seed total_tokens
"""
PLAIN_NUMBERS = frozenset(_PLAIN_NUMBERS.split())
"""Keys of numbers that are settings, or tokens of a text."""

_KEYS = """
    $defs $ref additionalProperties allOf allowed_tools annotations anyOf approval_request_id arguments audio author
    background bad_words best_of budget_tokens cache_control call_id chat_template_kwargs choices citations code
    completed_at completion_tokens container content content_index context conversation created created_at data default
    definitions delta description detail dimensions documents echo effort encoding_format encrypted_content enum error
    examples exclusiveMaximum exclusiveMinimum file file_data file_id file_url filename finish_reason format
    frequency_penalty function function_call functions generate guided_json id image image_url include include_usage
    incomplete_details index input input_audio input_schema input_tokens instructions is_error item items json_schema
    language logit_bias logprobs maxItems maxLength max_completion_tokens max_output_tokens max_tokens maximum
    media_type message messages metadata minItems minLength min_p minimum modalities model n name obfuscation object
    oneOf output output_index output_text output_tokens parallel_tool_calls param parameters part pattern phase
    prediction presence_penalty previous_response_id prompt prompt_cache_key prompt_tokens properties purpose quality
    query reasoning reasoning_content reasoning_effort refusal repetition_penalty required response response_format
    result role safety_identifier schema seed sequence_number server_label server_url service_tier signature size source
    speed status stop stop_reason stop_sequence stop_sequences store stream stream_options strict style suffix summary
    summary_index system system_fingerprint temperature text thinking title tool_call_id tool_calls tool_choice
    tool_use_id tools top_k top_logprobs top_n top_p total_tokens truncation ttl type url usage user username verbosity
    voice web_search_options
"""
KEYS = {word.encode(): word for word in _KEYS.split()}
"""Keys of the APIs, which are not looked at themselves, and are no help in saying what a value is."""

CONVERSATION = frozenset(("messages", "input"))
"""Top-level keys whose value grows from call to call."""
ASIDE = frozenset(("metadata", "prompt_cache_key", "safety_identifier", "user"))
"""Top-level keys that no model reads, and that may differ from call to call."""
