"""One file per direction: a surface that clients call, carried by a backend that speaks another dialect.

Requests are translated on each attempt, from the redacted body; answers where they pass the policy. Both without any
state of a call but what is in the bytes. What a direction cannot express is known before: see `direction`.
"""
