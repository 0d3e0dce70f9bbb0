"""A deterministic fake of OpenAI, Azure OpenAI, Anthropic and Gemini over HTTP/1.1, for tests and benchmarks.

One process serves several named instances, a port each, that share nothing. The way of a call:
`connection` (bytes to requests) → `recorder` (what was seen) → `provider` (which operation) → `chat`,
`responses`, `anthropic`, `gemini`, … (what the provider would say) → `delivery` (its bytes, with the faults asked for).

It shares no code with the gateway, so that a mistake made there cannot hide behind the same mistake here.
"""
