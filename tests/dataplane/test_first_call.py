"""The product's first truth: an unmodified SDK talks through the real Envoy and the real policy to a backend."""

import openai

from tests.support.fake import FakeProvider
from tests.support.gateway import RunningGateway


def test_a_chat_call_is_answered_checked_and_counted(gateway: RunningGateway, fake: FakeProvider) -> None:
    client = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key)
    raw = client.chat.completions.with_raw_response.create(
        model="gpt-4o", messages=[{"role": "user", "content": "Hello!"}]
    )
    answer = raw.parse()
    assert "Hello!" in (answer.choices[0].message.content or "")
    seen = fake.calls("openai")[0]
    assert ["authorization", "Bearer secret-openai"] in seen["headers"]
    record = gateway.record(raw.headers["x-request-id"])
    assert answer.usage is not None
    assert record["usage"] == {
        "input": answer.usage.prompt_tokens,
        "output": answer.usage.completion_tokens,
        "source": "reported",
    }
    assert (record["backend"], record["ending"], record["key"]) == ("openai", "complete", "quickstart")


def test_a_stream_arrives_without_the_usage_that_only_the_gateway_asked_for(gateway: RunningGateway) -> None:
    client = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key)
    with client.chat.completions.with_raw_response.create(
        model="gpt-4o-mini", messages=[{"role": "user", "content": "Hello!"}], stream=True
    ).parse() as stream:
        chunks = list(stream)
        request_id = stream.response.headers["x-request-id"]
    assert all(chunk.choices for chunk in chunks)
    assert gateway.record(request_id)["usage"]["source"] == "reported"
