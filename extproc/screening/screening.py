"""Screening of calls: their texts are handed to what finds something in them, and the findings to the policies."""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import ParamSpec, TypeVar

import orjson

from extproc.call import Inspection, Rules
from extproc.dialects import json_spans
from extproc.guardrails import moderation
from extproc.guardrails.gate import Gate
from extproc.guardrails.injection import heuristics
from extproc.guardrails.moderation import MOST_REQUESTS, Request
from extproc.guardrails.policy import Guardrails, Moderation
from extproc.guardrails.verdict import Verdict
from extproc.model import CleanPrompt, Prompt
from extproc.redaction.positions import Position
from extproc.redaction.profile import DetectionFailed, Profile, UnreadableAnswer
from extproc.screening.detection import SHORT, Detection, Finder, Findings, Model, Services
from extproc.screening.services import ServiceFailed
from extproc.stages import guard, judge

P = ParamSpec("P")
T = TypeVar("T")


class Screening:
    """Shared by all calls of a worker."""

    def __init__(self, detection: Detection, services: Services) -> None:
        self._detection = detection
        self._services = services

    async def open(self) -> None:
        """Load what takes long."""
        await self._detection.open()

    async def add(self, models: Mapping[str, Model]) -> None:
        """Load the models that a next configuration needs beside these."""
        await self._detection.add(models)

    async def keep(self, models: Collection[str]) -> None:
        """End the processes of all models but these."""
        await self._detection.keep(models)

    async def close(self) -> None:
        """End the processes of models, and close what leads to services."""
        await self._detection.close()
        self._services.close()

    async def run(self, size: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do work on so many bytes of text, beside the event loop where they are many. Raises DetectionFailed."""
        return await self._detection.run(size, work, *args, **kwargs)

    async def clean(self, prompt: Prompt, rules: Rules, seen: Inspection) -> CleanPrompt:
        """The prompt as it may be sent. What was found is noted in `seen`. Raises Refused."""
        run, size = self._detection.run, len(prompt.body)
        profile = rules.redaction
        if size <= SHORT and rules.guardrails is None and profile is not None and profile.policy.names is None:
            return self._redacted(prompt, profile, rules, seen)
        clean, asked = CleanPrompt(prompt), judge.moderation_of(rules)
        judge.judge(await run(size, judge.structured, prompt, rules), seen)
        try:
            texts = await run(size, guard.read, prompt, rules)
        except DetectionFailed as failed:
            guard.not_redacted(failed, rules, seen)
            judge.unjudged(failed, rules, seen)
            if asked is not None:
                judge.unmoderated(failed, asked, seen)
            return clean
        said = guard.said(texts)
        try:
            values = await self._values(rules.redaction, texts, seen)
            clean, said = await run(size, guard.redact, prompt, texts, values, rules, seen)
        except DetectionFailed as failed:
            guard.not_redacted(failed, rules, seen)
        try:
            judge.judge(await self._verdicts(rules.guardrails, prompt, texts), seen)
        except DetectionFailed as failed:
            judge.unjudged(failed, rules, seen)
        if asked is None:
            return clean
        try:
            return await run(size, judge.asking, clean, texts, said, asked, MOST_REQUESTS - seen.asked)
        except DetectionFailed as failed:
            judge.unmoderated(failed, asked, seen)
            return clean

    def _redacted(self, prompt: Prompt, profile: Profile, rules: Rules, seen: Inspection) -> CleanPrompt:
        """The same for a short request in which only patterns look for values. Raises Refused."""
        try:
            plain = guard.plain_texts(prompt, rules)
            if plain is not None and guard.holds_nothing(plain, self._detection.at_once(profile.input, plain)):
                return CleanPrompt(prompt)
            texts = guard.read(prompt, rules)
            values = self._detection.at_once(profile.input, [position.text for position in texts])
            return guard.redact(prompt, texts, values, rules, seen)[0]
        except DetectionFailed as failed:
            guard.not_redacted(failed, rules, seen)
            return CleanPrompt(prompt)

    async def moderate(self, questions: Sequence[Request], rules: Rules, seen: Inspection) -> None:
        """Ask the service that judges texts. Raises Refused."""
        asked = rules.guardrails.moderation if rules.guardrails else None
        if asked is None:
            return
        try:
            await self._ask(asked, questions, seen)
        except DetectionFailed as failed:
            judge.unmoderated(failed, asked, seen)

    async def hear(self, gate: Gate, seen: Inspection) -> None:
        """Have judged what an answer said since the last time. Raises Refused."""
        try:
            await self._ask(gate.asked, gate.questions(), seen)
        except DetectionFailed as failed:
            judge.unmoderated(UnreadableAnswer(str(failed)), gate.asked, seen)

    async def _ask(self, asked: Moderation, questions: Sequence[Request], seen: Inspection) -> None:
        """Ask, and heed what is said. Raises DetectionFailed or Refused."""
        if questions:
            seen.asked += len(questions)
            seen.aside += asked.price * len(questions)
            judge.judge(await self._judged(asked, questions), seen)

    async def clean_text(self, text: str, rules: Rules, seen: Inspection) -> str:
        """A text of a form as it may be sent, looked through as if it were a request of its own. Raises Refused."""
        body = orjson.dumps({"prompt": text})
        clean = await self.clean(Prompt(body, None, None), rules, seen)
        await self.moderate(clean.questions, rules, seen)
        said: str = orjson.loads(json_spans.splice(body, list(clean.edits)))["prompt"]
        return said

    async def _values(self, profile: Profile | None, texts: Sequence[Position], seen: Inspection) -> Sequence[Findings]:
        """What is personal or secret in each of the texts. Raises DetectionFailed or Refused."""
        if profile is None:
            return ()
        said = [position.text for position in texts]
        values = await self._looked(profile.input, said)
        tier = profile.policy.names
        if tier is None:
            return values
        try:
            names = await self._detection.names(tier, said)
        except DetectionFailed as failed:  # what patterns found holds all the same
            guard.failed(failed, "names", profile.policy.on_error, profile.policy.mode, seen)
            return values
        return guard.with_names(texts, values, names, profile)

    async def _verdicts(
        self, guardrails: Guardrails | None, prompt: Prompt, texts: Sequence[Position]
    ) -> Sequence[Verdict]:
        """What the guardrails say that need nobody else. Raises DetectionFailed."""
        if guardrails is None:
            return ()
        said = guard.said(texts)
        words = await self._looked(guardrails.input_words, said)
        attacks = await self._looked(heuristics() if guardrails.injection else None, said)
        return await self._detection.run(len(prompt.body), judge.verdicts, prompt, texts, words, attacks, guardrails)

    async def _looked(self, finder: Finder | None, texts: Sequence[str]) -> Sequence[Findings]:
        return [()] * len(texts) if finder is None else await self._detection.findings(finder, texts)

    async def _judged(self, asked: Moderation, questions: Sequence[Request]) -> list[Verdict]:
        """What the service answers. Raises DetectionFailed."""
        answers = [self._services.ask(asked.service, one.path, one.body, asked.timeout) for one in questions]
        try:
            return [
                verdict
                for question, answer in zip(questions, await asyncio.gather(*answers), strict=True)
                for verdict in moderation.verdicts(asked, question, answer)
            ]
        except (ServiceFailed, ValueError):
            raise DetectionFailed("the service that judges texts gave no answer that can be used") from None
