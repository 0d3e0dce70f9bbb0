"""A small client of every API that the gateway serves, with the providers' own SDKs. Nothing in it is special to Sluice
but the base URL and the key.

    make run                                              # in one terminal
    .venv/bin/python examples/demo_client/demo.py         # in another

SLUICE_URL (http://127.0.0.1:8080) and SLUICE_KEY (the quickstart key) say whom to call.
"""

# ruff: noqa: T201 - a demonstration prints
import io
import os
import sys
import wave

import anthropic
import openai
from openai.types.chat import ChatCompletionToolParam

QUICKSTART_KEY = "sk-sluice-IFUxAmjGWe6Lfzec5ng5trOW23xqo9Nfop7vIMaY0BQ3QZBYH"

URL = os.environ.get("SLUICE_URL", "http://127.0.0.1:8080")
KEY = os.environ.get("SLUICE_KEY", QUICKSTART_KEY)

WEATHER: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city now.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


def chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "Say hello!"}])
    print(answer.choices[0].message.content)


def stream(client: openai.OpenAI) -> None:
    question = "Count to three."
    for chunk in client.chat.completions.create(
        model="gpt-4o-mini", messages=[{"role": "user", "content": question}], stream=True
    ):
        print(chunk.choices[0].delta.content or "", end="", flush=True)
    print()


def tools(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="gpt-4o",
        messages=[{"role": "user", "content": "What is the weather in Oslo?"}],
        tools=[WEATHER],
        tool_choice="required",
    )
    for call in answer.choices[0].message.tool_calls or []:
        if call.type == "function":
            print(f"the model asks for {call.function.name}({call.function.arguments})")


def embeddings(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="text-embedding-3-small", input=["a cat", "a kitten"])
    print(f"{len(answer.data)} vectors of {len(answer.data[0].embedding)} numbers")


def responses(client: openai.OpenAI) -> None:
    first = client.responses.create(model="gpt-4o", input="My name is Ada.")
    second = client.responses.create(model="gpt-4o", input="What is my name?", previous_response_id=first.id)
    print(second.output_text)


def transcription(client: openai.OpenAI) -> None:
    answer = client.audio.transcriptions.create(model="whisper-1", file=("silence.wav", one_second_of_silence()))
    print(answer.text)


def one_second_of_silence() -> bytes:
    sound = io.BytesIO()
    with wave.open(sound, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(16_000))
    return sound.getvalue()


def messages(client: anthropic.Anthropic) -> None:
    model = next(listed.id for listed in client.models.list() if listed.id.startswith("claude"))
    with client.messages.stream(
        model=model, max_tokens=100, messages=[{"role": "user", "content": "Say hello!"}]
    ) as answer:
        for text in answer.text_stream:
            print(text, end="", flush=True)
    print()


def models(client: openai.OpenAI) -> None:
    print(", ".join(model.id for model in client.models.list()))


def main() -> None:
    try:
        show_all()
    except (openai.APIConnectionError, anthropic.APIConnectionError):
        sys.exit(f"Nothing answers at {URL}. Start the gateway first: make run")


def show_all() -> None:
    with openai.OpenAI(base_url=f"{URL}/v1", api_key=KEY) as client:
        for show in (models, chat, stream, tools, embeddings, responses, transcription):
            print(f"\n--- {show.__name__}")
            show(client)
    with anthropic.Anthropic(base_url=f"{URL}/anthropic", api_key=KEY) as claude:
        print("\n--- messages (Anthropic)")
        messages(claude)


if __name__ == "__main__":
    main()
