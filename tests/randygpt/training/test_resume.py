"""Resuming: the result equals that of an uninterrupted run."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.models import SHORT, TEXT, TOKENIZER, evaluate_every, write_tiny

from randygpt.checkpoint.header import CheckpointHeader
from randygpt.checkpoint.rgpt import Checkpoint, read_checkpoint, write_checkpoint
from randygpt.checkpoint.sidecar import inspect_checkpoint, read_sidecar
from randygpt.errors import CallerError, InvalidModelFile, RandyGPTError
from randygpt.model.config import ModelConfig
from randygpt.model.gpt import GPT
from randygpt.training.checkpointing import Step
from randygpt.training.options import TrainOptions
from randygpt.training.trainer import Trainer

FILES = ("m.bin", "m.json", "m_best.bin", "m_best.json")


def options(folder: Path, iterations: int = 20) -> TrainOptions:
    folder.mkdir(exist_ok=True)
    return TrainOptions(iterations=iterations, batch_size=2, seed=1, max_lr=3e-3, prefix=folder / "m")


def carry_out(trainer: Trainer, *, stop_after: int | None = None) -> list[Step]:
    steps: list[Step] = []
    assert trainer.run(steps.append, lambda: len(steps) == stop_after) == (len(steps) != stop_after)
    return steps


def start(asked: TrainOptions, *, stop_after: int | None = None) -> list[Step]:
    return carry_out(Trainer.start(asked, TEXT, lambda _: SHORT, name="story"), stop_after=stop_after)


def resume(asked: TrainOptions, *, stop_after: int | None = None, text: str = TEXT) -> list[Step]:
    return carry_out(Trainer.resume(asked, text, inspect_checkpoint(asked.latest)), stop_after=stop_after)


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


def iterations(folder: Path) -> list[int]:
    return [json.loads(line)["iter"] for line in (folder / "m.metrics.jsonl").read_bytes().splitlines()]


def claim_best(path: Path, loss: float) -> None:
    """Set the best loss in a checkpoint's header."""
    data = path.read_bytes()
    path.write_bytes(replace(CheckpointHeader.parse(data), best_loss=loss).encode() + data[24:])


def change_json(path: Path, **changes: Any) -> None:  # noqa: ANN401 (JSON)
    path.write_text(json.dumps(json.loads(path.read_bytes()) | changes), encoding="utf-8")


@pytest.mark.parametrize("eval_every", [25, 4])
def test_resumed_run_equals_uninterrupted_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, eval_every: int) -> None:
    evaluate_every(monkeypatch, eval_every)
    start(options(tmp_path / "unbroken"))
    start(options(tmp_path / "broken"), stop_after=10)
    steps = resume(options(tmp_path / "broken"))
    assert [step.iteration for step in steps] == list(range(10, 20))
    assert contents(tmp_path / "broken") == contents(tmp_path / "unbroken")
    assert iterations(tmp_path / "broken") == list(range(20))


def test_many_resumes_equal_uninterrupted_run(tmp_path: Path) -> None:
    start(options(tmp_path / "unbroken", 8))
    start(options(tmp_path / "broken", 8), stop_after=1)
    for stop_after in (1, 3, 2):
        resume(options(tmp_path / "broken", 8), stop_after=stop_after)
    resume(options(tmp_path / "broken", 8))
    assert contents(tmp_path / "broken") == contents(tmp_path / "unbroken")


def test_last_losses_survive_a_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate_every(monkeypatch, 4)
    start(options(tmp_path / "unbroken"), stop_after=7)
    start(options(tmp_path / "broken"), stop_after=6)
    resume(options(tmp_path / "broken"), stop_after=1)
    assert contents(tmp_path / "broken") == contents(tmp_path / "unbroken")


def test_best_loss_survives_a_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate_every(monkeypatch, 2)
    start(options(tmp_path), stop_after=4)
    claim_best(tmp_path / "m.bin", 0.5)
    change_json(tmp_path / "m.json", training={"plateau_waited": 3, "plateau_cuts": 0})
    best = (tmp_path / "m_best.bin").read_bytes()
    trainer = Trainer.resume(options(tmp_path), TEXT, inspect_checkpoint(tmp_path / "m.bin"))
    assert trainer.best_loss == 0.5
    carry_out(trainer)
    assert (tmp_path / "m_best.bin").read_bytes() == best
    sidecar = read_sidecar(tmp_path / "m.bin")
    assert sidecar is not None
    assert (sidecar.training["plateau_waited"], sidecar.training["plateau_cuts"]) == (11, 0)
    assert sidecar.losses["best_val"] == 0.5


