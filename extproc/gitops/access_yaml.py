"""A team's request in the older form `access.yaml`, turned into a team file.

team: {name: search, owner: anna@example.com}
models:
  foundry: [{name: gpt-4o, tokensPerMinute: 50000}]
  kaito: [{name: phi-4, tokensPerMinute: 20000}]
"""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from extproc.config.fields import ModelName, Name, Strict
from extproc.config.limits import Amount
from extproc.config.problems import Place
from extproc.config.shape import Shape
from extproc.config.teams import User
from extproc.config.tree import Tree


class AccessTeam(Strict):
    """Who asks."""

    name: Name
    owner: User


class AccessModel(Strict):
    """A model that is asked for, and how much of it."""

    name: ModelName
    tokens_per_minute: Amount | None = Field(default=None, alias="tokensPerMinute")


class AccessModels(Strict):
    """The models by where they run: managed, or on a cluster of one's own."""

    foundry: tuple[AccessModel, ...] = ()
    kaito: tuple[AccessModel, ...] = ()

    @model_validator(mode="after")
    def _once_each(self) -> Self:
        names = [model.name for model in self.all()]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"{name} is given twice")
        return self

    def all(self) -> tuple[AccessModel, ...]:
        return self.foundry + self.kaito


class AccessFile(Strict):
    """The whole file."""

    team: AccessTeam
    models: AccessModels = AccessModels()


@dataclass(frozen=True, slots=True)
class Imported:
    """A team file to be."""

    team: str
    text: str


def imported(path: Path, area: str) -> Imported:
    """Raises ConfigError with every problem of the file, which is read as strictly as a team file."""
    tree = Tree(Shape(AccessFile), Place(str(path)), environ=None)
    tree.read(path)
    access = tree.validated(AccessFile)
    models = CommentedSeq(_granted(model) for model in access.models.all())
    file = CommentedMap(area=area, owner=access.team.owner, models=models)
    file.yaml_set_start_comment(f"Made from {path.name} by `sluice teams import`.")
    text = io.StringIO()
    YAML().dump(file, text)
    return Imported(access.team.name, text.getvalue())


def _granted(model: AccessModel) -> CommentedMap:
    granted = CommentedMap(model.model_dump(by_alias=True, exclude_none=True))
    granted.fa.set_flow_style()
    return granted
