"""The program that holds a model of sentences: `python -m extproc.semantic.model FOLDER`. `semantic.local` asks it.

Both speak in lines of JSON. It says `{}` once the model is loaded. To `{"text": ...}` it answers `{"vector": ...}`, the
base64 of little-endian float32 numbers. Whatever fails is `{"error": ...}`, which never quotes a text.

The model is a BERT as sentence-transformers saves it, of float32 numbers in the safetensors format, whose vector is the
mean over all tokens. It runs on numpy: 90 MB, which all processes on a machine share, where PyTorch is a gigabyte.
"""

import base64
import importlib
import json
import mmap
import sys
from pathlib import Path
from typing import Any

from extproc.program import Answer, ModelUnusable, serve

_ERF = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)
"""Abramowitz and Stegun 7.1.26: 1.5e-7 off at most, which is as much as float32 can tell."""
_REMEDY = "It has to be the folder of a sentence-transformers model with config.json in it"


class TooLong(Exception):
    """The text has more tokens than the model was made for."""


class Model:
    """A BERT whose vector is the mean of all tokens. `Any`: numpy and tokenizers are extras, imported here alone."""

    def __init__(self, np: Any, tokenizer: Any, weights: dict[str, Any], config: dict[str, Any], longest: int) -> None:
        self._np = np
        self._tokenizer = tokenizer
        self._weights = weights
        self._heads: int = config["num_attention_heads"]
        self._layers: int = config["num_hidden_layers"]
        self._epsilon: float = config["layer_norm_eps"]
        self._longest = longest

    def vector(self, text: str) -> Any:
        """An array of unit length. Raises TooLong."""
        ids = self._tokenizer.encode(text).ids
        if len(ids) > self._longest:
            raise TooLong
        mean = self._hidden(ids).mean(axis=0)
        return mean / self._np.sqrt((mean * mean).sum())

    def answer(self, text: str) -> dict[str, str]:
        """What is said to a text."""
        try:
            return {"vector": base64.b64encode(self.vector(text).astype("<f4").tobytes()).decode()}
        except TooLong:
            return {"error": "too long"}
        except Exception as error:
            return {"error": f"the model failed: {type(error).__name__}"}

    def _hidden(self, ids: list[int]) -> Any:
        """The last layer: a row for each token."""
        named = self._weights
        rows = (
            named["embeddings.word_embeddings.weight"][ids]
            + named["embeddings.position_embeddings.weight"][: len(ids)]
            + named["embeddings.token_type_embeddings.weight"][0]
        )
        rows = self._norm(rows, "embeddings.LayerNorm")
        for number in range(self._layers):
            rows = self._layer(rows, f"encoder.layer.{number}.")
        return rows

    def _layer(self, rows: Any, name: str) -> Any:
        seen = self._dense(self._attention(rows, name + "attention.self."), name + "attention.output.dense")
        rows = self._norm(rows + seen, name + "attention.output.LayerNorm")
        wide = self._gelu(self._dense(rows, name + "intermediate.dense"))
        return self._norm(rows + self._dense(wide, name + "output.dense"), name + "output.LayerNorm")

    def _attention(self, rows: Any, name: str) -> Any:
        np = self._np
        count, width = rows.shape
        queries, keys, values = (
            self._dense(rows, name + part).reshape(count, self._heads, -1).swapaxes(0, 1)
            for part in ("query", "key", "value")
        )
        scores = queries @ keys.swapaxes(1, 2) / np.float32((width // self._heads) ** 0.5)
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        shares /= shares.sum(axis=-1, keepdims=True)
        return (shares @ values).swapaxes(0, 1).reshape(count, width)

    def _dense(self, rows: Any, name: str) -> Any:
        return rows @ self._weights[name + ".weight"].T + self._weights[name + ".bias"]

    def _norm(self, rows: Any, name: str) -> Any:
        centred = rows - rows.mean(axis=-1, keepdims=True)
        deviation = self._np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + self._np.float32(self._epsilon))
        return centred / deviation * self._weights[name + ".weight"] + self._weights[name + ".bias"]

    def _gelu(self, rows: Any) -> Any:
        np = self._np
        distance = np.abs(rows) * np.float32(0.5**0.5)
        step = 1 / (1 + np.float32(0.3275911) * distance)
        power = np.float32(0)
        for factor in reversed(_ERF):
            power = (power + np.float32(factor)) * step
        error = 1 - power * np.exp(-distance * distance)
        return rows * (1 + np.copysign(error, rows)) / 2


# ---- files ----


def load(folder: str) -> Model:
    """The model in a folder. Raises ModelUnusable."""
    if not (Path(folder) / "config.json").is_file():
        raise ModelUnusable(f"there is no model {folder!r}. {_REMEDY}")
    try:
        np, tokenizers = importlib.import_module("numpy"), importlib.import_module("tokenizers")
    except ImportError as error:
        raise ModelUnusable(f"{error.name} is not installed: it comes with the extra `semantic`") from None
    try:
        return _read(np, tokenizers, Path(folder))
    except ModelUnusable:
        raise
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        raise ModelUnusable(f"the model {folder!r} cannot be loaded: {why}. {_REMEDY}") from error


def _read(np: Any, tokenizers: Any, folder: Path) -> Model:
    config = _json(folder / "config.json")
    kind = (config["model_type"], config["hidden_act"], config.get("position_embedding_type", "absolute"))
    if kind != ("bert", "gelu", "absolute"):
        raise ModelUnusable(f"the model {str(folder)!r} is of another kind: {', '.join(kind)} and not bert")
    pooling = {name for name, is_on in _json(folder / "1_Pooling/config.json").items() if is_on is True}
    if "pooling_mode_mean_tokens" not in pooling or any(
        name.startswith("pooling_mode_") for name in pooling - {"pooling_mode_mean_tokens"}
    ):
        raise ModelUnusable(f"the vectors of the model {str(folder)!r} are not the mean of its tokens")
    longest = min(_json(folder / "sentence_bert_config.json")["max_seq_length"], config["max_position_embeddings"])
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    model = Model(np, tokenizer, weights(np, folder / "model.safetensors"), config, longest)
    model.vector("Hello.")  # what is missing, or of another size, comes out here
    return model


def _json(path: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(path.read_bytes())
    return read


def weights(np: Any, path: Path) -> dict[str, Any]:
    """The float32 arrays of a safetensors file by name: 8 bytes of length, JSON of that length, numbers."""
    with path.open("rb") as file:
        content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    begin = 8 + int.from_bytes(content[:8], "little")
    arrays = {}
    for name, told in json.loads(bytes(content[8:begin])).items():
        if told.get("dtype") == "F32":
            start, end = told["data_offsets"]
            arrays[name] = np.frombuffer(content[begin + start : begin + end], "<f4").reshape(told["shape"])
    return arrays


# ---- the process ----


def main() -> None:
    def load_named() -> Answer:
        model = load(sys.argv[1])
        return lambda question: model.answer(question["text"])

    serve(load_named)


if __name__ == "__main__":
    main()