def test_failure_of_the_last_write_is_raised(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    start(options(folder), stop_after=4)
    trainer = Trainer.resume(options(folder), TEXT, inspect_checkpoint(folder / "m.bin"))

    def lose_the_folder_and_stop() -> bool:
        shutil.rmtree(folder)
        return True

    with pytest.raises(FileNotFoundError):
        trainer.run(lambda _: None, lose_the_folder_and_stop)


def test_diverged_run_leaves_readable_checkpoints(tmp_path: Path) -> None:
    start(options(tmp_path), stop_after=3)
    absurd = replace(options(tmp_path), max_lr=1e6, min_lr=1e6)
    signs: list[object] = []  # proof that it diverged
    trainer = Trainer.resume(absurd, TEXT, inspect_checkpoint(absurd.latest))
    try:
        trainer.run(lambda step: signs.append(step.loss) if not math.isfinite(step.loss) else None, lambda: False)
    except RandyGPTError as error:
        signs.append(error)
    assert signs
    for path in (absurd.latest, absurd.best):
        assert read_checkpoint(path, SHORT).header.iteration < 20


def test_plateau_cuts_survive_a_resume(tmp_path: Path) -> None:
    first = start(options(tmp_path), stop_after=4)
    change_json(tmp_path / "m.json", training={"plateau_waited": 0, "plateau_cuts": 2})
    steps = resume(options(tmp_path), stop_after=1)
    assert steps[0].lr == first[0].lr / 4


def test_plateau_ends_the_run_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start(options(tmp_path), stop_after=4)
    claim_best(tmp_path / "m.bin", 0.5)
    change_json(tmp_path / "m.json", training={"plateau_waited": 28, "plateau_cuts": 3})
    evaluate_every(monkeypatch, 1)
    steps = resume(options(tmp_path))
    assert [step.iteration for step in steps] == [4, 5]
    assert inspect_checkpoint(tmp_path / "m.bin").header.iteration == 5


def test_sidecar_of_another_state_is_ignored(tmp_path: Path) -> None:
    first = start(options(tmp_path), stop_after=4)
    change_json(tmp_path / "m.json", iteration=9, training={"plateau_waited": 0, "plateau_cuts": 2})
    steps = resume(options(tmp_path), stop_after=1)
    assert (steps[0].iteration, steps[0].lr) == (4, first[0].lr)


@pytest.mark.parametrize("name", ["plateau_waited", "plateau_cuts"])
@pytest.mark.parametrize("value", [None, -1, 1.5, "x", [], True])
def test_invalid_counters_are_an_invalid_file(tmp_path: Path, name: str, value: object) -> None:
    start(options(tmp_path), stop_after=1)
    change_json(tmp_path / "m.json", training={name: value})
    with pytest.raises(InvalidModelFile, match=f"{name} is out of range"):
        Trainer.resume(options(tmp_path), TEXT, inspect_checkpoint(tmp_path / "m.bin"))


def test_resume_without_sidecar(tmp_path: Path) -> None:
    start(options(tmp_path / "unbroken"))
    start(options(tmp_path / "broken"), stop_after=10)
    (tmp_path / "broken" / "m.json").unlink()
    raw_config = json.dumps(SHORT.to_json("char"))
    (tmp_path / "broken" / "config.json").write_text(raw_config, encoding="utf-8")
    resume(options(tmp_path / "broken"))
    assert contents(tmp_path / "broken")["m.bin"] == contents(tmp_path / "unbroken")["m.bin"]


def test_preset_checkpoint_resumes_alone(tmp_path: Path) -> None:
    config = ModelConfig.from_preset("xs", vocab_size=TOKENIZER.vocab_size)
    header = CheckpointHeader(magic="RGPT0002", vocab_size=config.vocab_size, iteration=29, step=30, best_loss=1.5)
    weights = GPT.initialize(config, seed=3).flat.numpy()
    write_checkpoint(
        tmp_path / "m.bin", Checkpoint(header=header, config=config, weights=weights, optimizer_state=None)
    )
    trainer = Trainer.resume(options(tmp_path, 40), TEXT, inspect_checkpoint(tmp_path / "m.bin"))
    assert (trainer.next_iteration, trainer.best_loss, trainer.model.config) == (30, 1.5, config)
    carry_out(trainer, stop_after=1)
    assert inspect_checkpoint(tmp_path / "m.bin").header.iteration == 30


def test_weights_only_checkpoint_resumes_twice(tmp_path: Path) -> None:
    for folder in ("unbroken", "broken"):
        asked = options(tmp_path / folder, 10)
        write_tiny(asked.latest, with_optimizer=False)
        resume(asked, stop_after=4 if folder == "broken" else None)
    resume(options(tmp_path / "broken", 10))
    assert contents(tmp_path / "broken")["m.bin"] == contents(tmp_path / "unbroken")["m.bin"]


def test_resume_without_vocabulary_needs_the_same_characters(tmp_path: Path) -> None:
    start(options(tmp_path), stop_after=1)
    (tmp_path / "m.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(SHORT.to_json("char")), encoding="utf-8")
    with pytest.raises(CallerError, match=r"m\.bin has no vocabulary, and the text needs 32 entries, not 31"):
        resume(options(tmp_path), text=TEXT + "!")


def test_resume_with_vocabulary_allows_another_text(tmp_path: Path) -> None:
    start(options(tmp_path), stop_after=1)
    resume(options(tmp_path), stop_after=1, text=TEXT[::-1] + "!")
    found = inspect_checkpoint(tmp_path / "m.bin")
    assert found.tokenizer is not None
    assert found.tokenizer.vocab == TOKENIZER.chars
    assert found.header.iteration == 1


@pytest.mark.parametrize(
    ("text", "count"), [(TEXT, 0), (TEXT + "!", 1), (TEXT[::-1], 1)], ids=["same", "more", "other"]
)
def test_resume_with_another_text_warns(tmp_path: Path, text: str, count: int) -> None:
    start(options(tmp_path), stop_after=1)
    warnings: list[str] = []
    Trainer.resume(options(tmp_path), text, inspect_checkpoint(tmp_path / "m.bin"), warn=warnings.append)
    assert [each for each in warnings if "vocabulary" not in each] == [
        f"{tmp_path / 'm.bin'} was trained on another text"
    ] * count


def test_resume_without_recorded_text_does_not_warn(tmp_path: Path) -> None:
    start(options(tmp_path), stop_after=1)
    change_json(tmp_path / "m.json", training={"seed": 1})  # as an earlier version wrote it
    Trainer.resume(options(tmp_path), TEXT[::-1], inspect_checkpoint(tmp_path / "m.bin"), warn=pytest.fail)
    (tmp_path / "m.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(SHORT.to_json("char")), encoding="utf-8")
    Trainer.resume(options(tmp_path), TEXT[::-1], inspect_checkpoint(tmp_path / "m.bin"), warn=pytest.fail)


def test_finished_run_writes_nothing(tmp_path: Path) -> None:
    start(options(tmp_path, 6))

    def facts() -> dict[str, tuple[int, int, bytes]]:
        return {
            path.name: (path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes()) for path in tmp_path.iterdir()
        }

    before = facts()
    assert resume(options(tmp_path, 6)) == []
    assert facts() == before


def test_higher_target_continues_a_finished_run(tmp_path: Path) -> None:
    start(options(tmp_path, 6))
    assert [step.iteration for step in resume(options(tmp_path, 8))] == [6, 7]
    assert iterations(tmp_path) == list(range(8))


def test_resume_under_another_name_writes_both_files(tmp_path: Path) -> None:
    start(options(tmp_path), stop_after=5)
    claim_best(tmp_path / "m.bin", 0.5)
    before = contents(tmp_path)
    other = replace(options(tmp_path), prefix=tmp_path / "other")
    trainer = Trainer.resume(other, TEXT, inspect_checkpoint(tmp_path / "m.bin"))
    carry_out(trainer, stop_after=1)
    assert [inspect_checkpoint(path).header.iteration for path in (other.latest, other.best)] == [5, 5]
    assert trainer.saved_best is not None
    assert trainer.saved_best[0] == 5
    assert contents(tmp_path) == before
    sidecar = read_sidecar(other.latest)
    assert sidecar is not None
    assert sidecar.name == "story"


def test_best_of_an_earlier_run_is_not_taken_for_this_one(tmp_path: Path) -> None:
    start(options(tmp_path))
    start(options(tmp_path, 100), stop_after=2)
    trainer = Trainer.resume(options(tmp_path, 100), TEXT, inspect_checkpoint(tmp_path / "m.bin"))
    assert (trainer.same_run, trainer.saved_best) == (True, None)
    carry_out(trainer, stop_after=10)
    assert trainer.saved_best is not None
    assert inspect_checkpoint(tmp_path / "m_best.bin").header.iteration == 11


@pytest.mark.parametrize("cut", [1, 2, 30], ids=["newline", "brace", "most of it"])
def test_truncated_metrics_line_is_dropped(tmp_path: Path, cut: int) -> None:
    start(options(tmp_path, 8), stop_after=4)
    path = tmp_path / "m.metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    resume(options(tmp_path, 8))
    found = iterations(tmp_path)
    assert found in ([0, 1, 2, 3, 4, 5, 6, 7], [0, 1, 2, 4, 5, 6, 7])


def test_repeated_iterations_have_one_metrics_line(tmp_path: Path) -> None:
    asked = options(tmp_path, 8)
    start(asked, stop_after=3)
    earlier = (tmp_path / "m.bin").read_bytes(), (tmp_path / "m.json").read_bytes()
    resume(asked, stop_after=3)
    (tmp_path / "m.bin").write_bytes(earlier[0])
    (tmp_path / "m.json").write_bytes(earlier[1])
    resume(asked)
    assert iterations(tmp_path) == list(range(8))


@pytest.mark.parametrize("damage", ["wrong size", "not there"])
def test_unreadable_checkpoint_is_refused(tmp_path: Path, damage: str) -> None:
    start(options(tmp_path), stop_after=1)
    path = tmp_path / "m.bin"
    if damage == "wrong size":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        path.unlink()
    with pytest.raises((InvalidModelFile, FileNotFoundError), match=r"m\.bin"):
        resume(options(tmp_path))
