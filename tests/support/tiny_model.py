"""A sentence-transformers model of a few numbers, as its folder, and what it must say, in plain Python."""

import json
import math
import random
import struct
from collections.abc import Sequence
from pathlib import Path

WORDS = ("[UNK]", "[CLS]", "[SEP]", "ada", "has", "a", "red", "hat", "not")
WIDTH, WIDE, HEADS, LAYERS, LONGEST = 8, 12, 2, 2, 10
Rows = list[list[float]]


class TinyModel:
    """Its weights are drawn with a fixed seed."""

    def __init__(self) -> None:
        dice = random.Random(11)
        self.weights: dict[str, Rows | list[float]] = {}
        shapes: dict[str, tuple[int, ...]] = {
            "embeddings.word_embeddings.weight": (len(WORDS), WIDTH),
            "embeddings.position_embeddings.weight": (LONGEST + 2, WIDTH),
            "embeddings.token_type_embeddings.weight": (2, WIDTH),
            **_pair("embeddings.LayerNorm", WIDTH),
        }
        for number in range(LAYERS):
            layer = f"encoder.layer.{number}."
            for part in ("query", "key", "value"):
                shapes |= _pair(f"{layer}attention.self.{part}", WIDTH, WIDTH)
            shapes |= _pair(layer + "attention.output.dense", WIDTH, WIDTH)
            shapes |= _pair(layer + "attention.output.LayerNorm", WIDTH)
            shapes |= _pair(layer + "intermediate.dense", WIDE, WIDTH) | _pair(layer + "output.dense", WIDTH, WIDE)
            shapes |= _pair(layer + "output.LayerNorm", WIDTH)
        for name, shape in shapes.items():
            self.weights[name] = _drawn(dice, shape)

    def vector(self, text: str) -> list[float]:
        """The mean of the last layer, of length one: all in loops."""
        ids = [1, *(WORDS.index(word) if word in WORDS else 0 for word in text.split()), 2]
        rows = [
            [
                a + b + c
                for a, b, c in zip(
                    self._row("word", one), self._row("position", at), self._row("token_type", 0), strict=True
                )
            ]
            for at, one in enumerate(ids)
        ]
        rows = self._norm(rows, "embeddings.LayerNorm")
        for number in range(LAYERS):
            rows = self._layer(rows, f"encoder.layer.{number}.")
        mean = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
        length = math.sqrt(sum(one * one for one in mean))
        return [one / length for one in mean]

    def _row(self, kind: str, at: int) -> list[float]:
        row = self.weights[f"embeddings.{kind}_embeddings.weight"][at]
        assert isinstance(row, list)
        return row

    def _layer(self, rows: Rows, name: str) -> Rows:
        queries, keys, values = (
            self._dense(rows, f"{name}attention.self.{part}") for part in ("query", "key", "value")
        )
        size = WIDTH // HEADS
        seen: Rows = [[] for _ in rows]
        for head in range(0, WIDTH, size):
            part = slice(head, head + size)
            for at, query in enumerate(queries):
                powers = [math.exp(_inner(query[part], key[part]) / math.sqrt(size)) for key in keys]
                shares = [power / sum(powers) for power in powers]
                seen[at] += [_inner(shares, column) for column in zip(*(value[part] for value in values), strict=True)]
        rows = self._norm(
            _sum(rows, self._dense(seen, name + "attention.output.dense")), name + "attention.output.LayerNorm"
        )
        wide = [
            [x * (1 + math.erf(x / math.sqrt(2))) / 2 for x in row]
            for row in self._dense(rows, name + "intermediate.dense")
        ]
        return self._norm(_sum(rows, self._dense(wide, name + "output.dense")), name + "output.LayerNorm")

    def _dense(self, rows: Rows, name: str) -> Rows:
        weight, bias = self.weights[name + ".weight"], self.weights[name + ".bias"]
        return [[_inner(row, line) + add for line, add in zip(weight, bias, strict=True)] for row in rows]  # type: ignore[arg-type, operator]

    def _norm(self, rows: Rows, name: str) -> Rows:
        weight, bias = self.weights[name + ".weight"], self.weights[name + ".bias"]
        done = []
        for row in rows:
            mean = sum(row) / len(row)
            deviation = math.sqrt(sum((x - mean) ** 2 for x in row) / len(row) + 1e-12)
            done.append([(x - mean) / deviation * w + b for x, w, b in zip(row, weight, bias, strict=True)])  # type: ignore[operator]
        return done

    def save(self, folder: Path) -> str:
        """Write the folder as sentence-transformers does."""
        (folder / "1_Pooling").mkdir(parents=True)
        files = {
            "config.json": {
                "model_type": "bert",
                "hidden_act": "gelu",
                "num_attention_heads": HEADS,
                "num_hidden_layers": LAYERS,
                "layer_norm_eps": 1e-12,
                "max_position_embeddings": LONGEST + 2,
            },
            "1_Pooling/config.json": {"word_embedding_dimension": WIDTH, "pooling_mode_mean_tokens": True},
            "sentence_bert_config.json": {"max_seq_length": LONGEST},
            "tokenizer.json": _tokenizer(),
        }
        for name, content in files.items():
            (folder / name).write_text(json.dumps(content))
        (folder / "model.safetensors").write_bytes(self._safetensors())
        return str(folder)

    def _safetensors(self) -> bytes:
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        content = b""
        for name, rows in self.weights.items():
            flat = [x for row in rows for x in (row if isinstance(row, list) else [row])]
            shape = [len(rows), len(rows[0])] if isinstance(rows[0], list) else [len(rows)]
            packed = struct.pack(f"<{len(flat)}f", *flat)
            header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(content), len(content) + len(packed)]}
            content += packed
        told = json.dumps(header).encode()
        return struct.pack("<Q", len(told)) + told + content


def _pair(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
    return {name + ".weight": shape, name + ".bias": shape[:1]}


def _drawn(dice: random.Random, shape: Sequence[int]) -> Rows | list[float]:
    if len(shape) == 1:
        return [dice.uniform(-1, 1) for _ in range(shape[0])]
    return [[dice.uniform(-1, 1) for _ in range(shape[1])] for _ in range(shape[0])]


def _inner(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def _sum(one: Rows, other: Rows) -> Rows:
    return [[a + b for a, b in zip(row, more, strict=True)] for row, more in zip(one, other, strict=True)]


def _tokenizer() -> dict[str, object]:
    """Words between blanks, padded and truncated as files of sentence-transformers ask for."""
    special = [{"id": at, "content": WORDS[at], "special": True} for at in range(3)]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    ends = [{"SpecialToken": {"id": WORDS[at], "type_id": 0}} for at in (1, 2)]
    return {
        "version": "1.0",
        "truncation": {"max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
        "padding": {
            "strategy": {"Fixed": 6},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "[UNK]",
        },
        "added_tokens": [one | flags for one in special],
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [ends[0], {"Sequence": {"id": "A", "type_id": 0}}, ends[1]],
            "pair": [
                ends[0],
                {"Sequence": {"id": "A", "type_id": 0}},
                ends[1],
                {"Sequence": {"id": "B", "type_id": 1}},
            ],
            "special_tokens": {WORDS[at]: {"id": WORDS[at], "ids": [at], "tokens": [WORDS[at]]} for at in (1, 2)},
        },
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": {word: at for at, word in enumerate(WORDS)}, "unk_token": "[UNK]"},
    }
