"""The model that the user asks `randygpt train` for: a new one, or a checkpoint to continue. Reads files."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from randygpt.errors import CallerError, InvalidModelFile
from randygpt.model.config import ModelConfig

if TYPE_CHECKING:
    from pathlib import Path

    from randygpt.checkpoint.origin import Origin
    from randygpt.checkpoint.sidecar import CheckpointInfo, Sidecar
    from randygpt.model.tokenizer import Tokenizer
    from randygpt.training.distributed import World
    from randygpt.training.options import TrainFlags, TrainOptions
    from randygpt.training.text import Text
    from randygpt.training.trainer import Trainer

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRequest:
    """The model that the user asks to train."""

    found: "CheckpointInfo | None"  # checkpoint to resume
    fine_tune: bool
    forked: bool = False  # started from a model of any author (`--from`): with a schedule for that
    base: "Origin | None" = None  # the release that `found` is
    preset: str | None = None
    shape: Mapping[str, int] = field(default_factory=dict)  # overrides the preset
    bpe: int | None = None
    vocab: "Path | None" = None

    @property
    def continued(self) -> "CheckpointInfo | None":
        """Checkpoint of the run to continue; None for a new run."""
        return None if self.fine_tune else self.found

    @property
    def resumed(self) -> "Sidecar | None":
        """Sidecar of the run to continue; None for a new run."""
        return self.continued.sidecar if self.continued else None

    def resolve_options(self, flags: "TrainFlags", **others: Any) -> "TrainOptions":  # noqa: ANN401 (fields of TrainOptions)
        """Return the options of the run: flags override the resumed run, which overrides the recipe."""
        from randygpt.training.device import fastest_precision
        from randygpt.training.options import resolve_options
        from randygpt.training.recipe import CLASSIC, FAST

        return resolve_options(
            flags,
            resumed=self.resumed,
            recipe=CLASSIC if self.continued else FAST,
            forked=self.forked,
            preset=self.found.config.preset if self.found else self.preset,
            precision=fastest_precision(others["device"]),
            **others,
        )

    def trainer(self, options: "TrainOptions", text: "Text", world: "World", warn: Say, stage: Say) -> "Trainer":
        """Return the trainer of the run, with the text tokenized.

        Args:
            options: The options of the run.
            text: The training text.
            world: The processes of the run.
            warn: Receives messages for the user.
            stage: Receives what is being done with the text.

        Raises:
            CallerError: The checkpoint, the text or the flags contradict each other.
            InvalidModelFile: A file is invalid, or the shape is impossible.
            OSError: A file cannot be read.
        """
        from randygpt.training.options import describe_changes

        prefix = os.fsencode(options.prefix.name).decode(errors="replace")  # a file name may not be text
        common = {"name": "" if prefix == "checkpoint" else prefix, "world": world, "warn": warn}
        if not self.found:
            return self._start(options, text, common, stage)
        trainer = self._resume(self.found, options, text, common, stage)
        if self.resumed and (changes := describe_changes(options, self.resumed)):
            warn(changes)
        return trainer

    def _start(self, options: "TrainOptions", text: "Text", common: Mapping[str, Any], stage: Say) -> "Trainer":
        from randygpt.training.recipe import RECIPES
        from randygpt.training.trainer import Trainer

        tokenizer = self._tokenizer(text, common["warn"], stage)
        stage(f"reading {text.source}")

        def config(vocab_size: int) -> ModelConfig:
            preset = self.preset or RECIPES[options.recipe].preset
            return ModelConfig.from_preset(preset, vocab_size=vocab_size, **self.shape)

        return Trainer.start(options, text, config, tokenizer=tokenizer, **common)

    def _tokenizer(self, text: "Text", warn: Say, stage: Say) -> "Tokenizer | None":
        """Return the tokenizer that the flags ask for; None for characters of the text."""
        from randygpt.checkpoint.sidecar import read_tokenizer
        from randygpt.model.tokenizer import BpeTokenizer

        if self.vocab or not self.bpe:
            return read_tokenizer(self.vocab) if self.vocab else None
        stage(f"learning {self.bpe:,} BPE tokens")
        try:
            return BpeTokenizer.train(text, self.bpe, warn=warn)
        except InvalidModelFile as error:
            raise InvalidModelFile(f"{text.source}: {str(error).removeprefix(f'{text.source}: ')}") from None

    def _resume(
        self, found: "CheckpointInfo", options: "TrainOptions", text: "Text", common: Mapping[str, Any], stage: Say
    ) -> "Trainer":
        from randygpt.training.trainer import Trainer

        stage(f"reading {text.source}")
        trainer = Trainer.resume(options, text, found, fine_tune=self.fine_tune, base=self.base, **common)
        tokenizer = trainer.tokenizer
        if self.bpe and tokenizer.kind != "bpe":
            raise CallerError(f"{found.path} has a character vocabulary; resume it without --bpe")
        if self.bpe and self.bpe != tokenizer.vocab_size:
            common["warn"](f"--bpe {self.bpe} ignored: {found.path} has a vocabulary of {tokenizer.vocab_size} tokens")
        return trainer
