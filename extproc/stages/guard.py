"""What may leave: the seam where redaction and guardrails stand. None is configured yet, so all text passes."""

from extproc.model import CleanPrompt, Prompt


def clean(prompt: Prompt) -> CleanPrompt:
    """The prompt as it may be sent to a provider."""
    return CleanPrompt(prompt)
