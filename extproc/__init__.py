"""Sluice's policy engine. The life of a call:

1. Envoy sends the request headers: `stages.identify` says who calls, `surfaces` says what is asked.
2. Envoy sends the body: a dialect reads it into a `Prompt`; guard and cache look at it; `stages.route`
   draws the chain of targets; `stages.budget` reserves. The reply carries the chain to Envoy.
3. Envoy tries the chain's clusters in order, and sends the headers of the answer that won.
4. Envoy sends the answer, whole or chunk by chunk: usage is counted as it flows.
5. However the exchange ends, it is settled exactly once, into one `Outcome` (settlement.py).

Imports point one way: worker → app → adapter → pipeline → stages, telemetry → call → dialects → metering,
refusals, headers, keys, model → surfaces. `stores` and `config` are used by the pipeline and above. Only
`adapter` knows gRPC and protobuf; only the pipeline awaits. import-linter holds this (see .importlinter).
"""
